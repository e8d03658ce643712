//! Restore is exact: random disks, random writes between restore points, random damage to what deltas rely on, points
//! deleted in a random order; every point that is left becomes the disks of its instant, bit for bit, whatever the
//! disks were read by.
//!
//! The plans are new ones in every run: their seeds come from the operating system. A failure says with which seed it
//! comes again: `COFFER_EXACT_SEED` is the seed of the first plan, further ones follow it by one; `COFFER_EXACT_CASES`
//! is how many are played for each way of reading (3).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use coffer_proto::v1::{DeleteRestorePointsRequest, PruneRemoteRequest};
use coffer_scenarios::{Site, SiteOptions, Vm};
use futures::future::try_join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use simpool::control::{Content, Digest, DiskSpec, SrKind, SrSpec, VmSpec, Write};
use uuid::Uuid;

const MIB: u64 = 1 << 20;

/// How the disks of a site are read when nothing is wrong.
#[derive(Clone, Copy, Debug)]
struct Way {
    source: &'static str,
    nbd: &'static str,
    storage: SrKind,
}

const CHANGED_BLOCKS: Way = Way { source: "nbd+cbt", nbd: "tls", storage: SrKind::Nfs };
const NBD: Way = Way { source: "nbd", nbd: "tls", storage: SrKind::Linstor };
const VHD_DELTA: Way = Way { source: "vhd-delta", nbd: "off", storage: SrKind::Ext };
const VHD_FULL: Way = Way { source: "vhd-full", nbd: "off", storage: SrKind::Linstor };
/// NBD without TLS is not used, because the name of an export holds the session.
const UNENCRYPTED_NBD: Way = Way { source: "vhd-full", nbd: "plain", storage: SrKind::Ext };

#[tokio::test]
async fn restores_of_what_was_read_by_changed_blocks_are_exact() -> Result<()> {
    play_all(CHANGED_BLOCKS).await
}

#[tokio::test]
async fn restores_of_what_was_read_over_nbd_are_exact() -> Result<()> {
    play_all(NBD).await
}

#[tokio::test]
async fn restores_of_what_was_read_as_vhd_differences_are_exact() -> Result<()> {
    play_all(VHD_DELTA).await
}

#[tokio::test]
async fn restores_of_what_was_read_as_whole_vhds_are_exact() -> Result<()> {
    play_all(VHD_FULL).await
}

#[tokio::test]
async fn restores_of_what_a_pool_with_unencrypted_nbd_gave_are_exact() -> Result<()> {
    play_all(UNENCRYPTED_NBD).await
}

/// A disk: its size in MiB, its seed, how much of it is filled.
#[derive(Clone, Debug)]
struct DiskPlan {
    mib: u64,
    seed: u64,
    percent: f64,
}

/// What a guest does to a disk; offsets and lengths are shares of the disk.
#[derive(Clone, Debug)]
enum Act {
    Random { at: f64, share: f64, seed: u64 },
    Zeros { at: f64, share: f64 },
    Scattered { percent: f64, seed: u64 },
}

/// What goes wrong with a disk before it is backed up.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    LosesTracking,
    Grows,
}

/// What happens between two restore points, and after the second.
#[derive(Clone, Debug)]
struct Round {
    /// On which disk (of so many, by remainder).
    acts: Vec<(usize, Act)>,
    mishap: Option<(usize, Mishap)>,
    /// A point to delete, by remainder.
    delete: Option<usize>,
}

#[derive(Clone, Debug)]
struct Plan {
    disks: Vec<DiskPlan>,
    rounds: Vec<Round>,
    /// In which order points are deleted in the end, by remainder.
    deletions: Vec<usize>,
}

