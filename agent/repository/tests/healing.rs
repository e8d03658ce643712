//! Data that is lost on the remote: noted when it is found, and stored again by the next backup that has it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use coffer_extent::Extent;
use coffer_remote::{MemoryRemote, ObjectName, Remote};
use coffer_repository::{BackupOptions, CheckLevel, Error, PruneOptions, Repository};
use support::*;

const DISK: &str = "disks/xvda.raw";

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

/// The pack with the chunks of a disk.
async fn data_pack(remote: &MemoryRemote) -> ObjectName {
    let packs = remote.list(&name("repository/data")).await.unwrap();
    packs.into_iter().max_by_key(|info| info.size).unwrap().name
}

async fn notes(remote: &MemoryRemote) -> usize {
    remote.list(&name("coffer/damaged")).await.unwrap().len()
}

async fn assert_clean(repository: &Repository) {
    let report = repository.check(CheckLevel::ReadData).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_found_damaged_is_whole_again_after_the_next_backup() {
    let disk = noise(1, 20 * CHUNK + 5);
    for how in Loss::ALL {
        let remote = Arc::new(MemoryRemote::new());
        let repository = init(remote.clone()).await;
        let first = backup(&repository, 1, &disk).await.unwrap();
        let lost = data_pack(&remote).await;
        how.happen(&remote, &lost).await;
        // Another agent finds it; this one hears of it.
        let report = open(remote.clone()).await.examine(first).await.unwrap();
        assert_eq!((report.errors.len(), report.damaged_snapshots), (1, vec![first]), "{how:?}: {:?}", report.errors);
        assert_eq!(notes(&remote).await, 1);

        let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
        let point = repository.point(first).await.unwrap();
        assert!(!repository.is_sound(&point.content(DISK).unwrap()).await);
        let stored = write_disk(&session, DISK, disk.len(), extents(&disk, CHUNK), None).await.unwrap();
        assert_eq!(stored.stats.new_chunks, 21, "{how:?}");
        session.file("vm.json", Bytes::from_static(VM)).await.unwrap();
        let sealed = session.seal(meta(2, None)).await.unwrap();
        sealed.publish().await.unwrap();
        for repository in [&repository, &open(remote.clone()).await] {
            for id in [first, sealed.snapshot_id()] {
                let point = repository.point(id).await.unwrap();
                assert!(repository.is_sound(&point.content(DISK).unwrap()).await);
                assert!(read_extents(&point, DISK).await.unwrap() == disk, "{how:?}");
                assert!(repository.examine(id).await.unwrap().is_clean());
            }
        }

        // Nothing needs the damaged pack any more: prune removes it, then what was noted.
        for _ in 0..3 {
            let options = PruneOptions { grace: std::time::Duration::ZERO, ..PruneOptions::default() };
            repository.prune(repository.plan_prune(options).await.unwrap()).await.unwrap();
        }
        assert_eq!(notes(&remote).await, 0, "{how:?}");
        assert!(remote.stat(&lost).await.is_err());
        assert_clean(&repository).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_comes_across_a_loss_notes_it_and_the_next_attempt_succeeds() {
    let disk = noise(1, 20 * CHUNK);
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let first = backup(&repository, 1, &disk).await.unwrap();
    Loss::Absent.happen(&remote, &data_pack(&remote).await).await;
    // Everything is read, and all of it seems to be stored.
    assert!(matches!(backup(&repository, 2, &disk).await, Err(Error::PackMissing { .. })));
    let second = backup(&repository, 2, &disk).await.unwrap();
    for id in [first, second] {
        assert!(read_extents(&repository.point(id).await.unwrap(), DISK).await.unwrap() == disk);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_met_in_the_middle_of_a_delta_is_noted() {
    let disk = noise(1, 20 * CHUNK);
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let first = backup(&repository, 1, &disk).await.unwrap();
    Loss::Empty.happen(&remote, &data_pack(&remote).await).await;
    let content = repository.point(first).await.unwrap().content(DISK).unwrap();
    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    // A part of a chunk: the rest of it has to be read from the point before.
    let changes = vec![
        Extent::Data { offset: 0, bytes: Bytes::from_static(b"new") },
        Extent::Unchanged { offset: 3, len: disk.len() as u64 - 3 },
    ];
    let failed = write_disk(&session, DISK, disk.len(), changes, Some(content.clone())).await;
    assert!(failed.is_err());
    assert_eq!(notes(&remote).await, 1);
    drop(repository.begin_backup(BackupOptions::default()).await.unwrap());
    assert!(!repository.is_sound(&content).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_began_before_the_damage_was_found_is_not_published_on_it() {
    let disk = noise(1, 20 * CHUNK);
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let first = backup(&repository, 1, &disk).await.unwrap();
    let content = repository.point(first).await.unwrap().content(DISK).unwrap();
    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    let unchanged = vec![Extent::Unchanged { offset: 0, len: disk.len() as u64 }];
    write_disk(&session, DISK, disk.len(), unchanged, Some(content)).await.unwrap();
    Loss::Flipped.happen(&remote, &data_pack(&remote).await).await;
    open(remote.clone()).await.examine(first).await.unwrap();
    assert!(matches!(session.seal(meta(2, Some(first))).await, Err(Error::PackDamaged { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_was_put_back_is_trusted_again() {
    let disk = noise(1, 20 * CHUNK);
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let first = backup(&repository, 1, &disk).await.unwrap();
    let pack = data_pack(&remote).await;
    let good = remote.read(&pack).await.unwrap();
    Loss::Cut.happen(&remote, &pack).await;
    assert!(!repository.examine(first).await.unwrap().is_clean());
    remote.overwrite(&pack, good);
    assert!(repository.examine(first).await.unwrap().is_clean());
    assert_eq!(notes(&remote).await, 0);
    let content = repository.point(first).await.unwrap().content(DISK).unwrap();
    assert!(repository.is_sound(&content).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_found_in_another_folder_is_not_noted_as_lost() {
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let first = backup(&repository, 1, &noise(1, 20 * CHUNK)).await.unwrap();
    for object in remote.list(&name("repository")).await.unwrap() {
        remote.delete(&object.name).await.unwrap();
    }
    assert!(matches!(repository.examine(first).await, Err(Error::RepositoryGone { .. })));
    assert_eq!(notes(&remote).await, 0);
}
