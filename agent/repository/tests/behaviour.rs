//! What a repository promises, on a remote in memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use coffer_extent::{Extent, ExtentSink};
use coffer_remote::{MemoryRemote, ObjectInfo, ObjectName, Remote};
use coffer_repository::{BackupOptions, CheckLevel, Error, Permission, PruneOptions, Repository, SnapshotId};
use secrecy::SecretString;
use support::*;

fn objects(name: &str) -> ObjectName {
    ObjectName::new(format!("repository/{name}")).unwrap()
}

async fn list(remote: &MemoryRemote, folder: &str) -> Vec<ObjectInfo> {
    remote.list(&objects(folder)).await.unwrap()
}

fn prune_at_once() -> PruneOptions {
    PruneOptions { grace: std::time::Duration::ZERO, ..PruneOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_password_opens_and_no_other() {
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let second = SecretString::from("second");
    let key = repository.add_password(&second).await.unwrap();
    for good in [password(), second.clone()] {
        let opened = Repository::open(remote.clone(), &good, options()).await.unwrap();
        assert_eq!((opened.id(), opened.chunk_bytes()), (repository.id(), CHUNK));
    }
    let wrong = Repository::open(remote.clone(), &SecretString::from("wrong"), options()).await.unwrap_err();
    assert!(matches!(wrong, Error::WrongPassword { keys: 2, .. }), "{wrong}");
    let first = repository.keys().await.unwrap().into_iter().find(|other| *other != key).unwrap();
    repository.remove_key(first).await.unwrap();
    assert!(matches!(repository.remove_key(key).await, Err(Error::LastKey)));
    assert!(Repository::open(remote.clone(), &password(), options()).await.is_err());
    assert!(Repository::open(remote, &second, options()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_made_once_and_never_over_data() {
    let remote = Arc::new(MemoryRemote::new());
    assert!(matches!(Repository::open(remote.clone(), &password(), options()).await, Err(Error::NoRepository { .. })));
    let (secret, all) = (password(), 0..4);
    let made = all.map(|_| Repository::open_or_init(remote.clone(), &secret, options()));
    let made = futures::future::join_all(made).await;
    let ids: Vec<_> = made.into_iter().map(|made| made.unwrap().id()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(list(&remote, "keys").await.len(), 1, "keys of those that came second are left");
    // Another one, killed before it could remove its key: same password, other master key.
    let other = MemoryRemote::new();
    init(Arc::new(other.clone())).await;
    let stray = list(&other, "keys").await.remove(0);
    remote.create(&stray.name, vec![other.read(&stray.name).await.unwrap()]).await.unwrap();
    let second = SecretString::from("second");
    let kept = open(remote.clone()).await.add_password(&second).await.unwrap();
    let opened = Repository::open_or_init(remote.clone(), &secret, options()).await.unwrap();
    let keys = opened.keys().await.unwrap();
    assert!(keys.len() == 2 && keys.contains(&kept) && remote.stat(&stray.name).await.is_err(), "{keys:?}");
    assert!(matches!(
        Repository::init(remote.clone(), &password(), options()).await,
        Err(Error::RepositoryExists { .. })
    ));
    backup(&open(remote.clone()).await, 1, &noise(1, CHUNK)).await.unwrap();
    remote.delete(&objects("config")).await.unwrap();
    assert!(matches!(Repository::init(remote.clone(), &password(), options()).await, Err(Error::ConfigLost { .. })));
    assert!(!list(&remote, "keys").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_reads_nothing_and_stores_only_what_changed() {
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let before = noise(1, 40 * CHUNK + 100);
    let first = backup(&repository, 1, &before).await.unwrap();
    let content = repository.point(first).await.unwrap().content("disks/xvda.raw").unwrap();
    let mut after = before.clone();
    after[7 * CHUNK + 5] ^= 1;
    after[9 * CHUNK..12 * CHUNK].fill(0);

    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    let changes = delta(&before, &after, CHUNK);
    let closed = write_disk(&session, "disks/xvda.raw", after.len(), changes, Some(content)).await.unwrap();
    assert_eq!((closed.stats.new_chunks, closed.stats.read, closed.stats.zero), (2, CHUNK as u64, 3 * CHUNK as u64));
    assert_eq!(closed.stats.unchanged, (after.len() - 4 * CHUNK) as u64);
    let sealed = session.seal(meta(2, Some(first))).await.unwrap();
    assert_eq!(repository.points().await.unwrap().len(), 1, "a sealed point is not visible");
    sealed.publish().await.unwrap();
    sealed.publish().await.unwrap();

    let repository = open(remote).await;
    let points = repository.points().await.unwrap();
    assert_eq!(points.iter().map(|point| point.id).collect::<Vec<_>>(), [first, sealed.snapshot_id()]);
    assert_eq!((points[1].parent, points[1].tag("job"), points[1].vm.is_some()), (Some(first), Some("nightly"), true));
    for (id, disk) in [(first, &before), (sealed.snapshot_id(), &after)] {
        let point = repository.point(id).await.unwrap();
        assert!(read_extents(&point, "disks/xvda.raw").await.unwrap() == *disk);
        assert!(read_blocks(&point, "disks/xvda.raw").await == *disk);
    }
    assert!(repository.check(CheckLevel::ReadData).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_chunks_disks_that_grew_or_shrank_and_odd_steps_come_out_right() {
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote).await;
    let before = noise(1, 5 * CHUNK + 1234);
    let first = backup(&repository, 1, &before).await.unwrap();
    let content = repository.point(first).await.unwrap().content("disks/xvda.raw").unwrap();
    for size in [5 * CHUNK + 1234, 5 * CHUNK, 3 * CHUNK + 17, 9 * CHUNK + 1] {
        for step in [CHUNK / 4, 5000, 3 * CHUNK + 1] {
            let mut after = before.clone();
            after.resize(size, 0);
            after[2 * CHUNK + 10_000..2 * CHUNK + 20_000].fill(0);
            after[CHUNK + 3..CHUNK + 5].fill(0xaa);
            let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
            let changes = delta(&before, &after, step);
            write_disk(&session, "disks/xvda.raw", size, changes, Some(content.clone())).await.unwrap();
            let sealed = session.seal(meta(2, None)).await.unwrap();
            sealed.publish().await.unwrap();
            let point = repository.point(sealed.snapshot_id()).await.unwrap();
            assert!(read_extents(&point, "disks/xvda.raw").await.unwrap() == after, "size {size}, step {step}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_terabyte_costs_a_few_objects() {
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let size = 1_u64 << 36;
    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    let mut disk = session.disk("disks/xvda.raw", size, None).await.unwrap();
    disk.accept(Extent::Zero { offset: 0, len: size }).await.unwrap();
    let closed = disk.close().await.unwrap();
    assert_eq!((closed.stats.new_chunks, closed.stats.zero), (1, size));
    let sealed = session.seal(meta(1, None)).await.unwrap();
    sealed.publish().await.unwrap();
    assert_eq!(list(&remote, "data").await.len(), 2);
    let point = repository.point(sealed.snapshot_id()).await.unwrap();
    let mut source = point.extents("disks/xvda.raw").unwrap();
    assert_eq!(source.next().await.unwrap(), Some(Extent::Zero { offset: 0, len: size }));
    assert_eq!(source.next().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn misuse_of_a_disk_is_an_error_and_never_a_wrong_point() {
    let repository = init(Arc::new(MemoryRemote::new())).await;
    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    for bad in ["../x", "/x", "a//b", "a b", ""] {
        assert!(matches!(session.disk(bad, 1, None).await, Err(Error::Invalid { .. })), "{bad}");
    }
    let data = |offset, len| Extent::Data { offset, bytes: Bytes::from(noise(1, len)) };
    let mut disk = session.disk("disks/a", 2 * CHUNK as u64, None).await.unwrap();
    assert!(matches!(session.disk("disks/a", 1, None).await, Err(Error::Invalid { .. })));
    assert!(matches!(session.file("disks", Bytes::new()).await, Err(Error::Invalid { .. })));
    assert!(disk.accept(data(1, CHUNK)).await.is_err());
    assert!(disk.accept(data(0, CHUNK)).await.is_err(), "after an error the disk is given up");
    let mut disk = session.disk("disks/b", 2 * CHUNK as u64, None).await.unwrap();
    disk.accept(data(0, CHUNK)).await.unwrap();
    assert!(disk.accept(data(CHUNK as u64, CHUNK + 1)).await.is_err());
    let mut disk = session.disk("disks/c", 2 * CHUNK as u64, None).await.unwrap();
    disk.accept(data(0, CHUNK)).await.unwrap();
    assert!(matches!(disk.close().await, Err(Error::Misuse { .. })), "a short disk is no disk");
    let mut disk = session.disk("disks/d", CHUNK as u64, None).await.unwrap();
    assert!(disk.accept(Extent::Unchanged { offset: 0, len: CHUNK as u64 }).await.is_err());
    assert!(matches!(session.seal(meta(1, None)).await, Err(Error::Misuse { .. })), "unfinished disks are not sealed");
    assert!(repository.points().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_backup_stops_and_leaves_nothing_listed() {
    let repository = init(Arc::new(MemoryRemote::new())).await;
    let options = BackupOptions::default();
    let session = repository.begin_backup(options.clone()).await.unwrap();
    let mut disk = session.disk("disks/a", 2 * CHUNK as u64, None).await.unwrap();
    disk.accept(Extent::Data { offset: 0, bytes: Bytes::from(noise(1, CHUNK)) }).await.unwrap();
    options.cancel.cancel();
    let error = disk.accept(Extent::Zero { offset: CHUNK as u64, len: CHUNK as u64 }).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Error::Cancelled)));
    assert!(repository.points().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_backup_had_indexed_is_not_stored_again() {
    let remote = Arc::new(MemoryRemote::new());
    let disk = noise(1, 800 * CHUNK);
    {
        let mut options = options();
        options.index_interval = std::time::Duration::ZERO;
        let repository = Repository::init(remote.clone(), &password(), options).await.unwrap();
        let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
        let mut writer = session.disk("disks/xvda.raw", disk.len() as u64, None).await.unwrap();
        for extent in extents(&disk, CHUNK).into_iter().take(700) {
            writer.accept(extent).await.unwrap();
        }
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while list(&remote, "index").await.len() < 2 {
            assert!(tokio::time::Instant::now() < deadline, "no index was written during the backup");
            tokio::task::yield_now().await;
        }
    }
    let repository = open(remote.clone()).await;
    assert!(repository.points().await.unwrap().is_empty());
    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    let closed = write_disk(&session, "disks/xvda.raw", disk.len(), extents(&disk, CHUNK), None).await.unwrap();
    assert!(closed.stats.new_chunks <= 800 - 2 * 255, "{:?}", closed.stats);
    session.seal(meta(1, None)).await.unwrap().publish().await.unwrap();
    assert!(repository.check(CheckLevel::ReadData).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_gives_back_what_no_point_needs_and_only_that() {
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let (shared, own) = (noise(1, 100 * CHUNK), noise(2, 300 * CHUNK));
    let kept_disk = [&shared[..], &noise(3, 20 * CHUNK)].concat();
    let gone = backup(&repository, 1, &[&shared[..], &own].concat()).await.unwrap();
    let kept = backup(&repository, 2, &kept_disk).await.unwrap();
    assert!(repository.plan_prune(prune_at_once()).await.unwrap().is_empty());
    repository.forget(gone).await.unwrap();
    repository.forget(gone).await.unwrap();

    let plan = repository.plan_prune(prune_at_once()).await.unwrap();
    let text = plan.to_string();
    assert!(text.contains("delete now:     0 packs") && plan.mark_bytes() > 300 * CHUNK as u64, "{text}");
    let first = repository.prune(plan).await.unwrap();
    assert!(first.marked_packs > 0 && first.repacked_packs > 0 && first.deleted_packs == 0, "{first}");
    let second = repository.prune(repository.plan_prune(prune_at_once()).await.unwrap()).await.unwrap();
    assert_eq!((second.deleted_packs, second.marked_packs), (first.marked_packs, 0), "{second}");
    assert!(repository.plan_prune(prune_at_once()).await.unwrap().is_empty());
    let stored: u64 = list(&remote, "data").await.iter().map(|info| info.size).sum();
    assert!(stored < 125 * CHUNK as u64, "{stored}");
    assert!(remote.list(&ObjectName::new("coffer").unwrap()).await.unwrap().is_empty());

    for repository in [repository, open(remote).await] {
        assert!(read_extents(&repository.point(kept).await.unwrap(), "disks/xvda.raw").await.unwrap() == kept_disk);
        assert!(repository.check(CheckLevel::ReadData).await.unwrap().is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_before_the_grace_is_over() {
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let gone = backup(&repository, 1, &noise(1, 10 * CHUNK)).await.unwrap();
    repository.forget(gone).await.unwrap();
    for _ in 0..3 {
        let report = repository.prune(repository.plan_prune(PruneOptions::default()).await.unwrap()).await.unwrap();
        assert_eq!(report.deleted_packs, 0);
    }
    assert_eq!(list(&remote, "data").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_began_before_a_prune_saves_the_packs_it_needs() {
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let disk = noise(1, 30 * CHUNK);
    let first = backup(&repository, 1, &disk).await.unwrap();
    let content = repository.point(first).await.unwrap().content("disks/xvda.raw").unwrap();
    let unchanged = || vec![Extent::Unchanged { offset: 0, len: disk.len() as u64 }];
    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    write_disk(&session, "disks/xvda.raw", disk.len(), unchanged(), Some(content.clone())).await.unwrap();
    repository.forget(first).await.unwrap();

    // Another agent marks what nothing seems to need.
    let other = open(remote.clone()).await;
    let report = other.prune(other.plan_prune(PruneOptions::default()).await.unwrap()).await.unwrap();
    assert!(report.marked_packs > 0);
    let sealed = session.seal(meta(2, None)).await.unwrap();
    sealed.publish().await.unwrap();
    other.prune(other.plan_prune(prune_at_once()).await.unwrap()).await.unwrap();
    other.prune(other.plan_prune(prune_at_once()).await.unwrap()).await.unwrap();
    let point = sealed.snapshot_id();
    assert!(
        read_extents(&open(remote.clone()).await.point(point).await.unwrap(), "disks/xvda.raw").await.unwrap() == disk
    );

    // A new backup does not build on marked packs, and one that comes too late is refused.
    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    write_disk(&session, "disks/xvda.raw", disk.len(), unchanged(), Some(content)).await.unwrap();
    repository.forget(point).await.unwrap();
    other.prune(other.plan_prune(prune_at_once()).await.unwrap()).await.unwrap();
    assert!(matches!(session.seal(meta(3, None)).await, Err(Error::PackMissing { .. })));
    let third = backup(&repository, 3, &disk).await.unwrap();
    other.prune(other.plan_prune(prune_at_once()).await.unwrap()).await.unwrap();
    assert!(read_extents(&open(remote).await.point(third).await.unwrap(), "disks/xvda.raw").await.unwrap() == disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_without_an_index_are_collected() {
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let kept = backup(&repository, 1, &noise(1, 10 * CHUNK)).await.unwrap();
    let indexes = list(&remote, "index").await;
    let cut = backup(&repository, 2, &noise(2, 10 * CHUNK)).await.unwrap();
    for index in list(&remote, "index").await {
        if !indexes.iter().any(|known| known.name == index.name) {
            remote.delete(&index.name).await.unwrap();
        }
    }
    repository.forget(cut).await.unwrap();
    let repository = open(remote.clone()).await;
    assert_eq!(repository.check(CheckLevel::Structure).await.unwrap().unindexed_packs, 2);
    for _ in 0..2 {
        repository.prune(repository.plan_prune(prune_at_once()).await.unwrap()).await.unwrap();
    }
    assert_eq!(list(&remote, "data").await.len(), 2);
    assert!(repository.check(CheckLevel::ReadData).await.unwrap().is_clean());
    assert!(repository.point(kept).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_object_gives_an_error_and_never_wrong_bytes() {
    let original = MemoryRemote::new();
    let repository = init(Arc::new(original.clone())).await;
    let disk = noise(1, 20 * CHUNK + 3);
    let id: SnapshotId = backup(&repository, 1, &disk).await.unwrap();
    let everything = original.list(&ObjectName::new("repository").unwrap()).await.unwrap();
    assert_eq!(everything.len(), 6, "config, key, two packs, index, snapshot");
    for object in everything {
        for how in Loss::ALL {
            let remote = Arc::new(original.fork());
            how.happen(&remote, &object.name).await;
            let restored = async {
                let repository = Repository::open(remote.clone(), &password(), options()).await?;
                let point = repository.point(id).await?;
                let read = read_extents(&point, "disks/xvda.raw").await.map_err(inner)?;
                assert!(read == disk, "{} {how:?}: wrong bytes", object.name);
                Ok::<_, Error>(())
            };
            let error = restored.await.unwrap_err();
            assert!(!error.advice().is_empty());
            if let Ok(repository) = Repository::open(remote.clone(), &password(), options()).await {
                let report = repository.check(CheckLevel::ReadData).await.unwrap();
                let listed = repository.points().await.unwrap();
                assert!(!report.is_clean() || listed.is_empty(), "{} {how:?}: check saw nothing", object.name);
                let pruned = match repository.plan_prune(prune_at_once()).await {
                    Ok(plan) => repository.prune(plan).await.map(|_| ()),
                    Err(error) => Err(error),
                };
                let is_snapshot_gone = object.name.as_str().contains("snapshots") && *how == Loss::Absent;
                let is_data_pack = *how != Loss::Absent && object.name.as_str().contains("/data/");
                assert!(
                    pruned.is_err() || is_snapshot_gone || is_data_pack,
                    "{} {how:?}: pruned all the same",
                    object.name
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_names_the_disk_and_its_range_and_the_rest_is_readable() {
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let disk = noise(1, 20 * CHUNK);
    let id = backup(&repository, 1, &disk).await.unwrap();
    let largest = list(&remote, "data").await.into_iter().max_by_key(|info| info.size).unwrap();
    Loss::Flipped.happen(&remote, &largest.name).await;
    let point = open(remote.clone()).await.point(id).await.unwrap();
    let reader = point.disk("disks/xvda.raw").unwrap();
    let (mut bad, mut good) = (Vec::new(), 0);
    for chunk in 0..20 {
        match reader.read_at(chunk * CHUNK as u64, CHUNK).await {
            Ok(bytes) => {
                let start = usize::try_from(chunk).unwrap() * CHUNK;
                assert!(bytes == disk[start..start + CHUNK]);
                good += 1;
            }
            Err(error) => bad.push((chunk, error)),
        }
    }
    assert_eq!((good, bad.len()), (19, 1));
    match bad[0].1.downcast_ref() {
        Some(Error::Unreadable { path, start, end, .. }) => {
            assert_eq!(
                (path.as_str(), *start, *end),
                ("disks/xvda.raw", bad[0].0 * CHUNK as u64, (bad[0].0 + 1) * CHUNK as u64)
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(read_extents(&point, "disks/xvda.raw").await.is_err());
    let report = open(remote).await.check(CheckLevel::ReadData).await.unwrap();
    assert_eq!(report.damaged_snapshots, [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_disks_share_one_pipeline_and_store_common_chunks_once() {
    let remote = Arc::new(MemoryRemote::new());
    let repository = init(remote.clone()).await;
    let disk = noise(1, 400 * CHUNK);
    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    let paths: Vec<String> = (0..4).map(|number| format!("disks/xvd{number}.raw")).collect();
    let writes = paths.iter().map(|path| write_disk(&session, path, disk.len(), extents(&disk, CHUNK), None));
    let closed = futures::future::try_join_all(writes).await.unwrap();
    assert_eq!(closed.iter().map(|disk| disk.stats.new_chunks).sum::<u64>(), 400);
    let sealed = session.seal(meta(1, None)).await.unwrap();
    sealed.publish().await.unwrap();
    let point = repository.point(sealed.snapshot_id()).await.unwrap();
    assert_eq!(point.files().len(), 4);
    for path in &paths {
        assert!(read_extents(&point, path).await.unwrap() == disk);
    }
}

/// Swaps what a remote holds for `other`, keeping what it held.
async fn swap(remote: &MemoryRemote, other: &MemoryRemote) -> MemoryRemote {
    let before = remote.fork();
    for info in remote.list(&ObjectName::new("repository").unwrap()).await.unwrap() {
        remote.delete(&info.name).await.unwrap();
    }
    for info in other.list(&ObjectName::new("repository").unwrap()).await.unwrap() {
        remote.overwrite(&info.name, other.read(&info.name).await.unwrap());
    }
    before
}

async fn everything(remote: &MemoryRemote) -> Vec<(ObjectName, u64)> {
    let mut all = remote.list(&ObjectName::new("repository").unwrap()).await.unwrap();
    all.extend(remote.list(&ObjectName::new("coffer").unwrap()).await.unwrap());
    all.into_iter().map(|info| (info.name, info.size)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_gone_or_another_is_neither_written_to_nor_believed() {
    let other = MemoryRemote::new();
    let stranger = init(Arc::new(other.clone())).await;
    backup(&stranger, 1, &noise(9, 3 * CHUNK)).await.unwrap();
    for wrong in [MemoryRemote::new(), other] {
        let is_gone = everything(&wrong).await.is_empty();
        let expected = |error: &Error| {
            assert!(error.is_retryable() && error.advice().contains("mounted"), "{error}");
            match error {
                Error::RepositoryGone { .. } => is_gone,
                Error::OtherRepository { .. } => !is_gone,
                _ => false,
            }
        };
        let remote = MemoryRemote::new();
        let repository = init(Arc::new(remote.clone())).await;
        let point = backup(&repository, 1, &noise(1, 5 * CHUNK)).await.unwrap();
        let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
        session.file("vm.json", Bytes::from_static(b"{}")).await.unwrap();
        let sealed = session.seal(meta(2, None)).await.unwrap();
        let plan = repository.plan_prune(prune_at_once()).await.unwrap();

        let right = swap(&remote, &wrong).await;
        let before = everything(&remote).await;
        let secret = password();
        let known = Repository::open_known(Arc::new(remote.clone()), &secret, options(), repository.id());
        let refusals = [
            known.await.unwrap_err(),
            repository.begin_backup(BackupOptions::default()).await.unwrap_err(),
            sealed.publish().await.unwrap_err(),
            repository.points().await.unwrap_err(),
            repository.point(point).await.unwrap_err(),
            repository.forget(point).await.unwrap_err(),
            repository.plan_prune(prune_at_once()).await.unwrap_err(),
            repository.prune(plan).await.unwrap_err(),
            repository.check(CheckLevel::Structure).await.unwrap_err(),
        ];
        for error in &refusals {
            assert!(expected(error), "{error:?}");
        }
        assert_eq!(everything(&remote).await, before, "something was changed in the wrong place");

        swap(&remote, &right).await;
        repository.confirm().await.unwrap();
        sealed.publish().await.unwrap();
        let reopened = Repository::open_known(Arc::new(remote), &secret, options(), repository.id());
        let reopened = reopened.await.unwrap();
        assert_eq!(reopened.points().await.unwrap().len(), 2);
        assert!(reopened.check(CheckLevel::ReadData).await.unwrap().is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_loses_its_permission_deletes_nothing_more() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let original = MemoryRemote::new();
    let repository = init(Arc::new(original.clone())).await;
    backup(&repository, 1, &noise(1, 10 * CHUNK)).await.unwrap();
    let gone = backup(&repository, 2, &noise(2, 10 * CHUNK)).await.unwrap();
    repository.forget(gone).await.unwrap();
    repository.prune(repository.plan_prune(prune_at_once()).await.unwrap()).await.unwrap();
    // One for the mark, one for the index, one for each of two packs, one for the marks.
    for granted in 0..5 {
        let remote = original.fork();
        let repository = open(Arc::new(remote.clone())).await;
        let (asked, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
        let permission = Permission::new({
            let refused = refused.clone();
            move || {
                if asked.fetch_add(1, Ordering::SeqCst) < granted {
                    return Box::pin(std::future::ready(()));
                }
                refused.notify_one();
                Box::pin(std::future::pending())
            }
        });
        let plan = repository.plan_prune(PruneOptions { permission, ..prune_at_once() }).await.unwrap();
        tokio::select! {
            done = repository.prune(plan) => panic!("went on without permission: {done:?}"),
            () = refused.notified() => {}
        }
        let left = list(&remote, "data").await.len();
        assert_eq!(left, 4 - granted.saturating_sub(2).min(2), "{granted} permissions");
    }
}
