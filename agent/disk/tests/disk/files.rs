//! Disk files, judged by qemu-img.

use crate::support::servers::write_sparse;
use crate::support::{MIB, chain, collect, disk, mixed_disk, noise, pool, pump, qemu_img, run, same_disk, text};
use coffer_disk::Error;
use coffer_disk::file::{Qcow2FileSink, RawFile, RawFileSink, RawFileSource, VhdFileSink};
use coffer_extent::{BlockReader, BufferPool, Extent, ExtentSink, ExtentSource, MemorySource};
use proptest::prelude::*;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

async fn write(mut sink: impl ExtentSink, content: &[u8], step: usize) {
    pump(&mut MemorySource::from_content(content, step), &mut sink).await.unwrap();
}

/// Writes the disk in every format and lets qemu-img compare each with the raw image.
async fn every_format_is_the_same_disk(content: &[u8], step: usize) {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let size = content.len() as u64;
    std::fs::write(place("truth"), content).unwrap();
    write(RawFileSink::create(place("raw"), size).await.unwrap(), content, step).await;
    assert!(std::fs::read(place("raw")).unwrap() == content);
    write(Qcow2FileSink::create(place("qcow2"), size).await.unwrap(), content, step).await;
    qemu_img(&["check", "-f", "qcow2", text(&place("qcow2"))]);
    same_disk(&place("truth"), "qcow2", &place("qcow2"));
    write(VhdFileSink::create(place("vhd"), size).await.unwrap(), content, step).await;
    same_disk(&place("truth"), "vpc", &place("vhd"));
    let file = tokio::fs::File::open(place("vhd")).await.unwrap();
    let mut source = coffer_disk::vhd::VhdSource::open(file, "the file", pool()).await.unwrap();
    assert!(collect(&mut source, vec![0xee; content.len()]).await.unwrap() == content);
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 4, "no partial file is left");
}

#[tokio::test]
async fn a_mixed_disk_is_the_same_in_every_format() {
    every_format_is_the_same_disk(&mixed_disk(), 1 << 20).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn any_disk_is_the_same_in_every_format(
        sectors in 1u64..20_000,
        pieces in prop::collection::vec((0u64..10_000, 1u64..3000), 0..8),
        step in 1usize..3000,
    ) {
        let size = sectors * 512;
        let data: Vec<_> = pieces.iter().map(|&(start, len)| (start, (start + len).min(size / 1024))).collect();
        let data: Vec<_> = data.into_iter().filter(|(start, end)| start < end).collect();
        run(every_format_is_the_same_disk(&disk(size, &data), step * 512));
    }
}

#[tokio::test]
async fn qcow2_holds_a_disk_beyond_one_second_level_table() {
    let folder = tempfile::tempdir().unwrap();
    let (path, size) = (folder.path().join("disk.qcow2"), 5 << 30);
    let mut sink = Qcow2FileSink::create(&path, size).await.unwrap();
    // The second extent crosses the border between two tables.
    let data = |offset: u64, seed| Extent::Data { offset, bytes: noise(seed, 1 << 20).into() };
    let zero = |from: u64, to: u64| Extent::Zero { offset: from, len: to - from };
    let border = (512 << 20) - (512 << 10);
    let extents = [
        data(0, 1),
        zero(MIB, border),
        data(border, 2),
        zero(border + MIB, 4 << 30),
        data(4 << 30, 3),
        zero((4 << 30) + MIB, size),
    ];
    pump(&mut MemorySource::from_extents(size, extents), &mut sink).await.unwrap();
    let verdict = qemu_img(&["check", "-f", "qcow2", text(&path)]);
    assert!(verdict.contains("No errors were found"), "{verdict}");
    assert!(std::fs::metadata(&path).unwrap().len() < 5 << 20);
    let raw = folder.path().join("raw");
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", text(&path), text(&raw)]);
    let disk = RawFile::open(&raw).await.unwrap();
    assert_eq!(disk.size(), size);
    for (offset, seed) in [(0, 1), (border, 2), (4 << 30, 3)] {
        assert!(disk.read_at(offset, 1 << 20).await.unwrap() == noise(seed, 1 << 20), "{offset}");
    }
    let info = qemu_img(&["info", "-f", "qcow2", text(&path)]);
    assert!(info.contains("compat: 1.1") && info.contains("cluster_size: 65536"), "{info}");
}

#[tokio::test]
async fn raw_files_are_sparse_and_their_holes_are_not_read() {
    let (folder, content) = (tempfile::tempdir().unwrap(), mixed_disk());
    let path = folder.path().join("raw");
    write(RawFileSink::create(&path, content.len() as u64).await.unwrap(), &content, 64 << 10).await;
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 14 * MIB);
    let mut source = RawFileSource::open(&path, pool()).await.unwrap();
    let (mut holes, mut extents) = (0, Vec::new());
    while let Some(extent) = source.next().await.unwrap() {
        holes += if matches!(extent, Extent::Zero { .. }) { extent.len() } else { 0 };
        extents.push(extent);
    }
    assert!(holes > 10 * MIB, "{holes}");
    let mut again = MemorySource::from_extents(content.len() as u64, extents);
    assert!(collect(&mut again, vec![0xee; content.len()]).await.unwrap() == content);
}

