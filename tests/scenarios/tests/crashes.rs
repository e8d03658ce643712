//! Crash at any step leaves nothing behind: whichever program is killed at whichever moment of a backup or a restore,
//! the run ends, nothing of ours is left in the pool, nothing half-written is listed, and the next run succeeds.
//!
//! Moments are not left to chance: a gate between agent and controller holds the call that tells of a step, before it
//! arrives or before its answer does, and the program is killed then.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::future::Future;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use coffer_proto::v1::{CreateRestoreRequest, Restore, run};
use coffer_scenarios::{Held, Moment, Site, SiteOptions, Vm, eventually, until};
use futures::future::try_join_all;
use simpool::control::{Digest, Fault, FaultId};

const MIB: u64 = 1 << 20;

/// Sites that play at once: most of the time they wait.
const SITES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Agent,
    Controller,
    Pool,
}

/// When it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Between two steps, or between a step and its record.
    At(Moment),
    /// While the pool carries out the nth call of a method, which ends only after the kill.
    During(&'static str, u64),
    /// While disks are under way over this path.
    Transferring(&'static str),
    /// As soon as the snapshot's file lies in the repository: between the two halves of a publication.
    HalfPublished,
}

use Moment::{Begun, Completed, Completing, Done, Granted};
use When::{At, During, HalfPublished, Transferring};

const OF_A_BACKUP: [When; 20] = [
    At(Begun("preflight")),
    At(Done("preflight")),
    At(Begun("snapshot")),
    During("VM.snapshot", 1),
    At(Done("snapshot")),
    At(Begun("transfer")),
    Transferring("nbd"),
    At(Done("transfer")),
    At(Begun("seal")),
    At(Done("seal")),
    At(Begun("publish")),
    At(Granted),
    HalfPublished,
    At(Done("publish")),
    At(Begun("retention")),
    At(Done("retention")),
    At(Begun("remove-snapshot")),
    At(Done("remove-snapshot")),
    At(Completing),
    At(Completed),
];

/// Each also starts what it restored: so that this can be interrupted, too.
const OF_A_RESTORE: [When; 17] = [
    At(Begun("preflight")),
    At(Done("preflight")),
    At(Begun("create-vm")),
    During("VM.create", 1),
    During("VDI.create", 1),
    During("VDI.create", 2),
    At(Done("create-vm")),
    At(Begun("transfer")),
    Transferring("/import_raw_vdi"),
    At(Done("transfer")),
    At(Begun("finish")),
    At(Done("finish")),
    At(Begun("start")),
    During("VM.start", 1),
    At(Done("start")),
    At(Completing),
    At(Completed),
];

#[tokio::test]
async fn an_agent_killed_at_any_step_of_a_backup_leaves_nothing_behind() -> Result<()> {
    every(&OF_A_BACKUP, |moments| backups(Victim::Agent, moments)).await
}

#[tokio::test]
async fn a_controller_killed_at_any_step_of_a_backup_leaves_nothing_behind() -> Result<()> {
    every(&OF_A_BACKUP, |moments| backups(Victim::Controller, moments)).await
}

#[tokio::test]
async fn a_pool_killed_at_any_step_of_a_backup_leaves_nothing_behind() -> Result<()> {
    every(&OF_A_BACKUP, |moments| backups(Victim::Pool, moments)).await
}

#[tokio::test]
async fn an_agent_killed_at_any_step_of_a_restore_leaves_nothing_behind_or_a_whole_vm() -> Result<()> {
    every(&OF_A_RESTORE, |moments| restores(Victim::Agent, moments)).await
}

#[tokio::test]
async fn a_controller_killed_at_any_step_of_a_restore_leaves_nothing_behind_or_a_whole_vm() -> Result<()> {
    every(&OF_A_RESTORE, |moments| restores(Victim::Controller, moments)).await
}

#[tokio::test]
async fn a_pool_killed_at_any_step_of_a_restore_leaves_nothing_behind_or_a_whole_vm() -> Result<()> {
    every(&OF_A_RESTORE, |moments| restores(Victim::Pool, moments)).await
}

/// Deals the moments out to several sites, which play at once.
async fn every<F>(moments: &[When], play: impl Fn(Vec<When>) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let hands = (0..SITES).map(|first| moments.iter().copied().skip(first).step_by(SITES).collect());
    try_join_all(hands.map(play)).await.map(drop)
}

/// A site with a virtual machine that is backed up, and what is in its pool when nothing is under way.
struct Stage {
    site: Site,
    vm: Vm,
    job: String,
    idle: BTreeSet<String>,
    /// What the disks were when each run began.
    expected: BTreeMap<String, Vec<Digest>>,
}

impl Stage {
    async fn set_up() -> Result<Self> {
        let site = Site::start_with(SiteOptions { gated: true, ..Default::default() }).await?;
        let vm = site.create_vm("db1", &[40 * MIB, 20 * MIB]).await?;
        let job = site.create_job("nightly", &[&vm]).await?;
        let idle = census(&site).await?;
        let mut stage = Self { site, vm, job, idle, expected: BTreeMap::new() };
        stage.back_up().await?;
        Ok(stage)
    }

    async fn back_up(&mut self) -> Result<()> {
        let digests = self.site.digests(&self.vm.uuid).await?;
        let run = self.site.api.run_job(&self.job).await?;
        self.site.api.succeeded(&run).await?;
        self.expected.insert(run.name, digests);
        Ok(())
    }

    async fn crash(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Agent => self.site.crash_agent().await,
            Victim::Controller => self.site.crash_controller().await,
            Victim::Pool => self.site.crash_pool().await,
        }
    }

    /// The pool is as it was, and the repository holds no snapshot that is not listed.
    async fn nothing_is_left(&self) -> Result<()> {
        self.site.pool_connected().await?;
        let mut more = Vec::new();
        let clean = eventually("a clean pool", async || {
            let now = census(&self.site).await?;
            more = now.symmetric_difference(&self.idle).cloned().collect();
            Ok(more.is_empty())
        });
        clean.await.with_context(|| format!("there is more, or less: {more:#?}"))?;
        let listed: BTreeSet<String> =
            self.site.api.restore_points(&self.vm.uuid).await?.into_iter().map(|point| point.snapshot_id).collect();
        let stored = stored_snapshots(&self.site).await?;
        ensure!(listed == stored, "listed are {listed:#?}, stored are {stored:#?}");
        Ok(())
    }

    /// Every listed restore point is the disks of the instant at which its run began.
    async fn every_point_restores(&self) -> Result<()> {
        let sr = self.site.sr("Shared NFS").await?;
        let points = self.site.api.restore_points(&self.vm.uuid).await?;
        ensure!(!points.is_empty(), "no restore point is listed");
        for point in points {
            let restored = self.site.api.restore(&point.name, &sr).await?;
            let same = Some(&self.site.digests(&restored).await?) == self.expected.get(&point.run);
            ensure!(same, "{} of {} differs", point.name, point.run);
            self.site.hosts.delete_vm(&restored).await?;
        }
        self.site.restic(&["check", "--read-data"]).await.map(drop)
    }
}

