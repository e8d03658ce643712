//! VHD, raw and XVA: what is exported imports as the same bytes, what is damaged is refused with its reason.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::io::Write;

use pool_disks::vhd::VhdFault;
use pool_disks::xva::{Checksum, Compression, ExportOptions, Import, KeepAlive, XvaFault};
use pool_disks::{Disk, Error, Provisioning, SrParams, raw, vhd, xva};
use proptest::prelude::*;
use support::{MIB, Sr, content, id, noise, quiet, same};
use uuid::Uuid;

const BLOCK: usize = 2 << 20;

async fn vhd_of(disk: &Disk, base: Option<Uuid>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let sent = vhd::export(disk, base, &mut bytes, &quiet).await.unwrap();
    assert_eq!(sent, bytes.len() as u64);
    bytes
}

async fn import_vhd(bytes: &[u8], disk: &Disk) -> Result<(), Error> {
    vhd::import(&mut &*bytes, Some(bytes.len() as u64), disk, &quiet).await
}

fn fault(result: Result<(), Error>) -> VhdFault {
    match result.unwrap_err() {
        Error::Vhd(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_vhd_export_has_the_layout_of_a_host() {
    let sr = Sr::thin();
    let disk = sr.disk(id(1), 10 * MIB);
    disk.write_at(2 * MIB + 512, &noise(1, 512)).unwrap();
    disk.write_at(8 * MIB, &noise(2, 512)).unwrap();
    let bytes = vhd_of(&disk, None).await;
    let block = 512 + BLOCK;
    assert_eq!(bytes.len(), 2048 + 512 + 2 * block + 512);
    let (head, tail) = (&bytes[..512], &bytes[bytes.len() - 512..]);
    assert_eq!(head, tail);
    assert_eq!(&head[..36], b"conectix\0\0\0\x02\0\x01\0\0\0\0\0\0\0\0\x02\0\0\0\0\0caml\0\0\0\x01");
    assert_eq!(head[40..48], (10 * MIB).to_be_bytes());
    assert_eq!(head[48..56], (10 * MIB).to_be_bytes());
    assert_eq!(head[60..64], 3u32.to_be_bytes());
    assert_ne!(head[68..84], vhd_of(&disk, None).await[68..84], "the id is new at each export");
    assert_eq!(&bytes[512..528], b"cxsparse\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF");
    assert_eq!(bytes[528..536], 2048u64.to_be_bytes());
    assert_eq!(bytes[540..548], [0, 0, 0, 5, 0, 0x20, 0, 0]);
    assert!(bytes[1536..2048].iter().all(|byte| *byte == 0));
    let unused = [0xFF; 4];
    let (first, second) = (5u32.to_be_bytes(), (5u32 + 4097).to_be_bytes());
    assert_eq!(bytes[2048..2068], [unused, first, unused, unused, second].concat());
    let data = 2048 + 512;
    assert!(bytes[data..data + 512].iter().all(|byte| *byte == 0xFF), "the sector bitmap is full");
    same(&bytes[data + 512..data + block], &content(&disk)[BLOCK..2 * BLOCK], "the first block");
}

#[tokio::test]
async fn a_differential_vhd_names_a_locator_without_data() {
    let sr = Sr::thin();
    let disk = sr.filled(id(1), 8 * MIB, 5);
    sr.store.snapshot(id(1), id(2), id(3)).unwrap();
    disk.write_at(7 * MIB, &[9]).unwrap();
    let bytes = vhd_of(&disk, Some(id(2))).await;
    assert_eq!(bytes[60..64], 4u32.to_be_bytes());
    assert_ne!(bytes[512 + 40..512 + 56], [0; 16], "the parent's id");
    assert_eq!(&bytes[512 + 576..512 + 584], b"MacX\0\0\0\x01");
    assert_eq!(bytes[512 + 592..512 + 600], 1536u64.to_be_bytes());
    assert!(bytes[1536..2048].iter().all(|byte| *byte == 0), "no locator data");
    assert_eq!(bytes.len() as u64, vhd::export_len(8 * MIB, 1));
}

#[tokio::test]
async fn an_imported_vhd_is_the_exported_disk() {
    let sr = Sr::thin();
    let source = sr.filled(id(1), 32 * MIB, 7);
    let bytes = vhd_of(&source, None).await;
    for announced in [Some(bytes.len() as u64), None] {
        let target = sr.disk(Uuid::new_v4(), 32 * MIB);
        vhd::import(&mut bytes.as_slice(), announced, &target, &quiet).await.unwrap();
        same(&content(&target), &content(&source), "the target");
        assert_eq!(target.allocated(None).unwrap(), source.allocated(None).unwrap());
    }
}

/// A VHD as another program might write it: table at 1536, blocks out of order and apart, sectors missing.
fn foreign_vhd(reference: &[u8]) -> Vec<u8> {
    let mut header = reference[512..1536].to_vec();
    header[16..24].copy_from_slice(&1536u64.to_be_bytes());
    header[36..40].fill(0);
    let sum = !header.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    header[36..40].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = [&reference[..512], &header].concat();
    let first = 16u32;
    for entry in [first + 4097 + 100, u32::MAX, first] {
        bytes.extend_from_slice(&entry.to_be_bytes());
    }
    bytes.resize(first as usize * 512, 0xEE);
    for fill in [1u8, 2] {
        let mut bitmap = [0; 512];
        bitmap[0] = 0b0110_0000;
        bitmap[511] = 1;
        bytes.extend_from_slice(&bitmap);
        bytes.resize(bytes.len() + BLOCK, fill);
        bytes.resize(bytes.len() + 100 * 512, 0xEE);
    }
    bytes.extend_from_slice(&reference[..512]);
    bytes
}

#[tokio::test]
async fn bitmaps_are_honoured_gaps_skipped_and_the_rest_kept() {
    let sr = Sr::thin();
    let reference = vhd_of(&sr.disk(id(1), 6 * MIB), None).await;
    let target = sr.disk(id(2), 6 * MIB);
    target.write_at(0, &[7; 6 << 20]).unwrap();
    import_vhd(&foreign_vhd(&reference), &target).await.unwrap();
    let mut expected = vec![7; 6 << 20];
    for (block, fill) in [(2, 1), (0, 2)] {
        let start = block * BLOCK;
        expected[start + 512..start + 3 * 512].fill(fill);
        expected[start + BLOCK - 512..start + BLOCK].fill(fill);
    }
    same(&content(&target), &expected, "the target");
}

#[tokio::test]
async fn damaged_vhd_streams_are_refused_with_their_reason() {
    let sr = Sr::thin();
    let good = vhd_of(&sr.filled(id(1), 8 * MIB, 3), None).await;
    let target = sr.disk(id(2), 8 * MIB);
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let refused = async |bytes: Vec<u8>| fault(import_vhd(&bytes, &target).await);
    assert_eq!(refused(changed(0, b"HTTP/")).await, VhdFault::BadMagic { structure: "leading footer" });
    assert_eq!(refused(changed(48, &[1])).await, VhdFault::BadChecksum { structure: "leading footer" });
    assert_eq!(refused(changed(512, b"x")).await, VhdFault::BadMagic { structure: "header" });
    assert_eq!(refused(changed(550, b"x")).await, VhdFault::BadChecksum { structure: "header" });
    assert_eq!(refused(changed(2048, &[0, 0, 0, 1])).await, VhdFault::OutOfOrder { structure: "block" });
    let last = good.len() - 512;
    assert_eq!(refused(changed(last, b"x")).await, VhdFault::BadMagic { structure: "trailing footer" });
    let small = sr.disk(id(3), 6 * MIB);
    assert_eq!(fault(import_vhd(&good, &small).await), VhdFault::TooLarge { found: 8 * MIB, size: 6 * MIB });
    for cut in [0, 511, 1000, 2049, 3000, good.len() - 513, good.len() - 2] {
        for announced in [Some(good.len() as u64), None] {
            let error = vhd::import(&mut &good[..cut], announced, &target, &quiet).await.unwrap_err();
            assert!(matches!(error, Error::StreamTooShort { .. } | Error::Vhd(_)), "{cut}: {error:?}");
            assert_eq!(error.xapi().code, "VDI_IO_ERROR");
        }
    }
}

#[tokio::test]
async fn raw_streams_go_round_and_differences_are_zero_elsewhere() {
    let sr = Sr::thin();
    let source = sr.filled(id(1), 16 * MIB, 11);
    let mut bytes = Vec::new();
    raw::export(&source, None, &mut bytes, &quiet).await.unwrap();
    same(&bytes, &content(&source), "the stream");
    let target = sr.disk(id(2), 16 * MIB);
    target.write_at(MIB, &[5; 1000]).unwrap();
    let length = Some(bytes.len() as u64);
    assert_eq!(raw::import(&mut bytes.as_slice(), length, &target, &quiet).await.unwrap(), 16 * MIB);
    same(&content(&target), &bytes, "the target");

    sr.store.snapshot(id(1), id(4), id(5)).unwrap();
    source.write_at(9 * MIB, &[1; 100]).unwrap();
    let mut difference = Vec::new();
    raw::export(&source, Some(id(4)), &mut difference, &quiet).await.unwrap();
    let mut expected = vec![0; 16 << 20];
    expected[8 << 20..10 << 20].copy_from_slice(&content(&source)[8 << 20..10 << 20]);
    same(&difference, &expected, "the difference");
}

#[tokio::test]
async fn a_cut_or_overlong_raw_stream_is_an_error_not_a_short_disk() {
    let sr = Sr::thin();
    let target = sr.disk(id(2), 4 * MIB);
    let bytes = noise(1, 5 << 20);
    let cut = raw::import(&mut &bytes[..3 << 20], Some(4 * MIB), &target, &quiet).await;
    assert!(matches!(cut, Err(Error::StreamTooShort { .. })));
    let long = raw::import(&mut bytes.as_slice(), None, &target, &quiet).await;
    assert!(matches!(long, Err(Error::StreamTooLong { .. })));
}

#[tokio::test]
async fn zeros_of_a_raw_stream_take_no_space_on_a_thin_sr() {
    for (provisioning, blocks) in [(Provisioning::Thin, vec![1]), (Provisioning::Thick, vec![0, 1, 2])] {
        let sr = Sr::new(SrParams { provisioning, ..SrParams::default() });
        let target = sr.disk(id(2), 6 * MIB);
        let mut bytes = vec![0; 6 << 20];
        bytes[3 << 20] = 1;
        raw::import(&mut bytes.as_slice(), None, &target, &quiet).await.unwrap();
        assert_eq!(target.allocated(None).unwrap(), blocks);
        same(&content(&target), &bytes, "the target");
    }
}

#[tokio::test]
async fn a_chunked_raw_body_writes_its_pieces_and_needs_its_end() {
    let sr = Sr::thin();
    let target = sr.disk(id(2), 4 * MIB);
    let piece = |offset: u64, data: &[u8]| {
        let length = u32::try_from(data.len()).unwrap();
        [&offset.to_le_bytes()[..], &length.to_le_bytes(), data].concat()
    };
    let body = [piece(MIB, &[3; 700]), piece(0, &[4; 10]), piece(0, &[])].concat();
    assert_eq!(raw::import_chunked(&mut body.as_slice(), &target).await.unwrap(), 710);
    assert_eq!(content(&target)[1 << 20..][..701], [[3; 700].as_slice(), &[0]].concat());
    assert!(raw::import_chunked(&mut &body[..body.len() - 12], &target).await.is_err());
    assert!(raw::import_chunked(&mut piece(4 * MIB, &[1]).as_slice(), &target).await.is_err());
}

/// Members of an archive: name, data.
fn members(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut members = Vec::new();
    let mut at = 0;
    while bytes[at] != 0 {
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8(bytes[at..][range].split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
        };
        let size = usize::from_str_radix(&text(124..136), 8).unwrap();
        members.push((text(0..100), bytes[at + 512..at + 512 + size].to_vec()));
        at += 512 + size.next_multiple_of(512);
    }
    assert!(bytes.len() - at == 1024 && bytes[at..].iter().all(|byte| *byte == 0), "two zero blocks end it");
    members
}

async fn xva_of(disks: &BTreeMap<String, Disk>, options: ExportOptions) -> Vec<u8> {
    let mut bytes = Vec::new();
    let sent = xva::export(b"<value/>", disks, options, &mut bytes, &quiet).await.unwrap();
    assert_eq!(sent, bytes.len() as u64);
    bytes
}

async fn import_xva(bytes: &[u8], disks: &BTreeMap<String, Disk>, force: bool) -> Result<Vec<u8>, Error> {
    let mut import = Import::open(bytes).await?;
    import.read_disks(disks, force, &quiet).await?;
    Ok(import.ova_xml().to_vec())
}

fn targets(sr: &Sr, like: &BTreeMap<String, Disk>) -> BTreeMap<String, Disk> {
    like.iter().map(|(name, disk)| (name.clone(), sr.disk(Uuid::new_v4(), disk.size().unwrap()))).collect()
}

#[tokio::test]
async fn an_xva_leaves_zeros_out_but_for_the_first_and_the_last_chunk() {
    let sr = Sr::thin();
    let disk = sr.disk(id(1), 10 * MIB);
    disk.write_at(4 * MIB + 100, &noise(1, 10)).unwrap();
    let disks = BTreeMap::from([("Ref:7".to_owned(), disk.clone()), ("Ref:12".to_owned(), sr.disk(id(2), 2 * MIB))]);
    let members = members(&xva_of(&disks, ExportOptions::default()).await);
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    let chunks = ["Ref:12/00000000", "Ref:12/00000001", "Ref:7/00000000", "Ref:7/00000004", "Ref:7/00000009"];
    let expected: Vec<String> = std::iter::once("ova.xml".to_owned())
        .chain(chunks.iter().flat_map(|chunk| [(*chunk).to_owned(), format!("{chunk}.xxhash")]))
        .collect();
    assert_eq!(names, expected);
    assert_eq!(members[0].1, b"<value/>");
    same(&members[7].1, &content(&disk)[4 << 20..5 << 20], "the chunk");
    let zeros = xxhash_rust::xxh64::xxh64(&vec![0; 1 << 20], 0);
    assert_eq!(members[2].1, format!("{zeros:016X}").as_bytes());
}

#[tokio::test]
async fn keep_alive_members_take_a_number_but_no_place() {
    let sr = Sr::thin();
    let disk = sr.disk(id(1), 16 * MIB);
    disk.write_at(10 * MIB, &noise(1, 10)).unwrap();
    let disks = BTreeMap::from([("Ref:1".to_owned(), disk.clone())]);
    let options = ExportOptions { keep_alive: KeepAlive::OmittedChunks(4), ..ExportOptions::default() };
    let bytes = xva_of(&disks, options).await;
    let found: Vec<(String, usize)> = members(&bytes)
        .into_iter()
        .filter(|(name, _)| name.starts_with("Ref:1/") && !name.ends_with(".xxhash"))
        .map(|(name, data)| (name[6..].to_owned(), data.len()))
        .collect();
    let expected: Vec<(String, usize)> = [(0, MIB), (5, 0), (10, 0), (12, MIB), (17, 0), (18, MIB)]
        .map(|(number, size)| (format!("{number:08}"), usize::try_from(size).unwrap()))
        .to_vec();
    assert_eq!(found, expected);
    let into = targets(&sr, &disks);
    import_xva(&bytes, &into, false).await.unwrap();
    same(&content(&into["Ref:1"]), &content(&disk), "the target");
}

#[tokio::test]
async fn an_xva_goes_round_in_every_dress() {
    let sr = Sr::thin();
    let disks = BTreeMap::from([
        ("Ref:3".to_owned(), sr.filled(id(1), 12 * MIB, 1)),
        ("Ref:4".to_owned(), sr.filled(id(2), 4 * MIB, 9)),
    ]);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for checksum in [Checksum::Xxhash, Checksum::Sha1] {
            let options = ExportOptions { compression, checksum, ..ExportOptions::default() };
            let bytes = xva_of(&disks, options).await;
            let into = targets(&sr, &disks);
            assert_eq!(import_xva(&bytes, &into, false).await.unwrap(), b"<value/>");
            for (name, disk) in &disks {
                same(&content(&into[name]), &content(disk), name);
            }
            let cut = import_xva(&bytes[..bytes.len() * 3 / 4], &targets(&sr, &disks), false).await.unwrap_err();
            assert_eq!(cut.xapi().code, "IMPORT_ERROR_PREMATURE_EOF", "{compression:?}: {cut:?}");
        }
    }
}

#[tokio::test]
async fn an_xva_repacked_as_ustar_is_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let sr = Sr::thin();
    let disks = BTreeMap::from([("Ref:3".to_owned(), sr.filled(id(1), 4 * MIB, 1))]);
    let bytes = xva_of(&disks, ExportOptions::default()).await;
    let unpacked = folder.path().join("members");
    let mut names = Vec::new();
    for (name, data) in members(&bytes) {
        let path = unpacked.join(&name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
        names.push(name);
    }
    let repacked = folder.path().join("repacked.xva");
    let tar = std::process::Command::new("tar")
        .args(["--format=ustar", "-cf"])
        .arg(&repacked)
        .arg("-C")
        .arg(&unpacked)
        .args(&names)
        .status()
        .expect("tar runs");
    assert!(tar.success());
    let into = targets(&sr, &disks);
    import_xva(&std::fs::read(repacked).unwrap(), &into, false).await.unwrap();
    same(&content(&into["Ref:3"]), &content(&disks["Ref:3"]), "the target");
}

#[tokio::test]
async fn a_disk_goes_round_as_tar() {
    let sr = Sr::thin();
    let disk = sr.filled(id(1), 4 * MIB, 1);
    let mut bytes = Vec::new();
    xva::export_vdi_tar(&disk, &mut bytes, &quiet).await.unwrap();
    assert!(bytes.starts_with(b"vdi/00000000\0"));
    let target = sr.disk(id(2), 4 * MIB);
    xva::import_vdi_tar(&mut bytes.as_slice(), &target, &quiet).await.unwrap();
    same(&content(&target), &content(&disk), "the target");
}

#[tokio::test]
async fn damaged_archives_are_refused_as_xapi_does() {
    let sr = Sr::thin();
    let disks = BTreeMap::from([("Ref:3".to_owned(), sr.filled(id(1), 4 * MIB, 1))]);
    let good = xva_of(&disks, ExportOptions::default()).await;
    let code = async |bytes: &[u8], disks: &BTreeMap<String, Disk>| {
        import_xva(bytes, &targets(&sr, disks), false).await.unwrap_err().xapi()
    };
    // ova.xml takes 1024 bytes; then a chunk's header, its data, its checksum's header.
    let mut flipped = good.clone();
    flipped[1024 + 512 + 5] ^= 1;
    assert_eq!(code(&flipped, &disks).await.code, "IMPORT_ERROR_SOME_CHECKSUMS_FAILED");
    let into = targets(&sr, &disks);
    import_xva(&flipped, &into, true).await.unwrap();
    let mut header = good.clone();
    header[1024 + 130] = b'9';
    assert_eq!(code(&header, &disks).await.code, "IMPORT_ERROR");
    let without_sum = [&good[..1024 + 512 + (1 << 20)], &good[1024 + 512 + (1 << 20) + 1024..]].concat();
    let failure = code(&without_sum, &disks).await;
    assert_eq!(failure.code, "IMPORT_ERROR_UNEXPECTED_FILE");
    assert_eq!(failure.params, ["Ref:3/00000000.xxhash", "Ref:3/00000001"]);
    let others = BTreeMap::from([("Ref:9".to_owned(), disks["Ref:3"].clone())]);
    assert_eq!(code(&good, &others).await.params, ["Ref:9/00000000", "Ref:3/00000000"]);
    let more = disks.clone().into_iter().chain(others).collect();
    assert_eq!(code(&good, &more).await.code, "IMPORT_ERROR_PREMATURE_EOF");
    let small = BTreeMap::from([("Ref:3".to_owned(), sr.disk(id(3), 2 * MIB))]);
    assert!(matches!(import_xva(&good, &small, false).await, Err(Error::Xva(XvaFault::OutsideDisk { .. }))));
    assert_eq!(code(&good[1024..], &disks).await.code, "IMPORT_ERROR_UNEXPECTED_FILE");
    assert_eq!(code(b"", &disks).await.code, "IMPORT_ERROR_PREMATURE_EOF");
    for cut in (0..good.len() - 1024).step_by(100_003) {
        assert_eq!(code(&good[..cut], &disks).await.code, "IMPORT_ERROR_PREMATURE_EOF", "{cut}");
    }
}

#[tokio::test]
async fn a_compression_bomb_fills_no_memory_and_garbage_is_refused() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..256 {
        encoder.write_all(&vec![1; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let error = Import::open(bomb.as_slice()).await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Xva(XvaFault::BadHeader { .. })), "{error:?}");
    let mut garbage = bomb[..100].to_vec();
    garbage.extend_from_slice(&noise(1, 100_000));
    assert!(Import::open(garbage.as_slice()).await.is_err());
}

/// Writes to a base and then to what is made of it: offset and length, anywhere on 12 MiB.
fn writes() -> impl Strategy<Value = Vec<(u64, usize)>> {
    prop::collection::vec((0..11 * MIB, 1..1_000_000usize), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn a_differential_vhd_applied_to_the_base_is_the_target(before in writes(), between in writes(), after in writes()) {
        let sr = Sr::thin();
        let disk = sr.disk(id(1), 12 * MIB);
        let write = |writes: &[(u64, usize)], seed: u64| {
            for (at, (offset, len)) in (seed..).zip(writes) {
                disk.write_at(*offset, &noise(at, *len)).unwrap();
            }
        };
        write(&before, 1);
        sr.store.snapshot(id(1), id(11), id(21)).unwrap();
        write(&between, 100);
        sr.store.snapshot(id(1), id(12), id(22)).unwrap();
        write(&after, 200);
        sr.store.snapshot(id(1), id(13), id(23)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let elsewhere = Sr::thin();
            let copy = elsewhere.disk(id(1), 12 * MIB);
            let first = sr.store.disk(id(11)).unwrap();
            import_vhd(&vhd_of(&first, None).await, &copy).await.unwrap();
            for (number, base) in [(12, 11), (13, 12), (11, 13)] {
                let disk = sr.store.disk(id(number)).unwrap();
                import_vhd(&vhd_of(&disk, Some(id(base))).await, &copy).await.unwrap();
                same(&content(&copy), &content(&disk), "the copy");
            }
        });
    }
}
