//! What breaks in a pool or on a remote while it is worked with.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use coffer_proto::v1::{
    CreateRemoteRequest, GetRemoteRequest, Job, LocalLocation, Remote, UpdateJobRequest, remote, run, task,
};
use coffer_scenarios::{Moment, Site, SiteOptions, Vm, until};
use simpool::control::{Fault, SrKind, SrSpec};

use crate::{MIB, next_run_succeeds_and_nothing_is_left, problem_of};

/// The end of a run of two virtual machines of which one is deleted, with its snapshots, while its task is held at a
/// moment.
async fn run_in_which_one_is_deleted_at(moment: Moment) -> Result<()> {
    let site = Site::start_with(SiteOptions { gated: true, ..Default::default() }).await?;
    let vms = [site.create_vm("one", &[30 * MIB]).await?, site.create_vm("two", &[20 * MIB]).await?];
    let job = site.create_job("nightly", &[&vms[0], &vms[1]]).await?;
    // One at a time: the one that is held is the only one that runs.
    let update = UpdateJobRequest {
        job: Some(Job { name: job.clone(), concurrency: 1, ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["concurrency".into()] }),
    };
    site.api.jobs.clone().update_job(update).await?;

    let mut held = site.gate()?.hold(moment);
    let run = site.api.start_job(&job).await?;
    held.reached().await?;
    let tasks = site.api.tasks(&run.name).await?;
    let running = tasks.iter().find(|task| task.state() == task::State::Running).context("the held task runs")?;
    let is_doomed = |vm: &Vm| running.subject.ends_with(&vm.uuid);
    let (doomed, other) = if is_doomed(&vms[0]) { (&vms[0], &vms[1]) } else { (&vms[1], &vms[0]) };
    site.hosts.delete_vm(&doomed.uuid).await?;
    held.pass_on();

    let run = site.api.ended(&run.name).await?;
    let tasks = site.api.tasks(&run.name).await?;
    let of = |vm: &Vm| tasks.iter().find(|task| task.subject.ends_with(&vm.uuid)).context("each has a task");
    assert_eq!(run.state(), run::State::Partial, "{tasks:#?}");
    assert_eq!(of(other)?.state(), task::State::Succeeded, "{tasks:#?}");
    assert_eq!(site.api.restore_points(&other.uuid).await?.len(), 1);
    assert_eq!(of(doomed)?.state(), task::State::Failed, "{tasks:#?}");
    let problem = of(doomed)?.error.clone().context("a failed task says why")?;
    assert_eq!((problem.reason.as_str(), problem.retryable), ("VM_GONE", false), "{problem:?}");
    assert!(problem.message.contains(&doomed.uuid) && !problem.advice.is_empty(), "{problem:?}");
    assert!(site.api.restore_points(&doomed.uuid).await?.is_empty());
    assert_eq!(site.leftovers().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_vm_that_is_deleted_before_its_snapshot_fails_its_own_task_only_and_says_that_it_is_gone() -> Result<()> {
    run_in_which_one_is_deleted_at(Moment::Begun("snapshot")).await
}

#[tokio::test]
async fn a_vm_that_is_deleted_with_its_snapshot_fails_its_own_task_only_and_says_that_it_is_gone() -> Result<()> {
    run_in_which_one_is_deleted_at(Moment::Begun("transfer")).await
}

#[tokio::test]
async fn a_full_sr_is_named_and_the_next_run_succeeds() -> Result<()> {
    let site = Site::start().await?;
    site.hosts.create_sr(&SrSpec { name: "small".into(), ..Default::default() }).await?;
    let vm = site.create_vm("db1", &[20 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    site.hosts.fault(Fault::SrFull { sr: "Local storage 1".into() }).await?;
    let problem = problem_of(&site, &job).await?;
    assert_eq!(problem.reason, "SR_FULL", "{problem:?}");
    assert!(problem.message.contains("Local storage 1"), "{problem:?}");
    site.hosts.clear_faults().await?;
    next_run_succeeds_and_nothing_is_left(&site, &job, &vm).await
}

/// UUIDs of every machine and disk of the pool, whoever made them. Storage makes other things by itself.
async fn machines_and_disks(site: &Site) -> Result<BTreeSet<String>> {
    let (vms, vdis) = (site.hosts.records("VM").await?, site.hosts.records("VDI").await?);
    let managed = vdis.values().filter(|vdi| vdi["managed"] == true && vdi["type"] != "cbt_metadata");
    Ok(vms.values().chain(managed).map(|record| record["uuid"].to_string()).collect())
}

/// A restore to a storage repository that has no room, or none any more from a moment on, fails and says so. Nothing of
/// it stays, and with room it succeeds.
async fn a_restore_without_room(small: Option<u64>, full_from: Option<Moment>) -> Result<()> {
    let site = Site::start_with(SiteOptions { gated: true, ..Default::default() }).await?;
    site.hosts
        .create_sr(&SrSpec { name: "narrow".into(), kind: SrKind::Nfs, size: small.unwrap_or(0), host: 0 })
        .await?;
    let vm = site.create_vm("db1", &[40 * MIB, 20 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    site.api.back_up(&job).await?;
    let point = site.api.restore_points(&vm.uuid).await?.pop().context("a restore point")?;
    let sr = site.sr("narrow").await?;
    let before = machines_and_disks(&site).await?;

    let held = full_from.map(|moment| Ok::<_, anyhow::Error>(site.gate()?.hold(moment))).transpose()?;
    let restore = site.api.start_restore(&point.name, &sr).await?;
    if let Some(mut held) = held {
        held.reached().await?;
        site.hosts.fault(Fault::SrFull { sr: "narrow".into() }).await?;
        held.pass_on();
    }
    let run = site.api.ended(&restore.run).await?;
    assert_eq!(run.state(), run::State::Failed, "{}", run.message);
    let problem = site.api.tasks(&run.name).await?.pop().context("one task")?.error.context("it says why")?;
    assert_eq!(problem.reason, "SR_FULL", "{problem:?}");
    assert!(problem.message.contains("narrow") && !problem.advice.is_empty(), "{problem:?}");
    assert_eq!(machines_and_disks(&site).await?, before, "something is left, or gone");
    assert_eq!(site.leftovers().await?, Vec::<String>::new());

    site.hosts.clear_faults().await?;
    let roomy = if small.is_some() { site.sr("Shared NFS").await? } else { sr };
    let restored = site.api.restore(&point.name, &roomy).await?;
    assert_eq!(site.digests(&restored).await?, site.digests(&vm.uuid).await?);
    Ok(())
}

#[tokio::test]
async fn a_restore_to_an_sr_without_room_ends_with_its_name_and_leaves_nothing_behind() -> Result<()> {
    a_restore_without_room(Some(6 * MIB), None).await
}

#[tokio::test]
async fn a_restore_to_an_sr_that_is_full_when_its_disks_are_made_leaves_nothing_behind() -> Result<()> {
    a_restore_without_room(None, Some(Moment::Begun("create-vm"))).await
}

#[tokio::test]
async fn a_restore_to_an_sr_that_becomes_full_under_it_leaves_nothing_behind() -> Result<()> {
    a_restore_without_room(None, Some(Moment::Begun("transfer"))).await
}

#[tokio::test]
async fn a_host_that_goes_away_and_comes_back_costs_one_run_at_most() -> Result<()> {
    let site = Site::start().await?;
    let vm = site.create_vm("db1", &[60 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    let slow = Fault::SlowStream { path: "nbd".into(), subject: String::new(), bytes_per_second: 8 * MIB };
    site.hosts.fault(slow).await?;
    let run = site.api.start_job(&job).await?;
    until("bytes to be read", async || {
        Ok(site.hosts.counters().await?.nbd_read.values().any(|&bytes| bytes > 0).then_some(()))
    })
    .await?;
    site.hosts.restart_toolstack(0).await?;
    site.hosts.clear_faults().await?;
    site.api.ended(&run.name).await?;
    site.pool_connected().await?;
    next_run_succeeds_and_nothing_is_left(&site, &job, &vm).await
}

#[tokio::test]
async fn a_full_remote_fails_the_run_and_what_was_there_stays_readable() -> Result<()> {
    let site = Site::start().await?;
    let small = site.folder().join("small");
    std::fs::create_dir(&small)?;
    let mounted = SmallDisk::mount(&small, "24m").await?;
    let remote = Remote {
        password: "another password".into(),
        location: Some(remote::Location::Local(LocalLocation { path: small.display().to_string() })),
        ..Default::default()
    };
    let request = CreateRemoteRequest { remote_id: "small".into(), remote: Some(remote), ..Default::default() };
    site.api.remotes.clone().create_remote(request).await?;
    until("the small remote to be ready", async || {
        let request = GetRemoteRequest { name: "remotes/small".into() };
        let remote = site.api.remotes.clone().get_remote(request).await?.into_inner();
        Ok((remote.state() == remote::State::Ready).then_some(()))
    })
    .await?;
    let little = site.create_vm("little", &[10 * MIB]).await?;
    let large = site.create_vm("large", &[200 * MIB]).await?;
    let to_small = |id: &str, vm: &Vm| coffer_proto::v1::CreateJobRequest {
        job_id: id.into(),
        job: Some(coffer_proto::v1::Job {
            selection: Some(coffer_proto::v1::Selection {
                vms: vec![format!("{}/vms/{}", Site::POOL, vm.uuid)],
                ..Default::default()
            }),
            remotes: vec!["remotes/small".into()],
            max_attempts: 1,
            ..Default::default()
        }),
        ..Default::default()
    };
    site.api.jobs.clone().create_job(to_small("fits", &little)).await?;
    site.api.jobs.clone().create_job(to_small("does-not-fit", &large)).await?;
    site.api.back_up("jobs/fits").await?;

    let problem = problem_of(&site, "jobs/does-not-fit").await?;

    assert!(problem.message.contains("space") || problem.message.contains("full"), "{problem:?}");
    assert!(site.api.restore_points(&large.uuid).await?.is_empty());
    let kept = site.api.restore_points(&little.uuid).await?.pop().context("the first restore point")?;
    let restored = site.api.restore(&kept.name, &site.sr("Shared NFS").await?).await?;
    assert_eq!(site.digests(&restored).await?, site.digests(&little.uuid).await?);
    assert_eq!(site.leftovers().await?, Vec::<String>::new());
    drop(mounted);
    Ok(())
}

/// A small file system in memory, mounted while it lives. Needs root.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    async fn mount(folder: &std::path::Path, size: &str) -> Result<Self> {
        let options = format!("size={size},mode=0777");
        let mut mount = tokio::process::Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).status().await?;
        anyhow::ensure!(status.success(), "mounting a small file system needs root");
        Ok(Self(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: the agent may still hold a file open for an instant. A mount that stays is cleaned with the folder.
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