fn act() -> impl Strategy<Value = Act> {
    let share = || (0.0..1.0_f64).prop_map(|share| share * share * share);
    prop_oneof![
        3 => (0.0..1.0_f64, share(), any::<u64>()).prop_map(|(at, share, seed)| Act::Random { at, share, seed }),
        2 => (0.0..1.0_f64, share()).prop_map(|(at, share)| Act::Zeros { at, share }),
        1 => (0.0..20.0_f64, any::<u64>()).prop_map(|(percent, seed)| Act::Scattered { percent, seed }),
    ]
}

fn sometimes<T: Clone + std::fmt::Debug + 'static>(
    never: bool,
    what: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    if never { Just(None).boxed() } else { prop::option::weighted(0.4, what).boxed() }
}

fn round(calm: bool) -> impl Strategy<Value = Round> {
    let acts = prop::collection::vec((any::<usize>(), act()), 0..5);
    let mishap = prop_oneof![Just(Mishap::LosesTracking), Just(Mishap::Grows)];
    let mishap = sometimes(calm, (any::<usize>(), mishap));
    let delete = sometimes(calm, any::<usize>());
    (acts, mishap, delete).prop_map(|(acts, mishap, delete)| Round { acts, mishap, delete })
}

fn plan() -> impl Strategy<Value = Plan> {
    let disk =
        (1..24_u64, any::<u64>(), 0.0..100.0_f64).prop_map(|(mib, seed, percent)| DiskPlan { mib, seed, percent });
    let rounds = prop::collection::vec(round(false), 1..4);
    // The last two are calm: then the way of reading that is meant must have been found again.
    let calm = [round(true), round(true)];
    (prop::collection::vec(disk, 1..4), rounds, calm, prop::collection::vec(any::<usize>(), 1..3)).prop_map(
        |(disks, mut rounds, calm, deletions)| {
            rounds.extend(calm);
            Plan { disks, rounds, deletions }
        },
    )
}

/// The plan of a seed: always the same.
fn plan_of(seed: u64) -> Result<Plan> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    Ok(plan().new_tree(&mut runner).map_err(|reason| anyhow::anyhow!("{reason}"))?.current())
}

fn variable(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name} is a number")))
}

/// Plays plans that nobody has seen before, all at once: most of the time they wait.
async fn play_all(way: Way) -> Result<()> {
    let first = variable("COFFER_EXACT_SEED", Uuid::new_v4().as_u64_pair().0)?;
    let seeds = (0..variable("COFFER_EXACT_CASES", 3)?).map(|case| first.wrapping_add(case));
    let cases = seeds.map(async |seed| {
        let plan = plan_of(seed)?;
        play(way, &plan).await.with_context(|| {
            format!(
                "{way:?}, to play it again: COFFER_EXACT_SEED={seed} COFFER_EXACT_CASES=1 tests/run are_exact\n{plan:#?}"
            )
        })
    });
    try_join_all(cases).await.map(drop)
}

