//! The remote (or this process) goes away at every single operation: what was listed stays exact, and the next backup
//! works.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_remote::{FailingRemote, Fault, MemoryRemote, ObjectName, Remote};
use coffer_repository::{BackupOptions, CheckLevel, Error, PruneOptions, Repository, RepositoryOptions};
use support::*;

const CHUNKS: usize = 24;

fn disk(version: u64) -> Vec<u8> {
    let mut disk = noise(1, CHUNKS * CHUNK);
    for number in 0..4 {
        let start = usize::try_from(version * 5 + number).unwrap() % CHUNKS * CHUNK;
        disk[start..start + CHUNK].copy_from_slice(&noise(100 + version * 10 + number, CHUNK));
    }
    disk
}

fn one_worker() -> RepositoryOptions {
    // One chunk at a time, so that operation k is the same in each try.
    RepositoryOptions { workers: 1, index_interval: Duration::ZERO, ..options() }
}

fn prune_at_once() -> PruneOptions {
    PruneOptions { grace: Duration::ZERO, repack_waste: 0.05, ..PruneOptions::default() }
}

/// The history before the crash: three points, of which the first is forgotten, and garbage in all stages of a prune.
async fn history() -> MemoryRemote {
    let remote = MemoryRemote::new();
    let repository = Repository::init(Arc::new(remote.clone()), &password(), one_worker()).await.unwrap();
    let first = backup(&repository, 1, &disk(1)).await.unwrap();
    backup(&repository, 2, &disk(2)).await.unwrap();
    let gone = backup(&repository, 3, &disk(3)).await.unwrap();
    repository.forget(gone).await.unwrap();
    repository.prune(repository.plan_prune(prune_at_once()).await.unwrap()).await.unwrap();
    repository.forget(first).await.unwrap();
    backup(&repository, 4, &disk(4)).await.unwrap();
    remote
}

/// Every listed point is exact, check is content, and a backup works.
async fn assert_sound(remote: &MemoryRemote, context: &str) {
    let repository = Repository::open(Arc::new(remote.clone()), &password(), one_worker()).await.unwrap();
    let points = repository.points().await.unwrap();
    assert!(points.len() >= 2, "{context}: a point was lost");
    for info in &points {
        let version = u64::try_from(info.time.as_second() - 1_700_000_000).unwrap();
        let point = repository.point(info.id).await.unwrap();
        assert!(
            read_extents(&point, "disks/xvda.raw").await.unwrap() == disk(version),
            "{context}: point {version} differs"
        );
    }
    let report = repository.check(CheckLevel::ReadData).await.unwrap();
    assert!(report.is_clean(), "{context}: {report:?}");
    let next = backup(&repository, 9, &disk(9)).await.unwrap_or_else(|error| panic!("{context}: {error:?}"));
    let point = repository.point(next).await.unwrap();
    assert!(read_extents(&point, "disks/xvda.raw").await.unwrap() == disk(9), "{context}: the next backup differs");
    // A lock that a crash left behind counts for nothing after half an hour, which is over now.
    for lock in remote.list(&ObjectName::new("repository/locks").unwrap()).await.unwrap() {
        remote.delete(&lock.name).await.unwrap();
    }
    // Each prune may mark what the one before it made superfluous; it has to come to rest.
    let mut left = Vec::new();
    for _ in 0..6 {
        let plan = repository.plan_prune(prune_at_once()).await.unwrap();
        repository.prune(plan).await.unwrap();
        left = remote.list(&ObjectName::new("coffer").unwrap()).await.unwrap();
        if left.is_empty() {
            break;
        }
    }
    let report = repository.check(CheckLevel::ReadData).await.unwrap();
    assert!(report.is_clean() && report.unindexed_packs == 0, "{context}, pruned: {report:?}");
    assert!(left.is_empty(), "{context}: {left:?} is left");
}

async fn delta_backup(repository: &Repository) -> Result<(), Error> {
    let parent = repository.points().await?.pop().expect("there are points");
    let content = repository.point(parent.id).await?.content("disks/xvda.raw")?;
    let session = repository.begin_backup(BackupOptions::default()).await?;
    let changes = delta(&disk(4), &disk(5), CHUNK);
    write_disk(&session, "disks/xvda.raw", CHUNKS * CHUNK, changes, Some(content)).await?;
    session.file("vm.json", Bytes::from_static(b"{}")).await?;
    let sealed = session.seal(meta(5, Some(parent.id))).await?;
    sealed.publish().await
}

async fn forget_and_prune(repository: &Repository) -> Result<(), Error> {
    let oldest = repository.points().await?.remove(0);
    if repository.points().await?.len() > 2 {
        repository.forget(oldest.id).await?;
    }
    for _ in 0..2 {
        let plan = repository.plan_prune(prune_at_once()).await?;
        repository.prune(plan).await?;
    }
    Ok(())
}

/// Runs `work` on a copy of `before` once for each operation and each way to fail there.
async fn fail_everywhere<W>(before: MemoryRemote, work: impl Fn(Repository) -> W)
where
    W: Future<Output = Result<(), Error>>,
{
    let ways: [fn(u64) -> Fault; 4] = [
        |at| Fault::Once { at },
        |at| Fault::From { at },
        |at| Fault::AfterEffect { at },
        |at| Fault::AfterEffectOnce { at },
    ];
    for way in ways {
        for at in 0.. {
            let disk = before.fork();
            let failing = Arc::new(FailingRemote::new(disk.clone()));
            let repository = Repository::open(failing.clone(), &password(), one_worker()).await.unwrap();
            failing.inject(Some(way(at)));
            let done = work(repository).await;
            let operations = failing.operations();
            if operations <= at {
                done.unwrap();
                assert!(at > 10, "hardly anything was tried");
                break;
            }
            assert_sound(&disk.fork(), &format!("{:?}, {done:?}", way(at))).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_breaks_off_at_any_operation_hurts_nothing() {
    fail_everywhere(history().await, |repository| async move { delta_backup(&repository).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_breaks_off_at_any_operation_hurts_nothing() {
    fail_everywhere(history().await, |repository| async move { forget_and_prune(&repository).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_that_fills_up_is_said_to_be_full_and_hurts_nothing() {
    let before = history().await;
    for bytes in [0, 1000, 100_000, 263_000, 264_000] {
        let disk = before.fork();
        let failing = Arc::new(FailingRemote::new(disk.clone()));
        let repository = Repository::open(failing.clone(), &password(), one_worker()).await.unwrap();
        failing.inject(Some(Fault::FullAfter { bytes }));
        let error = delta_backup(&repository).await.unwrap_err();
        assert!(error.advice().contains("free space") && !error.is_retryable(), "{error:?}");
        failing.inject(None);
        delta_backup(&repository).await.unwrap();
        assert_sound(&disk, &format!("full after {bytes}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_breaks_off_while_it_is_made_can_be_made_again() {
    for at in 0..20 {
        for fault in [Fault::From { at }, Fault::AfterEffect { at }] {
            let remote = MemoryRemote::new();
            let failing = Arc::new(FailingRemote::new(remote.clone()));
            failing.inject(Some(fault));
            let _ = Repository::open_or_init(failing.clone(), &password(), options()).await;
            let repository = Repository::open_or_init(Arc::new(remote.clone()), &password(), options()).await.unwrap();
            backup(&repository, 1, &disk(1)).await.unwrap();
            assert_eq!(repository.keys().await.unwrap().len(), 1, "stock programs would try a key that opens nothing");
        }
    }
}