#[tokio::test]
async fn a_raw_file_of_odd_layout_is_read_with_small_buffers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    let mut content = disk(3 * MIB, &[(5, 6), (777, 1500), (2000, 3000)]);
    content.truncate(3 * 1024 * 1024 - 333);
    write_sparse(&path, &content);
    let mut source = RawFileSource::open(&path, BufferPool::new(1, 100_000)).await.unwrap();
    assert!(collect(&mut source, vec![0xee; content.len()]).await.unwrap() == content);
}

#[tokio::test]
async fn a_delta_brings_a_raw_file_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    let before = noise(4, 4 << 20);
    std::fs::write(&path, &before).unwrap();
    let fresh = noise(5, 1 << 20);
    let mut sink = RawFileSink::update(&path, 5 * MIB).await.unwrap();
    let extents = [
        Extent::Unchanged { offset: 0, len: MIB },
        Extent::Data { offset: MIB, bytes: fresh.clone().into() },
        Extent::Zero { offset: 2 * MIB, len: MIB },
        Extent::Unchanged { offset: 3 * MIB, len: 2 * MIB },
    ];
    pump(&mut MemorySource::from_extents(5 * MIB, extents), &mut sink).await.unwrap();
    let now = std::fs::read(&path).unwrap();
    let expected = [&before[..1 << 20], &fresh, &[0; 1 << 20], &before[3 << 20..], &[0; 1 << 20]].concat();
    assert!(now == expected);
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 4 * MIB, "zeros became a hole");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names.into_iter().map(|name| name.into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_file_has_its_name_only_when_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let mut sink = Qcow2FileSink::create(&path, 2 * MIB).await.unwrap();
    sink.accept(Extent::Data { offset: 0, bytes: noise(1, 1 << 20).into() }).await.unwrap();
    assert_eq!(names(folder.path()), ["disk.qcow2.partial"]);
    let busy = RawFileSink::create(&path, 2 * MIB).await.unwrap_err();
    assert!(matches!(busy, Error::FileBusy { .. }) && busy.is_retryable());
    assert!(chain(&sink.finish().await.unwrap_err()).contains("ends at byte 1048576"));
    drop(sink);
    assert!(names(folder.path()).is_empty());

    // What a crash has left is no obstacle.
    std::fs::write(folder.path().join("disk.qcow2.partial"), noise(2, 5 << 20)).unwrap();
    write(Qcow2FileSink::create(&path, 2 * MIB).await.unwrap(), &disk(2 * MIB, &[(0, 9)]), 1 << 20).await;
    assert_eq!(names(folder.path()), ["disk.qcow2"]);
    qemu_img(&["check", "-f", "qcow2", text(&path)]);
    let taken = RawFileSink::create(&path, 2 * MIB).await.unwrap_err();
    assert!(chain(&taken).contains("cannot create"), "{}", chain(&taken));
}

#[tokio::test]
async fn a_name_that_is_taken_meanwhile_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let mut sink = RawFileSink::create(&path, 512).await.unwrap();
    sink.accept(Extent::Zero { offset: 0, len: 512 }).await.unwrap();
    std::fs::write(&path, "somebody else's").unwrap();
    sink.finish().await.unwrap_err();
    drop(sink);
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
    assert_eq!(names(folder.path()), ["disk"]);
}

#[tokio::test]
async fn a_link_in_place_of_the_partial_file_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, folder.path().join("disk.partial")).unwrap();
    RawFileSink::create(folder.path().join("disk"), 512).await.unwrap_err();
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
}

#[tokio::test]
async fn writers_of_one_name_never_touch_what_another_has_published() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let mut writers = tokio::task::JoinSet::new();
    for seed in 0..16 {
        let path = path.clone();
        writers.spawn(async move {
            let content = noise(seed, 1 << 16);
            let Ok(mut sink) = RawFileSink::create(&path, content.len() as u64).await else { return None };
            pump(&mut MemorySource::from_content(&content, 4096), &mut sink).await.ok().map(|()| content)
        });
    }
    let finished: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    assert_eq!(finished.len(), 1);
    assert!(std::fs::read(&path).unwrap() == finished[0]);
    assert_eq!(names(folder.path()), ["disk"]);
}

#[tokio::test]
async fn every_sink_refuses_what_it_cannot_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    assert!(matches!(VhdFileSink::create(&path, 3 << 40).await, Err(Error::TooLarge { .. })));
    assert!(matches!(Qcow2FileSink::create(&path, 17 << 40).await, Err(Error::TooLarge { .. })));
    let same = Extent::Unchanged { offset: 0, len: 512 };
    let beyond = Extent::Zero { offset: 0, len: 1024 };
    for extent in [same, beyond] {
        let mut raw = RawFileSink::create(&path, 512).await.unwrap();
        assert!(!raw.accept(extent.clone()).await.unwrap_err().is_retryable());
        drop(raw);
        VhdFileSink::create(&path, 512).await.unwrap().accept(extent.clone()).await.unwrap_err();
        Qcow2FileSink::create(&path, 512).await.unwrap().accept(extent).await.unwrap_err();
    }
    assert!(names(folder.path()).is_empty());
    RawFile::open(&path).await.unwrap_err();
}
