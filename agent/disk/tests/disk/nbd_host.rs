//! The NBD client against the dialect of real hosts, well and badly behaved.

use crate::support::host::{Fault, Host, Setup};
use crate::support::servers::{quick, target};
use crate::support::{MIB, chain, collect, mixed_disk, noise, pool, run};
use coffer_disk::nbd::{NbdDisk, NbdOptions, NbdTarget, ReadPlan, Rest, negotiate, read_replies};
use coffer_disk::{Error, NbdError};
use coffer_extent::{BlockReader, BufferPool, Extent, ExtentSource, RangeSet};
use proptest::prelude::*;
use std::time::Duration;

async fn connect(host: &Host) -> Result<NbdDisk, Error> {
    NbdDisk::connect(vec![host.target()], quick(), pool()).await
}

async fn whole(disk: &NbdDisk) -> Result<Vec<u8>, coffer_extent::ExtentError> {
    let mut source = disk.source(ReadPlan::full(disk.size())).unwrap();
    collect(&mut source, vec![0xaa; usize::try_from(disk.size()).unwrap()]).await
}

fn plain() -> Setup {
    Setup { tls: false, ..Setup::default() }
}

#[tokio::test]
async fn a_host_is_read_over_tls_by_several_connections() {
    let image = noise(1, 48 << 20);
    let host = Host::start(image.clone(), Setup { patience: 2, ..Setup::default() }).await;
    let disk = connect(&host).await.unwrap();
    assert_eq!(disk.allocated().await.unwrap(), None);
    assert!(whole(&disk).await.unwrap() == image);
    assert!((2..=4).contains(&host.opened()), "{}", host.opened());
    disk.close().await;
    tokio::time::timeout(Duration::from_secs(20), host.deserted()).await.expect("every connection ends");
    assert!(host.left() >= 2, "{}", host.left());
}

#[tokio::test]
async fn little_work_takes_one_connection() {
    let host = Host::start(mixed_disk(), plain()).await;
    let disk = connect(&host).await.unwrap();
    let few = RangeSet::from(8 * MIB..11 * MIB);
    let mut source = disk.source(ReadPlan::ranges(disk.size(), &few, Rest::Unchanged)).unwrap();
    collect(&mut source, mixed_disk()).await.unwrap();
    assert_eq!((host.opened(), host.bytes_read()), (1, 3 * MIB));
}

#[tokio::test]
async fn only_what_the_plan_says_is_read() {
    let (before, now) = (noise(7, 24 << 20), mixed_disk());
    let host = Host::start(now.clone(), plain()).await;
    let disk = connect(&host).await.unwrap();
    let changed = RangeSet::from_iter([0..MIB, 5 * MIB..9 * MIB, 23 * MIB..24 * MIB]);
    let allocated = RangeSet::from_iter([0..3 * MIB, 8 * MIB..12 * MIB]);
    let plan = ReadPlan::ranges(disk.size(), &changed, Rest::Unchanged).only_allocated(&allocated);
    let mut expected = before.clone();
    for (range, source) in
        [(0..MIB, Some(&now)), (5 * MIB..8 * MIB, None), (8 * MIB..9 * MIB, Some(&now)), (23 * MIB..24 * MIB, None)]
    {
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        match source {
            Some(source) => expected[range.clone()].copy_from_slice(&source[range]),
            None => expected[range].fill(0),
        }
    }
    assert!(collect(&mut disk.source(plan).unwrap(), before).await.unwrap() == expected);
    assert_eq!(host.bytes_read(), 2 * MIB);
}

#[tokio::test]
async fn a_pool_of_one_buffer_makes_reading_slow_but_never_stuck() {
    let image = mixed_disk();
    let host = Host::start(image.clone(), plain()).await;
    let one = BufferPool::new(1, 1 << 20);
    let disk = NbdDisk::connect(vec![host.target()], quick(), one).await.unwrap();
    let reading = tokio::time::timeout(Duration::from_secs(30), whole(&disk));
    assert!(reading.await.expect("reading goes on").unwrap() == image);
}

#[tokio::test]
async fn two_disks_share_a_pool_smaller_than_either_window() {
    let image = mixed_disk();
    let host = Host::start(image.clone(), plain()).await;
    let two = BufferPool::new(2 << 20, 1 << 20);
    let first = NbdDisk::connect(vec![host.target()], quick(), two.clone()).await.unwrap();
    let second = NbdDisk::connect(vec![host.target()], quick(), two).await.unwrap();
    let both = async { tokio::join!(whole(&first), whole(&second)) };
    let (one, other) = tokio::time::timeout(Duration::from_secs(30), both).await.expect("reading goes on");
    assert!(one.unwrap() == image && other.unwrap() == image);
}