async fn play(way: Way, plan: &Plan) -> Result<()> {
    let site = Site::start_with(SiteOptions { nbd: way.nbd, ..Default::default() }).await?;
    let vm = make_vm(&site, way, plan).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    let mut expected = BTreeMap::new();
    let mut sources = BTreeSet::new();
    back_up(&site, &vm, &job, &mut expected).await?;
    for round in &plan.rounds {
        for (disk, act) in &round.acts {
            write(&site, &vm.disks[disk % vm.disks.len()], act).await?;
        }
        if let Some((disk, mishap)) = round.mishap {
            let disk = &vm.disks[disk % vm.disks.len()];
            match mishap {
                Mishap::LosesTracking => site.hosts.break_cbt(disk).await?,
                Mishap::Grows => site.hosts.resize_disk(disk, site.hosts.digest(disk).await?.size + 3 * MIB).await?,
            }
        }
        sources = back_up(&site, &vm, &job, &mut expected).await?;
        if let Some(which) = round.delete {
            delete(&site, &vm, which).await?;
        }
    }
    ensure!(sources == BTreeSet::from([way.source.to_owned()]), "the last backup was read by {sources:?}");

    for which in &plan.deletions {
        delete(&site, &vm, *which).await?;
    }
    let request = PruneRemoteRequest { name: Site::REMOTE.into(), ..Default::default() };
    let run = site.api.remotes.clone().prune_remote(request).await?.into_inner();
    site.api.succeeded(&site.api.ended(&run.name).await?).await?;
    every_point_is_exact(&site, &vm, &expected).await?;
    site.restic(&["check", "--read-data"]).await?;
    let left = site.leftovers().await?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

async fn make_vm(site: &Site, way: Way, plan: &Plan) -> Result<Vm> {
    let storage = SrSpec { name: "Plan".into(), kind: way.storage, ..Default::default() };
    site.hosts.create_sr(&storage).await?;
    let disks = plan.disks.iter().map(|disk| DiskSpec {
        sr: storage.name.clone(),
        size: disk.mib * MIB,
        content: Content::Seeded { seed: disk.seed, percent: disk.percent },
        ..Default::default()
    });
    let spec = VmSpec { name: "random".into(), running: true, disks: disks.collect(), ..Default::default() };
    site.create_vm_like(&spec).await
}

/// Lets a guest write, at sectors as guests do.
async fn write(site: &Site, disk: &str, act: &Act) -> Result<()> {
    let size = site.hosts.digest(disk).await?.size;
    let range = |at: f64, share: f64| {
        let sectors = size / 512;
        let part = |of: u64, share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a share"
            )]
            let part = (of as f64 * share) as u64;
            part.min(of - 1)
        };
        let first = part(sectors, at);
        (first * 512, (part(sectors - first, share) + 1) * 512)
    };
    let write = match *act {
        Act::Random { at, share, seed } => {
            let (offset, length) = range(at, share);
            Write::Random { offset, length, seed }
        }
        Act::Zeros { at, share } => {
            let (offset, length) = range(at, share);
            Write::Zeros { offset, length }
        }
        Act::Scattered { percent, seed } => Write::Percent { percent, seed },
    };
    site.hosts.write(disk, write).await?;
    Ok(())
}

/// Makes a restore point and notes what it must be; what the disks were read by.
async fn back_up(
    site: &Site,
    vm: &Vm,
    job: &str,
    expected: &mut BTreeMap<String, Vec<Digest>>,
) -> Result<BTreeSet<String>> {
    let digests = site.digests(&vm.uuid).await?;
    let run = site.api.run_job(job).await?;
    let tasks = site.api.succeeded(&run).await?;
    expected.insert(run.name, digests);
    Ok(tasks.into_iter().flat_map(|task| task.disks).map(|disk| disk.source).collect())
}

/// Deletes a restore point, unless it is the last one.
async fn delete(site: &Site, vm: &Vm, which: usize) -> Result<()> {
    let points = site.api.restore_points(&vm.uuid).await?;
    if points.len() < 2 {
        return Ok(());
    }
    let names = vec![points[which % points.len()].name.clone()];
    let request = DeleteRestorePointsRequest { names, ..Default::default() };
    let run = site.api.points.clone().delete_restore_points(request).await?.into_inner();
    site.api.succeeded(&site.api.ended(&run.name).await?).await?;
    ensure!(site.api.restore_points(&vm.uuid).await?.len() == points.len() - 1, "it is still listed");
    Ok(())
}

async fn every_point_is_exact(site: &Site, vm: &Vm, expected: &BTreeMap<String, Vec<Digest>>) -> Result<()> {
    let sr = site.sr("Shared NFS").await?;
    let points = site.api.restore_points(&vm.uuid).await?;
    ensure!(!points.is_empty(), "no restore point is left");
    for point in points {
        let restored = site.api.restore(&point.name, &sr).await?;
        let is = site.digests(&restored).await?;
        let should = expected.get(&point.run).context("a point of a run of ours")?;
        ensure!(&is == should, "{} of {} is {is:?} and should be {should:?}", point.name, point.run);
        site.hosts.delete_vm(&restored).await?;
    }
    Ok(())
}
