//! Data is lost on the remote: it is found, said, and stored again by the next backup, and never restored wrong.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use coffer_proto::v1::{PruneRemoteRequest, RestorePoint, Task, VerifyRestorePointsRequest};
use coffer_scenarios::{Site, Vm};

const MIB: u64 = 1 << 20;
/// Two packs of content: the largest one holds nothing but chunks of the disk.
const DISK: u64 = 80 * MIB;

/// A site with one virtual machine that was backed up twice; its job.
async fn backed_up_twice() -> Result<(Site, Vm, String)> {
    let site = Site::start().await?;
    let vm = site.create_vm("db1", &[DISK]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    site.api.back_up(&job).await?;
    site.api.back_up(&job).await?;
    Ok((site, vm, job))
}

fn largest_pack(site: &Site) -> Result<PathBuf> {
    let mut packs = Vec::new();
    for folder in fs::read_dir(site.remote_path().join("repository/data"))? {
        for pack in fs::read_dir(folder?.path())? {
            let pack = pack?;
            packs.push((pack.metadata()?.len(), pack.path()));
        }
    }
    Ok(packs.into_iter().max().context("a pack")?.1)
}

fn flip_a_byte(pack: &Path) -> Result<()> {
    let mut bytes = fs::read(pack)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(fs::write(pack, bytes)?)
}

/// Verifies all restore points of a machine; the points, newest first, and what the tasks say.
async fn verify(site: &Site, vm: &Vm) -> Result<(Vec<RestorePoint>, Vec<Task>)> {
    let names = site.api.restore_points(&vm.uuid).await?.into_iter().map(|point| point.name).collect();
    let request = VerifyRestorePointsRequest { names, ..Default::default() };
    let run = site.api.points.clone().verify_restore_points(request).await?.into_inner();
    site.api.ended(&run.name).await?;
    Ok((site.api.restore_points(&vm.uuid).await?, site.api.tasks(&run.name).await?))
}

fn says(task: &Task, words: &str) -> bool {
    task.log.iter().any(|entry| entry.message.contains(words))
}

/// Every restore point of the machine verifies; the newest is restored, and dumped by restic, as it should be.
async fn assert_whole(site: &Site, vm: &Vm, points: usize) -> Result<()> {
    let (verified, _) = verify(site, vm).await?;
    assert_eq!(verified.len(), points);
    assert!(verified.iter().all(|point| point.damage.is_empty() && point.verified_time.is_some()), "{verified:#?}");
    let expected = site.digests(&vm.uuid).await?;
    for point in [verified.first(), verified.last()] {
        let restored = site.api.restore(&point.context("a restore point")?.name, &site.sr("Shared NFS").await?).await?;
        assert_eq!(site.digests(&restored).await?, expected);
    }
    Ok(())
}

#[tokio::test]
async fn damage_that_a_verification_finds_is_healed_by_the_next_backup() -> Result<()> {
    let (site, vm, job) = backed_up_twice().await?;
    flip_a_byte(&largest_pack(&site)?)?;

    let (points, tasks) = verify(&site, &vm).await?;
    assert!(points.iter().all(|point| !point.damage.is_empty()), "{points:#?}");
    for task in &tasks {
        let error = task.error.as_ref().context("an error")?;
        assert_eq!((error.reason.as_str(), error.retryable), ("DAMAGED", false));
        assert!(says(task, "found damage in 1 place"), "{:#?}", task.log);
    }
    let task = site.api.back_up(&job).await?.pop().context("a task")?;
    assert!(says(&task, "has lost data of this disk, which is stored again"), "{:#?}", task.log);
    assert_whole(&site, &vm, 3).await?;

    // And from here on, deltas.
    site.guest_writes(&vm.disks[0], 1.0, 3).await?;
    let task = site.api.back_up(&job).await?.pop().context("a task")?;
    assert!(task.transfer.is_some_and(|transfer| transfer.read_bytes < DISK / 4), "{:#?}", task.disks);
    Ok(())
}

#[tokio::test]
async fn a_backup_that_meets_a_missing_pack_begins_anew_and_stores_it_again() -> Result<()> {
    let (site, vm, job) = backed_up_twice().await?;
    fs::remove_file(largest_pack(&site)?)?;
    let task = site.api.back_up(&job).await?.pop().context("a task")?;
    assert!(says(&task, "data that this backup was built on is lost"), "{:#?}", task.log);
    assert_eq!(task.attempt, 1, "the same attempt goes on");
    assert!(site.restic(&["check", "--read-data"]).await.is_err(), "the index still lists the missing pack");

    // Nothing needs it any more, so a prune takes it out of the index.
    let request = PruneRemoteRequest { name: Site::REMOTE.into(), ..Default::default() };
    let pruned = site.api.remotes.clone().prune_remote(request).await?.into_inner();
    site.api.succeeded(&site.api.ended(&pruned.name).await?).await?;
    site.restic(&["check", "--read-data"]).await?;
    assert_whole(&site, &vm, 3).await
}

#[tokio::test]
async fn a_pack_that_was_put_back_is_trusted_again_after_a_verification() -> Result<()> {
    let (site, vm, job) = backed_up_twice().await?;
    let pack = largest_pack(&site)?;
    let away = site.folder().join("pack");
    fs::rename(&pack, &away)?;
    let (damaged, _) = verify(&site, &vm).await?;
    assert!(damaged.iter().all(|point| !point.damage.is_empty()), "{damaged:#?}");
    fs::rename(&away, &pack)?;
    let (_, tasks) = verify(&site, &vm).await?;
    assert!(tasks.iter().any(|task| says(task, "no pack is damaged")), "{tasks:#?}");
    // A delta again: nothing is stored anew.
    let task = site.api.back_up(&job).await?.pop().context("a task")?;
    assert!(!says(&task, "has lost data"), "{:#?}", task.log);
    assert_whole(&site, &vm, 3).await
}
