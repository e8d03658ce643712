//! The NBD client against servers nobody here wrote: nbdkit and qemu-nbd.

use crate::support::servers::{Pki, Server, nbdkit, qemu_nbd, quick};
use crate::support::{chain, collect, mixed_disk, pool, program, run, text};
use coffer_disk::nbd::{NbdDisk, NbdOptions, NbdTls, ReadPlan, Rest, Retry};
use coffer_disk::{Error, NbdError};
use coffer_extent::{BlockReader, RangeSet};
use proptest::prelude::*;
use std::time::Duration;

async fn whole(disk: &NbdDisk) -> Vec<u8> {
    let mut source = disk.source(ReadPlan::full(disk.size())).unwrap();
    collect(&mut source, vec![0xaa; usize::try_from(disk.size()).unwrap()]).await.unwrap()
}

async fn refusal(server: &Server, tls: Option<NbdTls>) -> (String, bool) {
    let error = server.disk("", tls).await.unwrap_err();
    (chain(&error), error.is_retryable())
}

#[tokio::test]
async fn nbdkit_serves_a_disk_bit_for_bit() {
    let image = mixed_disk();
    let server = nbdkit(&[], &[], &image, None).await;
    let disk = server.disk("", None).await.unwrap();
    assert_eq!(disk.size(), image.len() as u64);
    assert!(whole(&disk).await == image);
    disk.close().await;
}

#[tokio::test]
async fn a_disk_of_odd_size_is_read_to_its_last_byte() {
    let mut image = mixed_disk();
    image.truncate(5 * 1024 * 1024 + 77);
    image[5 * 1024 * 1024 + 70..].copy_from_slice(b"the end");
    let server = nbdkit(&[], &[], &image, None).await;
    let disk = server.disk("", None).await.unwrap();
    assert!(whole(&disk).await == image);
    assert_eq!(&disk.read_at(image.len() as u64 - 7, 7).await.unwrap()[..], b"the end");
    assert!(disk.read_at(image.len() as u64 - 6, 7).await.is_err());
    assert!(disk.read_at(u64::MAX, 7).await.is_err());
}

