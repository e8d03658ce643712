//! What is wrong from outside gives a clear error and loses nothing.

use anyhow::{Context, Result};
use coffer_proto::v1::{
    CreatePoolRequest, CreateRemoteRequest, GetPoolRequest, GetRemoteRequest, LocalLocation, Pool, Problem, Remote,
    pool, remote, run, task,
};
use coffer_scenarios::{Site, SiteOptions, Vm, until};
use simpool::control::{Fault, SrSpec};

const MIB: u64 = 1 << 20;

/// Registers another pool and waits until it is in a state; what the state says.
async fn pool_ends_up(site: &Site, pool: Pool, state: pool::State) -> Result<Pool> {
    let request = CreatePoolRequest { pool_id: "other".into(), pool: Some(pool), ..Default::default() };
    let name = site.api.pools.clone().create_pool(request).await?.into_inner().name;
    until(&format!("{name} to be {state:?}"), async || {
        let pool = site.api.pools.clone().get_pool(GetPoolRequest { name: name.clone() }).await?.into_inner();
        Ok((pool.state() == state).then_some(pool))
    })
    .await
}

/// Runs a job that must fail; the problem of its only task.
async fn problem_of(site: &Site, job: &str) -> Result<Problem> {
    let run = site.api.run_job(job).await?;
    assert_eq!(run.state(), run::State::Failed, "{}", run.message);
    let task = site.api.tasks(&run.name).await?.pop().context("one task")?;
    assert_eq!(task.state(), task::State::Failed);
    let problem = task.error.context("a failed task says why")?;
    assert!(!problem.message.is_empty() && !problem.advice.is_empty(), "{problem:?}");
    Ok(problem)
}

async fn next_run_succeeds_and_nothing_is_left(site: &Site, job: &str, vm: &Vm) -> Result<()> {
    site.api.back_up(job).await?;
    let newest = site.api.restore_points(&vm.uuid).await?.into_iter().next().context("a restore point")?;
    let restored = site.api.restore(&newest.name, &site.sr("Shared NFS").await?).await?;
    assert_eq!(site.digests(&restored).await?, site.digests(&vm.uuid).await?);
    assert_eq!(site.leftovers().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_pool_is_not_given_its_password_before_its_certificate_is_confirmed() -> Result<()> {
    let site = Site::start_with(SiteOptions { registered: false, ..Default::default() }).await?;
    let hosts = site.hosts.pool().await?;
    let address = hosts.url.trim_start_matches("https://").to_owned();
    let pool = Pool { hosts: vec![address], username: hosts.user, password: hosts.password, ..Default::default() };

    let seen = pool_ends_up(&site, pool, pool::State::Untrusted).await?;

    assert_eq!(seen.seen_fingerprint, hosts.fingerprint);
    assert_eq!(site.hosts.counters().await?.calls.get("session.login_with_password"), None);
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_reported_as_such_and_never_shown() -> Result<()> {
    let site = Site::start_with(SiteOptions { registered: false, ..Default::default() }).await?;
    let hosts = site.hosts.pool().await?;
    let pool = Pool {
        hosts: vec![hosts.url.trim_start_matches("https://").to_owned()],
        username: hosts.user,
        password: "canary-c0ffee".into(),
        fingerprint: hosts.fingerprint,
        ..Default::default()
    };

    let seen = pool_ends_up(&site, pool, pool::State::Unreachable).await?;

    assert!(seen.state_message.contains("password"), "{}", seen.state_message);
    assert!(seen.password.is_empty());
    assert!(!site.logs()?.contains("canary-c0ffee"), "a log shows the password");
    Ok(())
}

#[tokio::test]
async fn a_changed_certificate_stops_all_talk_until_it_is_confirmed() -> Result<()> {
    let site = Site::start().await?;
    let renewed = site.hosts.renew_certificate(0).await?;
    let pool = until("the changed certificate to be noticed", async || {
        let request = GetPoolRequest { name: Site::POOL.into() };
        let pool = site.api.pools.clone().get_pool(request).await?.into_inner();
        Ok((pool.state() == pool::State::Unreachable).then_some(pool))
    })
    .await?;
    assert!(pool.state_message.contains("certificate"), "{}", pool.state_message);
    assert_eq!(pool.seen_fingerprint, renewed.fingerprint);

    let mut trusted = pool.clone();
    trusted.fingerprint = renewed.fingerprint;
    let update_mask = Some(prost_types::FieldMask { paths: vec!["fingerprint".into()] });
    let request = coffer_proto::v1::UpdatePoolRequest { pool: Some(trusted), update_mask };
    site.api.pools.clone().update_pool(request).await?;
    until("the pool to be connected again", async || {
        let request = GetPoolRequest { name: Site::POOL.into() };
        let pool = site.api.pools.clone().get_pool(request).await?.into_inner();
        Ok((pool.state() == pool::State::Connected).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_vm_that_is_deleted_while_it_is_backed_up_fails_its_own_task_only() -> Result<()> {
    let site = Site::start().await?;
    let doomed = site.create_vm("doomed", &[60 * MIB]).await?;
    let other = site.create_vm("other", &[20 * MIB]).await?;
    let job = site.create_job("nightly", &[&doomed, &other]).await?;
    let slow = Fault::SlowStream { path: "nbd".into(), subject: String::new(), bytes_per_second: 4 * MIB };
    site.hosts.fault(slow).await?;

    let run = site.api.start_job(&job).await?;
    until("bytes of the doomed virtual machine to be read", async || {
        Ok(site.hosts.counters().await?.nbd_read.values().any(|&bytes| bytes > 0).then_some(()))
    })
    .await?;
    site.hosts.delete_vm(&doomed.uuid).await?;
    site.hosts.clear_faults().await?;

    let run = site.api.ended(&run.name).await?;
    let tasks = site.api.tasks(&run.name).await?;
    let state = |vm: &Vm| tasks.iter().find(|task| task.subject.ends_with(&vm.uuid)).map(|task| task.state());
    assert_eq!(state(&other), Some(task::State::Succeeded), "{tasks:#?}");
    if run.state() != run::State::Succeeded {
        let failed = tasks.iter().find(|task| task.subject.ends_with(&doomed.uuid)).context("its task")?;
        let problem = failed.error.clone().context("a failed task says why")?;
        assert!(problem.message.contains("doomed") || problem.message.contains(&doomed.uuid), "{problem:?}");
    }
    assert_eq!(site.leftovers().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_full_sr_is_named_and_the_next_run_succeeds() -> Result<()> {
    let site = Site::start().await?;
    site.hosts.create_sr(&SrSpec { name: "small".into(), ..Default::default() }).await?;
    let vm = site.create_vm("db1", &[20 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    site.hosts.fault(Fault::SrFull { sr: "Local storage 1".into() }).await?;
    let problem = problem_of(&site, &job).await?;
    assert!(problem.message.contains("space"), "{problem:?}");
    site.hosts.clear_faults().await?;
    next_run_succeeds_and_nothing_is_left(&site, &job, &vm).await
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
