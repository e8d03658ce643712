//! Crash at any step leaves nothing behind: whichever program dies while whichever step is under way, the run ends, nothing
//! of ours is left in the pool, nothing half-written is listed, and the next run succeeds.

use anyhow::{Context, Result, ensure};
use coffer_proto::v1::{FollowRunRequest, run, step};
use coffer_scenarios::{Site, Vm, eventually};
use simpool::control::Fault;

const MIB: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
enum Victim {
    Agent,
    Controller,
    Pool,
}

const VICTIMS: [Victim; 3] = [Victim::Agent, Victim::Controller, Victim::Pool];

/// Waits until a step of a run is under way; false when the run ended before that was seen.
async fn step_is_under_way(site: &Site, run: &str, name: &str) -> Result<bool> {
    let request = FollowRunRequest { name: run.to_owned(), ..Default::default() };
    let mut stream = site.api.runs.clone().follow_run(request).await?.into_inner();
    while let Some(change) = stream.message().await? {
        let seen = |step: &coffer_proto::v1::Step| step.name == name && step.state() == step::State::Running;
        if change.tasks.iter().any(|task| task.steps.iter().any(seen)) {
            return Ok(true);
        }
        if change.run.is_some_and(|run| run.end_time.is_some()) {
            return Ok(false);
        }
    }
    Ok(false)
}

async fn crash(site: &mut Site, victim: Victim) -> Result<()> {
    match victim {
        Victim::Agent => site.crash_agent().await,
        Victim::Controller => site.crash_controller().await,
        Victim::Pool => site.crash_pool().await,
    }
}

async fn nothing_is_left(site: &Site) -> Result<()> {
    site.pool_connected().await?;
    let mut left = Vec::new();
    let clean = eventually("a clean pool", async || {
        left = site.leftovers().await?;
        Ok(left.is_empty())
    });
    clean.await.with_context(|| format!("left behind: {left:?}"))
}

async fn every_listed_point_restores(site: &Site, vm: &Vm) -> Result<()> {
    let sr = site.sr("Shared NFS").await?;
    let newest = site.api.restore_points(&vm.uuid).await?.into_iter().next().context("a restore point")?;
    let restored = site.api.restore(&newest.name, &sr).await?;
    ensure!(site.digests(&restored).await? == site.digests(&vm.uuid).await?, "{} differs", newest.name);
    site.restic(&["check", "--read-data"]).await?;
    site.hosts.delete_vm(&restored).await?;
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_backup_leaves_nothing_behind() -> Result<()> {
    let mut site = Site::start().await?;
    let vm = site.create_vm("db1", &[40 * MIB, 20 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    site.api.back_up(&job).await?;

    let mut seed = 0;
    for step in ["preflight", "snapshot", "transfer", "seal", "publish", "retention", "remove-snapshot"] {
        for victim in VICTIMS {
            seed += 1;
            site.guest_writes(&vm.disks[0], 20.0, seed).await?;
            let slow = Fault::SlowStream { path: "nbd".into(), subject: String::new(), bytes_per_second: 8 * MIB };
            let slow = site.hosts.fault(slow).await?;
            let run = site.api.start_job(&job).await?;
            step_is_under_way(&site, &run.name, step).await?;
            crash(&mut site, victim).await?;
            // The simulated pool's faults do not outlive it.
            if !matches!(victim, Victim::Pool) {
                site.hosts.clear_fault(slow).await?;
            }

            let what = format!("{victim:?} killed during {step}");
            let ended = site.api.ended(&run.name).await.context(what.clone())?;
            nothing_is_left(&site).await.with_context(|| format!("{what}; the run ended {:?}", ended.state()))?;
            site.api.back_up(&job).await.with_context(|| format!("the run after {what}"))?;
            every_listed_point_restores(&site, &vm).await.context(what)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_restore_leaves_nothing_behind_or_a_whole_vm() -> Result<()> {
    let mut site = Site::start().await?;
    let vm = site.create_vm("db1", &[40 * MIB, 20 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    site.api.back_up(&job).await?;
    let expected = site.digests(&vm.uuid).await?;
    let point = site.api.restore_points(&vm.uuid).await?[0].name.clone();
    let sr = site.sr("Shared NFS").await?;

    for step in ["preflight", "create-vm", "transfer", "finish"] {
        for victim in VICTIMS {
            let what = format!("{victim:?} killed during {step}");
            let slow = Fault::SlowStream {
                path: "/import_raw_vdi".into(),
                subject: String::new(),
                bytes_per_second: 16 * MIB,
            };
            let slow = site.hosts.fault(slow).await?;
            let restore = site.api.start_restore(&point, &sr).await?;
            step_is_under_way(&site, &restore.run, step).await?;
            crash(&mut site, victim).await?;
            if !matches!(victim, Victim::Pool) {
                site.hosts.clear_fault(slow).await?;
            }

            let ended = site.api.ended(&restore.run).await.context(what.clone())?;
            let task = site.api.tasks(&restore.run).await?.pop().context("one task")?;
            nothing_is_left(&site).await.with_context(|| format!("{what}; it ended {:?}", ended.state()))?;
            if ended.state() == run::State::Succeeded {
                ensure!(site.digests(&task.created_vm_uuid).await? == expected, "{what}: the restored disks differ");
                site.hosts.delete_vm(&task.created_vm_uuid).await?;
            }
            let restored = site.api.restore(&point, &sr).await.with_context(|| format!("the restore after {what}"))?;
            ensure!(site.digests(&restored).await? == expected, "the restore after {what} differs");
            site.hosts.delete_vm(&restored).await?;
        }
    }
    Ok(())
}