#[tokio::test]
async fn all_buffers_come_back() {
    let host = Host::start(mixed_disk(), plain()).await;
    let pool = pool();
    let disk = NbdDisk::connect(vec![host.target()], quick(), pool.clone()).await.unwrap();
    let mut source = disk.source(ReadPlan::full(disk.size())).unwrap();
    source.next().await.unwrap();
    assert!(pool.available() < pool.buffers());
    drop(source);
    disk.close().await;
    assert_eq!(pool.available(), pool.buffers());
}

#[tokio::test]
async fn a_call_of_next_may_be_dropped_and_repeated() {
    let image = mixed_disk();
    let host = Host::start(image.clone(), plain()).await;
    let disk = connect(&host).await.unwrap();
    let mut source = disk.source(ReadPlan::full(disk.size())).unwrap();
    let mut found = Vec::new();
    loop {
        use futures::FutureExt;
        // Polled once and dropped, over and over.
        let Some(next) = source.next().now_or_never() else {
            tokio::task::yield_now().await;
            continue;
        };
        match next.unwrap() {
            Some(Extent::Data { bytes, .. }) => found.extend_from_slice(&bytes),
            Some(extent) => found.resize(found.len() + usize::try_from(extent.len()).unwrap(), 0),
            None => break,
        }
    }
    assert!(found == image);
}

#[tokio::test]
async fn a_full_host_leaves_the_work_to_the_connections_it_has() {
    let image = noise(3, 48 << 20);
    let host = Host::start(image.clone(), Setup { limit: 1, ..plain() }).await;
    let disk = connect(&host).await.unwrap();
    assert!(whole(&disk).await.unwrap() == image);
    assert_eq!(host.opened(), 1);
}

#[tokio::test]
async fn a_host_at_its_limit_says_so_and_is_worth_another_try() {
    let host = Host::start(mixed_disk(), Setup { limit: 0, ..plain() }).await;
    let error = connect(&host).await.unwrap_err();
    assert!(chain(&error).contains("limit of 16 connections") && error.is_retryable(), "{}", chain(&error));
}

#[tokio::test]
async fn another_address_is_taken_when_one_does_not_work() {
    let image = mixed_disk();
    let full = Host::start(image.clone(), Setup { limit: 0, ..plain() }).await;
    let good = Host::start(image.clone(), plain()).await;
    let disk = NbdDisk::connect(vec![full.target(), good.target()], quick(), pool()).await.unwrap();
    assert!(whole(&disk).await.unwrap() == image);
    let nobody = NbdDisk::connect(Vec::<NbdTarget>::new(), quick(), pool()).await.unwrap_err();
    assert!(chain(&nobody).contains("no address") && !nobody.is_retryable());
}

#[tokio::test]
async fn tls_and_plain_do_not_mix() {
    let secure = Host::start(mixed_disk(), Setup::default()).await;
    let error = NbdDisk::connect(vec![target(secure.port, "/2f1c", None)], quick(), pool()).await.unwrap_err();
    assert!(chain(&error).contains("requires TLS"), "{}", chain(&error));
    let insecure = Host::start(mixed_disk(), plain()).await;
    let tls = secure.target().tls;
    let error = NbdDisk::connect(vec![target(insecure.port, "/2f1c", tls)], quick(), pool()).await.unwrap_err();
    assert!(chain(&error).contains("refuses TLS (reply 0x80000002)"), "{}", chain(&error));
}

#[tokio::test]
async fn a_fault_that_passes_does_no_harm() {
    for (fault, times) in [
        (Fault::CutMidReply, 5),
        (Fault::WrongHandle, 3),
        (Fault::Garbage, 3),
        (Fault::HugeChunk, 3),
        (Fault::NoExport, 2),
        (Fault::OtherProtocol, 2),
    ] {
        let image = mixed_disk();
        let host = Host::start(image.clone(), Setup { fault: Some((fault, times)), ..plain() }).await;
        let disk = connect(&host).await.unwrap_or_else(|error| panic!("{fault:?}: {}", chain(&error)));
        let found = whole(&disk).await.unwrap_or_else(|error| panic!("{fault:?}: {}", chain(&error)));
        assert!(found == image, "{fault:?}");
    }
}

