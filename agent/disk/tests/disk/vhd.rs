//! VHD streams: as hosts write them, as QEMU writes and reads them, and broken in every way.

use crate::support::{KIB, MIB, chain, collect, disk, mixed_disk, noise, pool, pump, qemu_img, run, same_disk, text};
use coffer_disk::vhd::{BLOCK_BYTES, PIECES_HELD_BACK, PieceWriter, VhdHead, VhdKind, VhdPlan, VhdSink, VhdSource};
use coffer_extent::{BufferPool, Extent, ExtentSink, ExtentSource, MemorySource, RangeSet, StreamError};
use proptest::prelude::*;

/// Writes extents as a stream.
async fn encode(size: u64, extents: Vec<Extent>, kind: VhdKind) -> Vec<u8> {
    let content: RangeSet = extents
        .iter()
        .filter(|extent| match extent {
            Extent::Data { .. } => true,
            Extent::Zero { .. } => kind == VhdKind::Differencing,
            Extent::Unchanged { .. } => false,
        })
        .map(|extent| extent.offset()..extent.end())
        .collect();
    let plan = VhdPlan::from_ranges(size, &content, kind).unwrap();
    let announced = plan.content_length();
    let mut sink = VhdSink::new(Vec::new(), plan, "test");
    pump(&mut MemorySource::from_extents(size, extents), &mut sink).await.unwrap();
    let stream = sink.into_inner();
    assert_eq!(stream.len() as u64, announced);
    stream
}

async fn decode(stream: &[u8], previous: Vec<u8>) -> Result<Vec<u8>, String> {
    let mut source = VhdSource::open(stream, "test", pool()).await.map_err(|error| chain(&error))?;
    collect(&mut source, previous).await.map_err(|error| chain(&error))
}

fn extents_of(content: &[u8]) -> Vec<Extent> {
    let zero = |offset: u64, len| Extent::Zero { offset, len };
    (0u64..)
        .step_by(64 << 10)
        .zip(content.chunks(64 << 10))
        .map(|(offset, piece)| match coffer_extent::is_zero(piece) {
            true => zero(offset, piece.len() as u64),
            false => Extent::Data { offset, bytes: bytes::Bytes::copy_from_slice(piece) },
        })
        .collect()
}