/// Everything in the pool that could be left over, whoever made it: a leak may lack every mark of ours. Left out are
/// what storage makes by itself, and bitmaps kept for the next delta, of which there is at most one for each disk.
async fn census(site: &Site) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for class in ["VM", "VBD", "VIF", "VTPM"] {
        for record in site.hosts.records(class).await?.into_values() {
            let blocked = record.get("blocked_operations").map(ToString::to_string).unwrap_or_default();
            found.insert(format!("{class} {} {} {blocked}", record["uuid"], record["name_label"]));
        }
    }
    let mut bitmaps = BTreeMap::<String, usize>::new();
    for vdi in site.hosts.records("VDI").await?.into_values() {
        if vdi["type"] == "cbt_metadata" {
            *bitmaps.entry(vdi["snapshot_of"].to_string()).or_default() += 1;
        } else if vdi["managed"] == true {
            found.insert(format!("VDI {} {}", vdi["uuid"], vdi["name_label"]));
        }
    }
    found.extend(bitmaps.into_iter().filter(|(_, count)| *count > 1).map(|of| format!("too many bitmaps: {of:?}")));
    Ok(found)
}

async fn stored_snapshots(site: &Site) -> Result<BTreeSet<String>> {
    let json = site.restic(&["snapshots", "--json"]).await?;
    let snapshots: Vec<serde_json::Value> = serde_json::from_slice(&json)?;
    snapshots.iter().map(|snapshot| Ok(snapshot["id"].as_str().context("a snapshot has an id")?.to_owned())).collect()
}

