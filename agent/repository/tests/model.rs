//! Random disks, writes, deltas, deletions, prunes and losses against a model that keeps every disk in memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coffer_remote::{MemoryRemote, ObjectName, Remote};
use coffer_repository::{BackupOptions, CheckLevel, Error, FileContent, PruneOptions, Repository, SnapshotId};
use proptest::prelude::*;
use support::*;

#[derive(Debug, Clone)]
enum Step {
    /// The guest writes.
    Write {
        start: usize,
        length: usize,
        seed: u64,
    },
    /// The guest discards.
    Discard {
        start: usize,
        length: usize,
    },
    Resize {
        size: usize,
    },
    /// A backup: whole, or a delta against the given point, compared in the given steps.
    Backup {
        parent: Option<prop::sample::Index>,
        step: usize,
    },
    Forget {
        point: prop::sample::Index,
    },
    Prune {
        repack_waste: f64,
    },
    /// A pack is damaged or lost, and that is found.
    Lose {
        pack: prop::sample::Index,
        how: Loss,
    },
    /// A new process.
    Reopen,
}

fn step(losses: u32) -> impl Strategy<Value = Step> {
    let size = 20 * CHUNK;
    prop_oneof![
        4 => (0..size, 1..3 * CHUNK, 0..5_u64).prop_map(|(start, length, seed)| Step::Write { start, length, seed }),
        2 => (0..size, 1..4 * CHUNK).prop_map(|(start, length)| Step::Discard { start, length }),
        1 => (0..=size).prop_map(|size| Step::Resize { size }),
        5 => (any::<Option<prop::sample::Index>>(), prop_oneof![Just(CHUNK), Just(2 * CHUNK), 1000..2 * CHUNK])
            .prop_map(|(parent, step)| Step::Backup { parent, step }),
        2 => any::<prop::sample::Index>().prop_map(|point| Step::Forget { point }),
        2 => (0.0..0.9).prop_map(|repack_waste| Step::Prune { repack_waste }),
        1 => Just(Step::Reopen),
        losses => (any::<prop::sample::Index>(), prop::sample::select(Loss::ALL)).prop_map(|(pack, how)| Step::Lose { pack, how }),
    ]
}

/// Returns whether a point was damaged at the end.
async fn run(steps: Vec<Step>) -> bool {
    let mut was_damaged = false;
    let remote = Arc::new(MemoryRemote::new());
    let mut repository = init(remote.clone()).await;
    let mut disk = noise(1, 10 * CHUNK + 77);
    let mut model: BTreeMap<SnapshotId, Vec<u8>> = BTreeMap::new();
    for (second, step) in steps.into_iter().enumerate() {
        match step {
            Step::Write { start, length, seed } => {
                let end = (start + length).min(disk.len());
                if start < end {
                    disk[start..end].copy_from_slice(&noise(seed, end - start));
                }
            }
            Step::Discard { start, length } => {
                let end = (start + length).min(disk.len());
                if start < end {
                    disk[start..end].fill(0);
                }
            }
            Step::Resize { size } => disk.resize(size, 0),
            Step::Backup { parent, step } => {
                let points: Vec<SnapshotId> = model.keys().copied().collect();
                let parent = parent.filter(|_| !points.is_empty()).map(|parent| points[parent.index(points.len())]);
                let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
                let content = match parent {
                    Some(parent) => sound_content(&repository, parent).await,
                    None => None,
                };
                let given = match (&content, parent) {
                    (Some(_), Some(parent)) => delta(&model[&parent], &disk, step),
                    _ => extents(&disk, step),
                };
                write_disk(&session, "disks/xvda.raw", disk.len(), given, content).await.unwrap();
                let sealed = session.seal(meta(i64::try_from(second).unwrap(), parent)).await.unwrap();
                sealed.publish().await.unwrap();
                model.insert(sealed.snapshot_id(), disk.clone());
                // Whatever was lost before.
                let point = repository.point(sealed.snapshot_id()).await.unwrap();
                assert!(read_extents(&point, "disks/xvda.raw").await.unwrap() == disk);
            }
            Step::Forget { point } => {
                let points: Vec<SnapshotId> = model.keys().copied().collect();
                if !points.is_empty() {
                    let point = points[point.index(points.len())];
                    repository.forget(point).await.unwrap();
                    model.remove(&point);
                }
            }
            Step::Prune { repack_waste } => prune(&repository, repack_waste).await,
            Step::Lose { pack, how } => {
                let packs = remote.list(&ObjectName::new("repository/data").unwrap()).await.unwrap();
                if !packs.is_empty() {
                    how.happen(&remote, &packs[pack.index(packs.len())].name).await;
                    repository.check(CheckLevel::ReadData).await.unwrap();
                }
            }
            Step::Reopen => repository = open(remote.clone()).await,
        }
    }
    for repository in [repository, open(remote.clone()).await] {
        assert_as_modelled(&repository, &model).await;
        // What is lost for good goes with the points that need it; then nothing is left of the damage.
        for damaged in repository.check(CheckLevel::ReadData).await.unwrap().damaged_snapshots {
            repository.forget(damaged).await.unwrap();
            model.remove(&damaged);
            was_damaged = true;
        }
        for _ in 0..3 {
            prune(&repository, 0.5).await;
        }
        let report = repository.check(CheckLevel::ReadData).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert!(remote.list(&ObjectName::new("coffer").unwrap()).await.unwrap().is_empty());
        assert_as_modelled(&repository, &model).await;
    }
    was_damaged
}

