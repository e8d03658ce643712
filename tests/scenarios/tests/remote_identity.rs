//! The folder of a remote is swapped under a running agent, as an unmount or a mount would do: nothing is written into
//! the wrong place, nothing is believed of it, and when the right folder is back, everything goes on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use coffer_proto::v1::{GetRemoteRequest, Remote, RunJobRequest, ScanRemoteRequest, remote, run};
use coffer_scenarios::{Site, Vm, eventually, until};

const MIB: u64 = 1 << 20;

async fn remote_of(site: &Site) -> Result<Remote> {
    let request = GetRemoteRequest { name: Site::REMOTE.into() };
    Ok(site.api.remotes.clone().get_remote(request).await?.into_inner())
}

async fn ready(site: &Site) -> Result<Remote> {
    until("the remote to be ready", async || {
        let remote = remote_of(site).await?;
        Ok((remote.state() == remote::State::Ready).then_some(remote))
    })
    .await
}

/// Waits until the remote is unavailable; why.
async fn unavailable(site: &Site) -> Result<String> {
    until("the remote to be unavailable", async || {
        let remote = remote_of(site).await?;
        Ok((remote.state() == remote::State::Unavailable).then_some(remote.state_message))
    })
    .await
}

fn files_below(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let (mut files, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            files.insert(path);
        }
    }
    Ok(files)
}

