//! Random disks, writes, deltas, deletions and prunes against a model that keeps every disk in memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coffer_remote::MemoryRemote;
use coffer_repository::{BackupOptions, CheckLevel, PruneOptions, Repository, SnapshotId};
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
    /// A new process.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
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
    ]
}

async fn run(steps: Vec<Step>) {
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
                let (content, given) = match parent {
                    Some(parent) => {
                        let content = repository.point(parent).await.unwrap().content("disks/xvda.raw").unwrap();
                        (Some(content), delta(&model[&parent], &disk, step))
                    }
                    None => (None, extents(&disk, step)),
                };
                write_disk(&session, "disks/xvda.raw", disk.len(), given, content).await.unwrap();
                let sealed = session.seal(meta(i64::try_from(second).unwrap(), parent)).await.unwrap();
                sealed.publish().await.unwrap();
                model.insert(sealed.snapshot_id(), disk.clone());
            }
            Step::Forget { point } => {
                let points: Vec<SnapshotId> = model.keys().copied().collect();
                if !points.is_empty() {
                    let point = points[point.index(points.len())];
                    repository.forget(point).await.unwrap();
                    model.remove(&point);
                }
            }
            Step::Prune { repack_waste } => {
                let options = PruneOptions { grace: Duration::ZERO, repack_waste, ..PruneOptions::default() };
                let plan = repository.plan_prune(options).await.unwrap();
                repository.prune(plan).await.unwrap();
            }
            Step::Reopen => repository = open(remote.clone()).await,
        }
    }
    assert_as_modelled(&repository, &model).await;
    assert_as_modelled(&open(remote).await, &model).await;
}

async fn assert_as_modelled(repository: &Repository, model: &BTreeMap<SnapshotId, Vec<u8>>) {
    let mut points: Vec<SnapshotId> = repository.points().await.unwrap().into_iter().map(|point| point.id).collect();
    points.sort_unstable();
    assert_eq!(points, model.keys().copied().collect::<Vec<_>>());
    for (id, disk) in model {
        let point = repository.point(*id).await.unwrap();
        assert!(read_extents(&point, "disks/xvda.raw").await.unwrap() == *disk);
        assert!(read_blocks(&point, "disks/xvda.raw").await == *disk);
    }
    let report = repository.check(CheckLevel::ReadData).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_listed_point_is_exact_whatever_happened(steps in proptest::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