/// The content of a point, unless a part of it is lost.
async fn sound_content(repository: &Repository, point: SnapshotId) -> Option<FileContent> {
    let content = repository.point(point).await.ok()?.content("disks/xvda.raw").unwrap();
    repository.is_sound(&content).await.then_some(content)
}

/// Refused only while a point is damaged.
async fn prune(repository: &Repository, repack_waste: f64) {
    let options = PruneOptions { grace: Duration::ZERO, repack_waste, ..PruneOptions::default() };
    match repository.plan_prune(options).await {
        Ok(plan) => drop(repository.prune(plan).await.unwrap()),
        Err(error) => {
            assert!(matches!(error, Error::PruneRefused { .. }), "{error}");
            assert!(!repository.check(CheckLevel::ReadData).await.unwrap().damaged_snapshots.is_empty(), "{error}");
        }
    }
}

async fn assert_as_modelled(repository: &Repository, model: &BTreeMap<SnapshotId, Vec<u8>>) {
    let mut points: Vec<SnapshotId> = repository.points().await.unwrap().into_iter().map(|point| point.id).collect();
    points.sort_unstable();
    assert_eq!(points, model.keys().copied().collect::<Vec<_>>());
    let damaged = repository.check(CheckLevel::ReadData).await.unwrap().damaged_snapshots;
    for (id, disk) in model {
        if damaged.contains(id) {
            assert_never_wrong(repository, *id, disk).await;
            continue;
        }
        let point = repository.point(*id).await.unwrap();
        assert!(read_extents(&point, "disks/xvda.raw").await.unwrap() == *disk);
        assert!(read_blocks(&point, "disks/xvda.raw").await == *disk);
    }
}

/// A damaged point is read right (the damage is in no disk), or not at all.
async fn assert_never_wrong(repository: &Repository, id: SnapshotId, disk: &[u8]) {
    if let Ok(point) = repository.point(id).await
        && let Ok(extents) = point.extents("disks/xvda.raw")
        && let Ok(read) = read_all(extents).await
    {
        assert!(read == disk);
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_listed_point_is_exact_whatever_happened(steps in proptest::collection::vec(step(0), 1..25)) {
        let damaged = block_on(run(steps));
        prop_assert!(!damaged);
    }

    #[test]
    fn what_is_lost_is_stored_again_and_nothing_is_ever_read_wrong(steps in proptest::collection::vec(step(3), 1..25)) {
        block_on(run(steps));
    }
}