/// What catches a program at a moment.
enum Trap {
    Call(Held),
    Fault(FaultId, When),
    Snapshot(PathBuf, BTreeSet<OsString>),
}

impl Trap {
    async fn set(site: &Site, when: When) -> Result<Self> {
        let fault = match when {
            At(moment) => return Ok(Self::Call(site.gate()?.hold(moment))),
            HalfPublished => {
                let folder = site.remote_path().join("repository/snapshots");
                let before = names_in(&folder)?;
                return Ok(Self::Snapshot(folder, before));
            }
            During(method, nth) => Fault::CallDelay { method: method.to_owned(), delay_ms: 1500, nth, times: 1 },
            Transferring(path) => {
                Fault::StallStream { path: path.to_owned(), subject: String::new(), after_bytes: MIB, nth: 1, times: 0 }
            }
        };
        site.hosts.reset_counters().await?;
        Ok(Self::Fault(site.hosts.fault(fault).await?, when))
    }

    async fn closes(&mut self, site: &Site) -> Result<()> {
        match self {
            Self::Call(held) => held.reached().await,
            Self::Snapshot(folder, before) => {
                // Looked at as often as possible: the other half follows within milliseconds. Names, since retention
                // soon removes as many as came.
                let (folder, before) = (folder.clone(), std::mem::take(before));
                let begin = std::time::Instant::now();
                tokio::task::spawn_blocking(move || {
                    while names_in(&folder)?.is_subset(&before) {
                        ensure!(begin.elapsed().as_secs() < 60, "no snapshot came into {}", folder.display());
                        std::thread::yield_now();
                    }
                    Ok(())
                })
                .await?
            }
            Self::Fault(id, when) => {
                until(&format!("{when:?}"), async || {
                    let hit = site.hosts.faults().await?.iter().any(|fault| fault.id == id.id && fault.hits > 0);
                    let read: u64 = site.hosts.counters().await?.nbd_read.values().sum();
                    Ok((hit && (read > 0 || *when != Transferring("nbd"))).then_some(()))
                })
                .await
            }
        }
    }

    async fn open(self, site: &Site, victim: Victim) -> Result<()> {
        match (self, victim) {
            // What a dead agent said does not arrive later.
            (Self::Call(held), Victim::Agent) => held.lose(),
            (Self::Call(held), _) => held.pass_on(),
            // Faults do not outlive the pool.
            (Self::Fault(..) | Self::Snapshot(..), Victim::Pool) | (Self::Snapshot(..), _) => {}
            (Self::Fault(id, _), _) => site.hosts.clear_fault(id).await?,
        }
        Ok(())
    }
}

fn names_in(folder: &Path) -> Result<BTreeSet<OsString>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

async fn backups(victim: Victim, moments: Vec<When>) -> Result<()> {
    let mut stage = Stage::set_up().await?;
    for (seed, when) in (1..).zip(moments) {
        let what = format!("{victim:?} killed at {when:?}");
        crashed_backup(&mut stage, victim, when, seed).await.context(what)?;
    }
    stage.every_point_restores().await
}