/// A stream as a host writes it, put together from the description alone: table at 2048, full bitmaps.
fn host_stream(content: &[u8], blocks: &[u32], kind: u8) -> Vec<u8> {
    let mut footer = vec![0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[11] = 2;
    footer[13] = 1;
    footer[22] = 2;
    footer[28..32].copy_from_slice(b"caml");
    footer[35] = 1;
    footer[40..48].copy_from_slice(&(content.len() as u64).to_be_bytes());
    footer[48..56].copy_from_slice(&(content.len() as u64).to_be_bytes());
    footer[63] = kind;
    footer[68..84].copy_from_slice(&noise(1, 16));
    let mut header = vec![0; 1024];
    header[..8].copy_from_slice(b"cxsparse");
    header[8..16].fill(0xff);
    header[22] = 8;
    header[25] = 1;
    let count = content.len().div_ceil(2 << 20);
    header[28..32].copy_from_slice(&u32::try_from(count).unwrap().to_be_bytes());
    header[33] = 0x20;
    for (part, at) in [(&mut footer, 64), (&mut header, 36)] {
        let sum: u32 = part.iter().map(|&byte| u32::from(byte)).sum();
        part[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
    }
    let mut table = vec![0xff; (count * 4).next_multiple_of(512)];
    let mut sector = u32::try_from((2048 + table.len()) / 512).unwrap();
    let mut body = Vec::new();
    for &block in blocks {
        let index = usize::try_from(block).unwrap();
        table[index * 4..index * 4 + 4].copy_from_slice(&sector.to_be_bytes());
        sector += 4097;
        body.extend_from_slice(&[0xff; 512]);
        let mut data = content[index << 21..((index + 1) << 21).min(content.len())].to_vec();
        data.resize(2 << 20, 0);
        body.extend(data);
    }
    [&footer[..], &header, &[0; 512], &table, &body, &footer].concat()
}

#[tokio::test]
async fn a_full_export_of_a_host_is_read() {
    let content = disk(10 * MIB, &[(0, 100), (2 * KIB, 4 * KIB), (9000, 9001)]);
    // Blocks of zeros may be in the stream too.
    let stream = host_stream(&content, &[0, 1, 3, 4], 3);
    let mut source = VhdSource::open(&stream[..], "xvda", pool()).await.unwrap();
    assert_eq!((source.size(), source.head().kind()), (10 * MIB, VhdKind::Dynamic));
    assert_eq!(source.head().stream_bytes(), stream.len() as u64);
    assert!(collect(&mut source, vec![0xee; 10 << 20]).await.unwrap() == content);
    assert_eq!(source.stream_position(), stream.len() as u64);
}

#[tokio::test]
async fn a_delta_of_a_host_leaves_the_rest_unchanged() {
    let (before, now) = (noise(9, 10 << 20), mixed_disk()[..10 << 20].to_vec());
    let stream = host_stream(&now, &[1, 4], 4);
    let mut expected = before.clone();
    expected[2 << 20..4 << 20].copy_from_slice(&now[2 << 20..4 << 20]);
    expected[8 << 20..].copy_from_slice(&now[8 << 20..]);
    assert!(decode(&stream, before).await.unwrap() == expected);
}

#[tokio::test]
async fn the_head_alone_tells_the_blocks_and_reads_no_further() {
    let content = mixed_disk();
    let stream = host_stream(&content, &[0, 4, 5, 11], 3);
    // Cut right behind the block table: nothing more may be needed.
    let head = VhdHead::read(&stream[..2048 + 512], "xvda").await.unwrap();
    assert_eq!(head.allocated(), RangeSet::from_iter([0..2 * MIB, 8 * MIB..12 * MIB, 22 * MIB..24 * MIB]));
    assert_eq!((head.size(), head.block_bytes(), head.parent()), (24 * MIB, BLOCK_BYTES, None));
    assert_eq!(head.stream_bytes(), stream.len() as u64);
    VhdHead::read(&stream[..2048 + 47], "xvda").await.unwrap_err();
}

#[tokio::test]
async fn a_cut_stream_is_an_error_not_a_short_disk() {
    let content = disk(6 * MIB, &[(0, 100), (5000, 6000)]);
    let stream = host_stream(&content, &[0, 2], 3);
    for cut in
        (0..stream.len()).step_by(60_013).chain([511, 512, 1535, 2047, 2559, stream.len() - 512, stream.len() - 1])
    {
        let error = decode(&stream[..cut], vec![0; content.len()]).await.unwrap_err();
        assert!(error.contains("the transfer was cut"), "{cut}: {error}");
    }
    assert!(decode(&stream, vec![0; content.len()]).await.is_ok());
}

#[tokio::test]
async fn an_http_answer_in_the_stream_is_recognised() {
    let answer = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
    let stream = host_stream(&mixed_disk(), &[0], 3);
    let table_end = 2048 + 512;
    for at in [0, 512, 2048, table_end, stream.len() - 512] {
        let body = [&stream[..at], &answer[..]].concat();
        let error = decode(&body, vec![0; 24 << 20]).await.unwrap_err();
        assert!(error.contains("HTTP/1.1 500 Internal Server Error"), "{at}: {error}");
        let padded = [&body[..], &[b' '; 600]].concat();
        decode(&padded, vec![0; 24 << 20]).await.unwrap_err();
    }
}

#[tokio::test]
async fn each_broken_structure_is_named() {
    let content = disk(6 * MIB, &[(0, 100), (5000, 6000)]);
    let stream = host_stream(&content, &[0, 2], 3);
    let with = async |at: usize, bytes: &[u8]| {
        let mut broken = stream.clone();
        broken[at..at + bytes.len()].copy_from_slice(bytes);
        decode(&broken, vec![0; content.len()]).await.unwrap_err()
    };
    assert!(with(0, b"C").await.contains("no VHD footer at byte 0"));
    assert!(with(68, &[0; 16]).await.contains("footer fails its checksum"));
    assert!(with(512, b"X").await.contains("no VHD header"));
    assert!(with(600, b"X").await.contains("header fails its checksum"));
    assert!(with(2048, &3u32.to_be_bytes()).await.contains("block 0 at sector 3 overlaps"));
    // The second block inside the first.
    assert!(with(2056, &6u32.to_be_bytes()).await.contains("block 2 at sector 6 overlaps"));
    assert!(with(stream.len() - 512, b"C").await.contains("no VHD footer"));
    let other = host_stream(&disk(8 * MIB, &[]), &[], 3);
    assert!(with(stream.len() - 512, &other[..512]).await.contains("footers at both ends differ"));
}

#[tokio::test]
async fn a_source_whose_call_was_dropped_says_so() {
    use futures::FutureExt;
    let stream = host_stream(&mixed_disk(), &[0], 3);
    let pool = BufferPool::new(1, 1 << 20);
    let mut source = VhdSource::open(&stream[..], "xvda", pool.clone()).await.unwrap();
    let held = pool.take().await;
    assert!(source.next().now_or_never().is_none());
    drop(held);
    assert!(chain(&source.next().await.unwrap_err()).contains("interrupted"));
}

#[tokio::test]
async fn what_the_plan_leaves_out_is_refused() {
    let plan = |kind| VhdPlan::from_ranges(8 * MIB, &RangeSet::from(0..1), kind).unwrap();
    let accept = async |kind, extents: Vec<Extent>| {
        let mut sink = VhdSink::new(Vec::new(), plan(kind), "xvda");
        for extent in extents {
            sink.accept(extent).await.map_err(|error| chain(&error))?;
        }
        sink.finish().await.map_err(|error| chain(&error))
    };
    let (zero, same) = (|offset, len| Extent::Zero { offset, len }, |offset, len| Extent::Unchanged { offset, len });
    let (dynamic, delta) = (VhdKind::Dynamic, VhdKind::Differencing);
    accept(dynamic, vec![zero(0, 8 * MIB)]).await.unwrap();
    accept(delta, vec![zero(0, 512), same(512, 8 * MIB - 512)]).await.unwrap();
    assert!(accept(delta, vec![zero(0, 3 * MIB)]).await.unwrap_err().contains("not in the plan"));
    assert!(accept(dynamic, vec![same(0, 8 * MIB)]).await.unwrap_err().contains("unchanged range"));
    assert!(accept(dynamic, vec![zero(0, MIB)]).await.unwrap_err().contains("expected byte 1048576"));
    assert!(accept(dynamic, vec![zero(512, MIB)]).await.unwrap_err().contains("expected byte 0"));
    let late = Extent::Data { offset: 2 * MIB, bytes: bytes::Bytes::from_static(&[1; 512]) };
    assert!(accept(dynamic, vec![zero(0, 2 * MIB), late]).await.unwrap_err().contains("not in the plan"));
    assert!(VhdPlan::from_ranges(u64::MAX, &RangeSet::new(), dynamic).is_err());
}

/// The way to a host that has stopped reading: some blocks are under way, the next is waited for in vain.
struct Stalled(Vec<bytes::Bytes>);

#[async_trait::async_trait]
impl PieceWriter for Stalled {
    async fn write(&mut self, piece: bytes::Bytes) -> std::io::Result<()> {
        if self.0.len() == PIECES_HELD_BACK {
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "nothing moves any more"));
        }
        self.0.push(piece);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_stops_reading_is_noticed_by_the_writer_and_not_waited_for_in_the_sink() {
    let size = 32 * BLOCK_BYTES;
    let plan = VhdPlan::from_ranges(size, &RangeSet::full(size), VhdKind::Dynamic).unwrap();
    let mut sink = VhdSink::new(Stalled(Vec::new()), plan, "xvda");
    let zero = Extent::Zero { offset: 0, len: size };
    let outcome = tokio::time::timeout(std::time::Duration::from_secs(60), sink.accept(zero)).await;
    let error = outcome.expect("the sink waits for memory that the writer holds").unwrap_err();
    assert!(chain(&error).contains("nothing moves any more"), "{}", chain(&error));
}

#[tokio::test]
async fn the_largest_disk_fits() {
    let plan = VhdPlan::from_ranges(2040 << 30, &RangeSet::full(2040 << 30), VhdKind::Dynamic).unwrap();
    assert_eq!(plan.block_count(), 1_044_480);
    assert_eq!(plan.content_length(), 1536 + 1_044_480 * 4 + 1_044_480 * (512 + BLOCK_BYTES) + 512);
    let head = VhdPlan::from_ranges(2040 << 30, &RangeSet::from(0..1), VhdKind::Dynamic).unwrap();
    let mut sink = VhdSink::new(Vec::new(), head, "xvda");
    sink.accept(Extent::Zero { offset: 0, len: 2040 << 30 }).await.unwrap();
    sink.finish().await.unwrap();
    let head = VhdHead::read(&sink.into_inner()[..], "xvda").await.unwrap();
    assert_eq!(head.allocated(), RangeSet::from(0..BLOCK_BYTES));
}

/// QEMU must not guess the size from the geometry.
fn vpc(path: &std::path::Path) -> String {
    format!("driver=vpc,force_size_calc=current_size,file.driver=file,file.filename={}", text(path))
}

#[tokio::test]
async fn qemu_reads_our_stream_as_the_same_disk() {
    let content = mixed_disk();
    let folder = tempfile::tempdir().unwrap();
    let (ours, raw) = (folder.path().join("ours.vhd"), folder.path().join("disk.raw"));
    std::fs::write(&ours, encode(content.len() as u64, extents_of(&content), VhdKind::Dynamic).await).unwrap();
    std::fs::write(&raw, &content).unwrap();
    same_disk(&raw, "vpc", &ours);
    let back = folder.path().join("back.raw");
    qemu_img(&["convert", "--image-opts", "-O", "raw", &vpc(&ours), text(&back)]);
    assert!(std::fs::read(&back).unwrap() == content);
}

#[tokio::test]
async fn we_read_what_qemu_writes_as_the_same_disk() {
    let content = mixed_disk();
    let folder = tempfile::tempdir().unwrap();
    let (vhd, raw) = (folder.path().join("theirs.vhd"), folder.path().join("disk.raw"));
    std::fs::write(&raw, &content).unwrap();
    let options = "subformat=dynamic,force_size=on";
    qemu_img(&["convert", "-f", "raw", "-O", "vpc", "-o", options, text(&raw), text(&vhd)]);
    let stream = std::fs::read(&vhd).unwrap();
    assert!(decode(&stream, vec![0xee; content.len()]).await.unwrap() == content);
}

/// A disk in pieces of whole sectors: what each is, and how many sectors.
fn any_extents() -> impl Strategy<Value = (u64, Vec<(u8, u64)>)> {
    prop::collection::vec((0u8..3, prop_oneof![1u64..20, 1000u64..5000]), 1..20)
        .prop_map(|pieces| (pieces.iter().map(|piece| piece.1 * 512).sum(), pieces))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_disk_and_any_delta_survive_a_stream((size, pieces) in any_extents(), delta in any::<bool>(), buffer in 1usize..40) {
        let kind = if delta { VhdKind::Differencing } else { VhdKind::Dynamic };
        let mut previous = noise(77, usize::try_from(size).unwrap());
        let (mut offset, mut extents, mut expected) = (0u64, Vec::new(), Vec::new());
        for (seed, (what, sectors)) in (1..).zip(pieces) {
            let len = sectors * 512;
            let old = &previous[usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap()];
            match what {
                0 => {
                    let bytes = noise(seed, old.len());
                    expected.extend_from_slice(&bytes);
                    extents.push(Extent::Data { offset, bytes: bytes.into() });
                }
                1 if delta => {
                    expected.extend_from_slice(old);
                    extents.push(Extent::Unchanged { offset, len });
                }
                _ => {
                    expected.resize(expected.len() + old.len(), 0);
                    extents.push(Extent::Zero { offset, len });
                }
            }
            offset += len;
        }
        if !delta {
            previous.fill(0xee);
        }
        run(async {
            let stream = encode(size, extents, kind).await;
            // Buffers of odd sizes too.
            let pool = BufferPool::new(1, buffer * 10_000);
            let mut source = VhdSource::open(&stream[..], "test", pool).await.unwrap();
            assert!(collect(&mut source, previous).await.unwrap() == expected);
        });
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        changes in prop::collection::vec((0usize..4096, any::<u8>()), 0..6),
        fix_sums in any::<bool>(),
        cut in 0usize..20_000,
    ) {
        let mut stream = host_stream(&disk(4 * MIB, &[(0, 10)]), &[0], 3);
        for (at, byte) in changes {
            stream[at] = byte;
        }
        if fix_sums {
            for (start, len, at) in [(0, 512, 64), (512, 1024, 36)] {
                stream[start + at..start + at + 4].fill(0);
                let sum: u32 = stream[start..start + len].iter().map(|&byte| u32::from(byte)).sum();
                stream[start + at..start + at + 4].copy_from_slice(&(!sum).to_be_bytes());
            }
        }
        stream.truncate(stream.len() - cut);
        run(async {
            let Ok(source) = VhdSource::open(&stream[..], "test", pool()).await else { return };
            let mut source = coffer_extent::Validated::new(source, "test");
            // Either the end, or an error; and never an extent that breaks the rules.
            let error = loop {
                match source.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    Err(error) => break error,
                }
            };
            assert!(error.downcast_ref::<StreamError>().is_none(), "{error:?}");
        });
    }
}