#[tokio::test]
async fn tls_to_the_pinned_certificate_works_and_to_no_other() {
    let (image, pki, other) = (mixed_disk(), Pki::new(), Pki::new());
    let server = nbdkit(&["--tls=require", "--tls-certificates={pki}"], &[], &image, Some(&pki)).await;
    let disk = server.disk("", Some(pki.tls())).await.unwrap();
    assert!(whole(&disk).await == image);

    let (reason, retryable) = refusal(&server, Some(other.tls())).await;
    assert!(reason.contains("TLS handshake failed") && !retryable, "{reason}");
    let (reason, retryable) = refusal(&server, None).await;
    assert!(reason.contains("requires TLS") && !retryable, "{reason}");
    let nonsense = NbdTls { certificate_pem: "nothing".into(), server_name: None, client: None };
    let (reason, retryable) = refusal(&server, Some(nonsense)).await;
    assert!(reason.contains("server certificate cannot be used") && !retryable, "{reason}");
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_gets_it() {
    let (image, pki) = (mixed_disk(), Pki::new());
    let options = ["--tls=require", "--tls-certificates={pki}", "--tls-verify-peer"];
    let server = nbdkit(&options, &[], &image, Some(&pki)).await;
    let disk = server.disk("", Some(pki.tls_with_client())).await.unwrap();
    assert!(whole(&disk).await == image);
}

#[tokio::test]
async fn a_server_without_tls_is_refused_when_tls_is_wanted() {
    let server = nbdkit(&["--tls=off"], &[], &mixed_disk(), None).await;
    let (reason, retryable) = refusal(&server, Some(Pki::new().tls())).await;
    assert!(reason.contains("refuses TLS") && !retryable, "{reason}");
}

#[tokio::test]
async fn reads_that_fail_now_and_then_are_repeated() {
    let image = mixed_disk();
    let server = nbdkit(&["--filter=error"], &["error-pread=EIO", "error-pread-rate=20%"], &image, None).await;
    let disk = server.disk("", None).await.unwrap();
    assert!(whole(&disk).await == image);
}

#[tokio::test]
async fn reads_that_always_fail_end_as_an_error_of_the_server() {
    let server = nbdkit(&["--filter=error"], &["error-pread=EIO", "error-pread-rate=100%"], &mixed_disk(), None).await;
    let disk = server.disk("", None).await.unwrap();
    let error = disk.read_at(512, 512).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(matches!(error.downcast_ref(), Some(Error::NbdRead { offset: 512, len: 512, source, .. })
        if matches!(**source, NbdError::Server { errno: 5 })));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for() {
    let server = nbdkit(&["--filter=delay"], &["rdelay=60"], &mixed_disk(), None).await;
    let retry = Retry { attempts: 2, first: Duration::from_millis(1), longest: Duration::from_millis(1) };
    let options = NbdOptions { reply_timeout: Duration::from_millis(50), retry, ..quick() };
    let disk = NbdDisk::connect(vec![server.target("", None)], options, pool()).await.unwrap();
    let error = disk.read_at(0, 4096).await.unwrap_err();
    assert!(chain(&error).contains("waiting for a reply") && error.is_retryable(), "{}", chain(&error));
}

#[tokio::test]
async fn a_slow_server_is_read_with_many_requests_in_flight() {
    let image = mixed_disk();
    let server = nbdkit(&["--filter=delay"], &["rdelay=200ms"], &image, None).await;
    let disk = server.disk("", None).await.unwrap();
    let start = std::time::Instant::now();
    assert!(whole(&disk).await == image);
    // 24 reads one after another would take 4.8 s.
    assert!(start.elapsed() < Duration::from_millis(3000), "{:?}", start.elapsed());
}

#[tokio::test]
async fn qemu_nbd_tells_which_ranges_are_allocated_and_only_those_are_read() {
    let image = mixed_disk();
    let server = qemu_nbd(&image).await;
    let disk = server.disk("disk0", None).await.unwrap();
    assert!(disk.export().structured);
    assert!(whole(&disk).await == image);

    let allocated = disk.allocated().await.unwrap().expect("qemu-nbd has base:allocation");
    let map = RangeSet::full(disk.size()).subtract(&allocated);
    assert!(map.total() > 8 << 20, "{map:?}");
    let plan = ReadPlan::ranges(disk.size(), &allocated, Rest::Zero);
    assert!(plan.bytes_to_read() < 16 << 20);
    let mut source = disk.source(plan).unwrap();
    assert!(collect(&mut source, vec![0xaa; image.len()]).await.unwrap() == image);
}

#[tokio::test]
async fn nbdkit_tells_the_allocation_too() {
    let image = mixed_disk();
    let server = nbdkit(&[], &[], &image, None).await;
    let disk = server.disk("", None).await.unwrap();
    let allocated = disk.allocated().await.unwrap().expect("nbdkit has base:allocation");
    let holes = allocated.complement(disk.size());
    assert!(holes.total() > 8 << 20, "{holes:?}");
    for hole in holes.iter() {
        let (start, end) = (usize::try_from(hole.start).unwrap(), usize::try_from(hole.end).unwrap());
        assert!(coffer_extent::is_zero(&image[start..end]), "{hole:?}");
    }
}

#[tokio::test]
async fn an_unknown_export_is_named_in_the_error_without_its_session() {
    let server = qemu_nbd(&mixed_disk()).await;
    let error = server.disk("disk1?session_id=OpaqueRef:secret", None).await.unwrap_err();
    let reason = chain(&error);
    assert!(reason.contains("no such export") && reason.contains("\"disk1\""), "{reason}");
    assert!(!format!("{reason} {error:?}").contains("secret"));
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_raw_file_written_by_us_equals_what_nbdcopy_writes() {
    let image = mixed_disk();
    let server = nbdkit(&[], &[], &image, None).await;
    let theirs = server.folder.path().join("theirs");
    let uri = format!("nbd://127.0.0.1:{}", server.port);
    let place = theirs.clone();
    let copied = tokio::task::spawn_blocking(move || program("libnbd-bin", "nbdcopy", &[&uri, text(&place)]));
    copied.await.unwrap();

    let ours = server.folder.path().join("ours");
    let disk = server.disk("", None).await.unwrap();
    let mut sink = coffer_disk::file::RawFileSink::create(&ours, disk.size()).await.unwrap();
    crate::support::pump(&mut disk.source(ReadPlan::full(disk.size())).unwrap(), &mut sink).await.unwrap();
    assert!(std::fs::read(&ours).unwrap() == std::fs::read(&theirs).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3))]

    #[test]
    fn any_range_reads_as_it_is(ranges in prop::collection::vec((0usize..24 << 20, 0usize..3 << 20), 20)) {
        run(async {
            let image = mixed_disk();
            let server = nbdkit(&[], &[], &image, None).await;
            let disk = server.disk("", None).await.unwrap();
            for (offset, len) in ranges {
                let len = len.min(image.len() - offset);
                let bytes = disk.read_at(offset as u64, len).await.unwrap();
                assert!(bytes[..] == image[offset..offset + len], "{offset} {len}");
            }
        });
    }
}