/// Kills when the trap closes, and waits for the end of the run; says how far that is when it does not come.
async fn crash_and_await(stage: &mut Stage, victim: Victim, mut trap: Trap, run: &str) -> Result<()> {
    let crashed = async {
        trap.closes(&stage.site).await?;
        stage.crash(victim).await?;
        trap.open(&stage.site, victim).await?;
        stage.site.api.ended(run).await
    };
    let Err(error) = crashed.await else { return Ok(()) };
    let tasks = stage.site.api.tasks(run).await?;
    let told = tasks.iter().map(|task| (task.state(), &task.waits_for, &task.steps, &task.error, &task.log));
    let told = told.map(|told| format!("{told:#?}")).collect::<String>();
    Err(error.context(format!("{told}\nthe end of the logs:\n{}", last_lines(&stage.site.logs()?))))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

async fn crashed_backup(stage: &mut Stage, victim: Victim, when: When, seed: u64) -> Result<()> {
    stage.site.guest_writes(&stage.vm.disks[0], 20.0, seed).await?;
    stage.site.guest_writes(&stage.vm.disks[1], 10.0, seed).await?;
    let digests = stage.site.digests(&stage.vm.uuid).await?;
    let trap = Trap::set(&stage.site, when).await?;
    let run = stage.site.api.start_job(&stage.job).await?;
    stage.expected.insert(run.name.clone(), digests);
    crash_and_await(stage, victim, trap, &run.name).await?;
    let ended = stage.site.api.run(&run.name).await?;
    stage.nothing_is_left().await.with_context(|| format!("the run ended {:?}: {}", ended.state(), ended.message))?;
    stage.back_up().await.context("the run after it")?;
    stage.nothing_is_left().await.context("after the run after it")
}

async fn restores(victim: Victim, moments: Vec<When>) -> Result<()> {
    let mut stage = Stage::set_up().await?;
    let expected = stage.site.digests(&stage.vm.uuid).await?;
    let point = stage.site.api.restore_points(&stage.vm.uuid).await?[0].name.clone();
    for when in moments {
        let what = format!("{victim:?} killed at {when:?}");
        crashed_restore(&mut stage, victim, when, &point, &expected).await.context(what)?;
    }
    Ok(())
}

async fn crashed_restore(
    stage: &mut Stage,
    victim: Victim,
    when: When,
    point: &str,
    expected: &[Digest],
) -> Result<()> {
    let sr = stage.site.sr("Shared NFS").await?;
    let trap = Trap::set(&stage.site, when).await?;
    let request = CreateRestoreRequest {
        restore: Some(Restore {
            restore_point: point.to_owned(),
            storage_repository: sr.clone(),
            start: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let restore = stage.site.api.restores.clone().create_restore(request).await?.into_inner();
    crash_and_await(stage, victim, trap, &restore.run).await?;
    let ended = stage.site.api.run(&restore.run).await?;
    let task = stage.site.api.tasks(&restore.run).await?.pop().context("one task")?;
    stage.site.pool_connected().await?;
    if ended.state() == run::State::Succeeded {
        let whole = stage.site.digests(&task.created_vm_uuid).await?;
        ensure!(whole == expected, "the restored disks differ");
        let vms = stage.site.hosts.records("VM").await?;
        let vm = vms.values().find(|vm| vm["uuid"] == *task.created_vm_uuid).context("the restored VM")?;
        let told = task.log.iter().any(|entry| entry.message.contains("did not start"));
        ensure!(vm["power_state"] == "Running" || told, "it was not started, and nobody says so: {:?}", task.log);
        stage.site.hosts.delete_vm(&task.created_vm_uuid).await?;
    }
    stage.nothing_is_left().await.with_context(|| format!("the run ended {:?}: {}", ended.state(), ended.message))?;

    let restored = stage.site.api.restore(point, &sr).await.context("the restore after it")?;
    ensure!(stage.site.digests(&restored).await? == expected, "the restore after it differs");
    stage.site.hosts.delete_vm(&restored).await.context("removing what was restored")
}