#[tokio::test]
async fn a_fault_that_stays_is_an_error_that_names_it_and_never_the_session() {
    for (fault, reason) in [
        (Fault::CutMidReply, "closed the connection"),
        (Fault::WrongHandle, "a reply to no request"),
        (Fault::Garbage, "without its magic number"),
        (Fault::HugeChunk, "data outside the request"),
        (Fault::NoExport, "session expired, disk unknown or not attachable"),
        (Fault::OtherProtocol, "no NBD greeting"),
    ] {
        let host = Host::start(mixed_disk(), Setup { fault: Some((fault, usize::MAX)), ..Setup::default() }).await;
        let text = match connect(&host).await {
            Err(error) => format!("{} {error:?}", chain(&error)),
            Ok(disk) => {
                let error = whole(&disk).await.unwrap_err();
                assert!(error.is_retryable(), "{fault:?}");
                format!("{} {error:?}", chain(&error))
            }
        };
        assert!(text.contains(reason) && text.contains("/2f1c") && !text.contains("secret"), "{fault:?}: {text}");
    }
}

#[tokio::test]
async fn a_disk_that_changes_its_size_is_not_stitched_together() {
    let image = noise(5, 48 << 20);
    let host = Host::start(image, Setup { fault: Some((Fault::Shrunk, usize::MAX)), ..plain() }).await;
    // One slow reader, so that a second connection is opened in the middle.
    let options = NbdOptions { depth: 1, ..quick() };
    let disk = NbdDisk::connect(vec![host.target()], options, pool()).await.unwrap();
    // The other connections are refused; the first, which saw the true size, does it all.
    assert!(whole(&disk).await.is_ok());
    let plan = ReadPlan::full(disk.size() + 512);
    assert!(matches!(disk.source(plan), Err(Error::NbdOpen { source, .. })
        if matches!(*source, NbdError::SizeChanged { .. })));
}

#[tokio::test]
async fn reads_after_closing_fail_instead_of_waiting() {
    let host = Host::start(mixed_disk(), plain()).await;
    let disk = connect(&host).await.unwrap();
    let other = disk.clone();
    disk.close().await;
    let error = tokio::time::timeout(Duration::from_secs(5), other.read_at(0, 512)).await.unwrap().unwrap_err();
    assert!(chain(&error).contains("disk was closed") && !error.is_retryable());
}

/// What a hostile server sends, and a place for what it is sent.
struct Script(Vec<u8>, usize);