/// A site with one virtual machine that is backed up once; its job.
async fn backed_up_once() -> Result<(Site, Vm, String)> {
    let site = Site::start().await?;
    let vm = site.create_vm("db1", &[24 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    site.api.back_up(&job).await?;
    Ok((site, vm, job))
}

/// Puts the right folder back and proves that all is as if nothing had been.
async fn goes_on(site: &Site, vm: &Vm, job: &str, away: &Path, repository: &str) -> Result<()> {
    fs::remove_dir_all(site.remote_path())?;
    fs::rename(away, site.remote_path())?;
    assert_eq!(ready(site).await?.repository_id, repository);
    site.guest_writes(&vm.disks[0], 20.0, 5).await?;
    let expected = site.digests(&vm.uuid).await?;
    site.api.back_up(job).await?;
    site.restic(&["check", "--read-data"]).await?;
    let newest = site.api.restore_points(&vm.uuid).await?.into_iter().next().context("a restore point")?;
    let restored = site.api.restore(&newest.name, &site.sr("Shared NFS").await?).await?;
    assert_eq!(site.digests(&restored).await?, expected);
    Ok(())
}

/// Fills the place of the remote; what is there then must stay as it is.
type Fill = fn(&Site, &Path) -> Result<()>;

fn nothing(_: &Site, place: &Path) -> Result<()> {
    Ok(fs::create_dir(place)?)
}

fn another_repository(_: &Site, place: &Path) -> Result<()> {
    fs::create_dir(place)?;
    let repository = place.join("repository");
    let made = std::process::Command::new("restic")
        .args(["--no-cache", "--quiet", "--repo"])
        .arg(&repository)
        .arg("init")
        .env("RESTIC_PASSWORD", "scenario repository password")
        .output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

async fn a_swap_is_noticed_and_survived(fill: Fill, words: &str) -> Result<()> {
    let (mut site, vm, job) = backed_up_once().await?;
    let repository = ready(&site).await?.repository_id;
    let points = site.api.restore_points(&vm.uuid).await?;
    let away = site.folder().join("away");
    fs::rename(site.remote_path(), &away)?;
    fill(&site, &site.remote_path())?;
    let right_before = files_below(&away)?;
    let wrong_before = files_below(&site.remote_path())?;

    // At once, while the agent still has the repository open; the task that meets it does not succeed.
    let (run, scan) = (site.api.start_job(&job).await?, scan(&site).await);
    let said = unavailable(&site).await?;
    assert!(said.contains("mounted"), "no advice in {said:?}");
    // An agent that starts without the right folder makes nothing there either.
    site.crash_agent().await?;
    eventually("the new agent to say so", async || {
        let remote = remote_of(&site).await?;
        Ok(remote.state() == remote::State::Unavailable && remote.state_message.contains(words))
    })
    .await?;
    assert_eq!(remote_of(&site).await?.repository_id, repository, "the id of the repository was forgotten");
    assert_ne!(site.api.run(&run.name).await?.state(), run::State::Succeeded);
    assert_eq!(site.api.restore_points(&vm.uuid).await?, points, "the catalogue changed");
    assert_eq!(files_below(&site.remote_path())?, wrong_before, "something was written into the wrong place");
    assert_eq!(files_below(&away)?, right_before, "something was written into the folder that is away");

    for run in [Some(run), scan.ok()].into_iter().flatten() {
        let cancel = coffer_proto::v1::CancelRunRequest { name: run.name.clone() };
        site.api.runs.clone().cancel_run(cancel).await?;
        site.api.ended(&run.name).await?;
    }
    assert_eq!(site.api.restore_points(&vm.uuid).await?, points, "the catalogue changed");
    goes_on(&site, &vm, &job, &away, &repository).await
}

async fn scan(site: &Site) -> Result<coffer_proto::v1::Run> {
    let request = ScanRemoteRequest { name: Site::REMOTE.into(), ..Default::default() };
    Ok(site.api.remotes.clone().scan_remote(request).await?.into_inner())
}

#[tokio::test]
async fn an_empty_mount_point_gets_no_repository_no_backup_and_empties_no_catalogue() -> Result<()> {
    a_swap_is_noticed_and_survived(nothing, "there is none").await
}

#[tokio::test]
async fn another_repository_in_the_place_of_the_remote_is_left_as_it_is() -> Result<()> {
    a_swap_is_noticed_and_survived(another_repository, "another one").await
}

#[tokio::test]
async fn a_folder_swapped_in_the_middle_of_a_transfer_ends_the_attempt_and_gets_nothing() -> Result<()> {
    let (site, vm, job) = backed_up_once().await?;
    let repository = ready(&site).await?.repository_id;
    let disk = site.create_vm("large", &[256 * MIB]).await?;
    let large = site.create_job("large", &[&disk]).await?;
    let packs = |site: &Site| files_below(&site.remote_path().join("repository/data")).map(|files| files.len());
    let before = packs(&site)?;
    let run = site.api.start_job(&large).await?;
    eventually("packs of the backup to arrive", async || Ok(packs(&site)? > before)).await?;
    let away = site.folder().join("away");
    fs::rename(site.remote_path(), &away)?;
    fs::create_dir(site.remote_path())?;

    unavailable(&site).await?;
    assert_eq!(files_below(&site.remote_path())?, BTreeSet::new(), "something was written into the wrong place");
    assert_ne!(site.api.run(&run.name).await?.state(), run::State::Succeeded);
    let cancel = coffer_proto::v1::CancelRunRequest { name: run.name.clone() };
    site.api.runs.clone().cancel_run(cancel).await?;
    goes_on(&site, &vm, &job, &away, &repository).await?;
    site.api.ended(&run.name).await?;
    site.api.back_up(&large).await?;
    site.restic(&["check", "--read-data"]).await?;
    Ok(())
}

#[tokio::test]
async fn an_agent_that_starts_before_the_mount_waits_for_it() -> Result<()> {
    let (mut site, vm, job) = backed_up_once().await?;
    let repository = ready(&site).await?.repository_id;
    let away = site.folder().join("away");
    fs::rename(site.remote_path(), &away)?;
    fs::create_dir(site.remote_path())?;
    site.crash_agent().await?;
    assert!(unavailable(&site).await?.contains("mounted"));
    let request = RunJobRequest { name: job.clone(), ..Default::default() };
    let waiting = site.api.jobs.clone().run_job(request).await?.into_inner();
    assert_eq!(files_below(&site.remote_path())?, BTreeSet::new(), "something was written into the wrong place");
    fs::remove_dir(site.remote_path())?;
    fs::rename(&away, site.remote_path())?;
    // What waited for the remote goes on by itself.
    let ended = site.api.ended(&waiting.name).await?;
    site.api.succeeded(&ended).await?;
    assert_eq!(ready(&site).await?.repository_id, repository);
    assert_eq!(site.api.restore_points(&vm.uuid).await?.len(), 2);
    site.restic(&["check", "--read-data"]).await?;
    Ok(())
}