impl tokio::io::AsyncRead for Script {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let from = self.1;
        let len = buffer.remaining().min(self.0.len() - from);
        buffer.put_slice(&self.0[from..from + len]);
        self.1 += len;
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Script {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

fn header(simple: bool, last: bool, kind: u16, handle: u64, len: u32) -> Vec<u8> {
    let mut bytes = if simple { 0x6744_6698u32 } else { 0x668e_33ef }.to_be_bytes().to_vec();
    bytes.extend_from_slice(&u16::from(last).to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&handle.to_be_bytes());
    if !simple {
        bytes.extend_from_slice(&len.to_be_bytes());
    }
    bytes
}

fn replies(script: Vec<u8>) -> Result<Vec<Option<bytes::Bytes>>, NbdError> {
    let pool = BufferPool::new(4096, 1024);
    run(read_replies(Script(script, 0), true, &[(0, 1024), (1 << 40, 512)], &pool))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_greeting_makes_the_client_panic(tail in prop::collection::vec(any::<u8>(), 0..200), good in any::<bool>()) {
        let mut script = if good { b"NBDMAGICIHAVEOPT\x00\x03".to_vec() } else { Vec::new() };
        script.extend(tail);
        let export = coffer_disk::nbd::ExportName::new("disk");
        run(negotiate(&mut Script(script, 0), &export)).unwrap_err();
    }

    #[test]
    fn no_reply_makes_the_client_panic(
        parts in prop::collection::vec(
            (any::<bool>(), any::<bool>(), prop::sample::select(vec![0u16, 1, 2, 5, 0x8001, 0x8002, 9]), 0u64..5, 0u32..40,
             prop::collection::vec(any::<u8>(), 0..40)),
            0..20,
        ),
    ) {
        let script = parts.into_iter().flat_map(|(simple, last, kind, handle, len, payload)| {
            [header(simple, last, kind, handle, len), payload].concat()
        });
        let _any_answer = replies(script.collect());
    }
}

proptest! {
    #[test]
    fn chunks_in_any_order_make_the_content(
        cuts in prop::collection::btree_set(1u64..1024, 0..12),
        order in any::<u64>(),
        holes in any::<u16>(),
    ) {
        let content = noise(order, 1024);
        let borders: Vec<u64> = [0].into_iter().chain(cuts).chain([1024]).collect();
        let mut expected = content.clone();
        let mut chunks = Vec::new();
        for (index, pair) in borders.windows(2).enumerate() {
            let (start, end) = (usize::try_from(pair[0]).unwrap(), usize::try_from(pair[1]).unwrap());
            let (place, len) = (pair[0].to_be_bytes().to_vec(), u32::try_from(end - start).unwrap());
            if holes & 1 << index != 0 {
                expected[start..end].fill(0);
                chunks.push([header(false, false, 2, 1, 12), place, len.to_be_bytes().to_vec()].concat());
            } else {
                chunks.push([header(false, false, 1, 1, len + 8), place, content[start..end].to_vec()].concat());
            }
        }
        chunks.sort_by_key(|chunk| chunk.iter().fold(order, |mix, &byte| mix.rotate_left(7) ^ u64::from(byte)));
        let rest = [header(false, true, 0, 1, 0), header(true, false, 5, 2, 0), header(true, false, 22, 3, 0)].concat();
        let answer = replies([chunks.concat(), rest].concat()).unwrap();
        prop_assert_eq!(answer, [Some(bytes::Bytes::from(expected)), None]);
    }
}

fn any_ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0u64..9000, 1u64..3000), 0..5)
        .prop_map(|ranges| ranges.into_iter().map(|(start, len)| (start, (start + len).min(9001))).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn any_delta_of_any_disk_arrives(
        before in any_ranges(),
        writes in any_ranges(),
        step in 1usize..40,
        buffers in 1usize..5,
        connections in 1usize..4,
        depth in 1usize..5,
        tls in any::<bool>(),
    ) {
        const SIZE: u64 = 9001 * 1024;
        let old = crate::support::disk(SIZE, &before);
        let mut now = old.clone();
        for (seed, &(start, end)) in (50..).zip(&writes) {
            let range = usize::try_from(start * 1024).unwrap()..usize::try_from(end * 1024).unwrap();
            let len = range.len();
            now[range].copy_from_slice(&noise(seed, len));
        }
        let in_bytes = |ranges: &[(u64, u64)]| ranges.iter().map(|&(start, end)| start * 1024..end * 1024).collect::<RangeSet>();
        let (changed, allocated) = (in_bytes(&writes), in_bytes(&before).union(&in_bytes(&writes)));
        run(async {
            let host = Host::start(now.clone(), Setup { tls, ..Setup::default() }).await;
            let pool = BufferPool::new(buffers * step * 65536, step * 65536);
            let options = NbdOptions { connections, depth, ..quick() };
            let disk = NbdDisk::connect(vec![host.target()], options, pool).await.unwrap();
            for (plan, previous) in [
                (ReadPlan::full(SIZE), vec![0xee; old.len()]),
                (ReadPlan::ranges(SIZE, &allocated, Rest::Zero), vec![0xee; old.len()]),
                (ReadPlan::ranges(SIZE, &changed, Rest::Unchanged), old.clone()),
                (ReadPlan::ranges(SIZE, &changed, Rest::Unchanged).only_allocated(&allocated), old.clone()),
            ] {
                let (bytes, before) = (plan.bytes_to_read(), host.bytes_read());
                assert!(collect(&mut disk.source(plan).unwrap(), previous).await.unwrap() == now);
                assert_eq!(host.bytes_read() - before, bytes);
            }
        });
    }
}

#[test]
fn content_must_come_once_and_whole() {
    let data = |offset: u64, len: u32, last| {
        let len_bytes = usize::try_from(len).unwrap();
        [header(false, last, 1, 1, len + 8), offset.to_be_bytes().to_vec(), vec![7; len_bytes]].concat()
    };
    let problem = |script: Vec<u8>| chain(&replies(script).unwrap_err());
    assert!(problem([data(0, 512, false), data(0, 512, true)].concat()).contains("the same data twice"));
    assert!(problem(data(0, 512, true)).contains("a gap"));
    assert!(problem(data(1000, 512, true)).contains("outside the request"));
    assert!(problem(data(u64::MAX, 1, true)).contains("outside the request"));
    assert!(problem(header(false, true, 3, 1, 0)).contains("unknown kind"));
    assert!(problem(header(false, true, 5, 3, 5)).contains("impossible length"));
    // All three requests answered as they should be: no problem.
    let status = [header(false, true, 5, 3, 12), 1u32.to_be_bytes().to_vec(), 9u32.to_be_bytes().to_vec(), vec![0; 4]];
    let refused = [header(true, false, 5, 2, 0)].concat();
    let good = [data(0, 512, false), data(512, 512, true), refused, status.concat()].concat();
    let content = replies(good).unwrap();
    assert_eq!(content, [Some(bytes::Bytes::from(vec![7; 1024])), None]);
}
