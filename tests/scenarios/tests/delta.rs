//! A delta is a delta: what is read and written follows what changed; whatever is wrong with the reference, the result
//! is right and the reason is in the log.

use anyhow::{Context, Result};
use coffer_proto::v1::{DeleteRestorePointsRequest, Task};
use coffer_scenarios::{Site, SiteOptions, Vm};
use simpool::control::{DiskSpec, Write};

const MIB: u64 = 1 << 20;

/// Bytes that the pool's hosts sent of disks since the counters were reset, whatever the protocol.
async fn bytes_read_from_hosts(site: &Site) -> Result<u64> {
    let counters = site.hosts.counters().await?;
    Ok(counters.nbd_read.values().chain(counters.vdi_exported.values()).sum())
}

/// Bytes that lie in the repository, as the file system counts them.
fn stored_bytes(site: &Site) -> Result<u64> {
    let mut sum = 0;
    let mut folders = vec![site.remote_path().join("repository")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let facts = entry.metadata()?;
            if facts.is_dir() {
                folders.push(entry.path());
            } else {
                sum += facts.len();
            }
        }
    }
    Ok(sum)
}

/// Backs up once more and proves the new restore point by a restore; the task, and the bytes read from hosts for it.
async fn back_up_and_prove(site: &Site, job: &str, vm: &Vm) -> Result<(Task, u64)> {
    let expected = site.digests(&vm.uuid).await?;
    site.hosts.reset_counters().await?;
    let task = site.api.back_up(job).await?.pop().context("one task")?;
    let read = bytes_read_from_hosts(site).await?;

    let newest = site.api.restore_points(&vm.uuid).await?.into_iter().next().context("a restore point")?;
    let restored = site.api.restore(&newest.name, &site.sr("Shared NFS").await?).await?;
    assert_eq!(site.digests(&restored).await?, expected, "the newest restore point differs from the disks");
    Ok((task, read))
}

/// Whether the task's log gives a reason, as well as the disk that it is about.
fn says(task: &Task, reason: &str) -> bool {
    task.disks.iter().any(|disk| disk.reason.contains(reason))
        && task.log.iter().any(|entry| entry.message.contains(reason))
}

fn log_of(task: &Task) -> String {
    let reasons = task.disks.iter().map(|disk| format!("{}: {} {}", disk.label, disk.source, disk.reason));
    task.log.iter().map(|entry| entry.message.clone()).chain(reasons).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn with_changed_blocks_only_what_changed_is_read_and_written() -> Result<()> {
    let site = Site::start().await?;
    let vm = site.create_vm("db1", &[400 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    back_up_and_prove(&site, &job, &vm).await?;

    let changed = site.guest_writes(&vm.disks[0], 1.0, 7).await?;
    let before = stored_bytes(&site)?;
    let (task, read) = back_up_and_prove(&site, &job, &vm).await?;
    let grown = stored_bytes(&site)? - before;

    assert_eq!(task.disks[0].source, "nbd+cbt", "{}", log_of(&task));
    assert!(read * 100 <= changed * 105, "{read} bytes were read of {changed} changed");
    let written = task.transfer.context("sums")?.written_bytes;
    assert!(written * 100 <= changed * 105, "{written} bytes were written of {changed} changed");
    assert!(grown * 100 <= changed * 105, "the repository grew by {grown} bytes for {changed} changed");
    Ok(())
}

#[tokio::test]
async fn an_unchanged_disk_costs_no_read() -> Result<()> {
    let site = Site::start().await?;
    let vm = site.create_vm("idle", &[100 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    back_up_and_prove(&site, &job, &vm).await?;
    let (task, read) = back_up_and_prove(&site, &job, &vm).await?;
    assert_eq!(read, 0, "{}", log_of(&task));
    Ok(())
}

#[tokio::test]
async fn with_broken_changed_blocks_the_disk_is_read_once_and_only_changes_are_written() -> Result<()> {
    let site = Site::start().await?;
    let vm = site.create_vm("db1", &[200 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    back_up_and_prove(&site, &job, &vm).await?;

    let changed = site.guest_writes(&vm.disks[0], 1.0, 7).await?;
    site.hosts.break_cbt(&vm.disks[0]).await?;
    let before = stored_bytes(&site)?;
    let (task, read) = back_up_and_prove(&site, &job, &vm).await?;
    let grown = stored_bytes(&site)? - before;

    assert_eq!(task.disks[0].source, "nbd", "{}", log_of(&task));
    assert!(says(&task, "nbd+cbt failed: VDI.list_changed_blocks"), "no reason in {}", log_of(&task));
    assert!(read <= 200 * MIB, "{read} bytes were read of a disk of 200 MiB");
    let written = task.transfer.context("sums")?.written_bytes;
    assert!(written * 100 <= changed * 105, "{written} bytes were written of {changed} changed");
    assert!(grown * 100 <= changed * 105, "the repository grew by {grown} bytes for {changed} changed");

    let (task, read) = back_up_and_prove(&site, &job, &vm).await?;
    assert_eq!((task.disks[0].source.as_str(), read), ("nbd+cbt", 0), "tracking was not mended: {}", log_of(&task));
    Ok(())
}

#[tokio::test]
async fn without_nbd_differential_vhd_exports_make_deltas() -> Result<()> {
    let site = Site::start_with(SiteOptions { nbd: "off", ..Default::default() }).await?;
    let vm = site.create_vm("db1", &[200 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    let (task, _) = back_up_and_prove(&site, &job, &vm).await?;
    assert_eq!(task.disks[0].source, "vhd-full", "{}", log_of(&task));

    site.guest_writes(&vm.disks[0], 2.0, 7).await?;
    let (task, read) = back_up_and_prove(&site, &job, &vm).await?;
    assert_eq!(task.disks[0].source, "vhd-delta", "{}", log_of(&task));
    assert!(read < 50 * MIB, "{read} bytes were read for 4 MiB of changes");
    Ok(())
}

#[tokio::test]
async fn a_disk_that_grew_or_shrank_is_read_anew_with_the_reason() -> Result<()> {
    let site = Site::start().await?;
    let vm = site.create_vm("db1", &[60 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    back_up_and_prove(&site, &job, &vm).await?;
    for (size, how) in [(80 * MIB, "grown"), (40 * MIB, "shrunk")] {
        site.hosts.resize_disk(&vm.disks[0], size).await?;
        site.guest_writes(&vm.disks[0], 5.0, size).await?;
        let (task, _) = back_up_and_prove(&site, &job, &vm).await?;
        assert_eq!(task.disks[0].source, "nbd", "{}", log_of(&task));
        assert!(says(&task, &format!("the disk was {how}")), "no reason in {}", log_of(&task));
        let (task, read) = back_up_and_prove(&site, &job, &vm).await?;
        assert_eq!((task.disks[0].source.as_str(), read), ("nbd+cbt", 0), "{}", log_of(&task));
    }
    Ok(())
}

#[tokio::test]
async fn a_vanished_reference_makes_a_full_read_with_the_reason() -> Result<()> {
    let site = Site::start().await?;
    let vm = site.create_vm("db1", &[100 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    back_up_and_prove(&site, &job, &vm).await?;
    for (_, vdi) in site.hosts.records("VDI").await? {
        if vdi["type"] == "cbt_metadata" {
            site.hosts.remove_disk(vdi["uuid"].as_str().context("a UUID")?).await?;
        }
    }
    site.guest_writes(&vm.disks[0], 3.0, 7).await?;
    let (task, _) = back_up_and_prove(&site, &job, &vm).await?;
    assert_eq!(task.disks[0].source, "nbd", "{}", log_of(&task));
    assert!(says(&task, "the snapshot of the last restore point is gone from the pool"), "{}", log_of(&task));
    Ok(())
}

#[tokio::test]
async fn a_deleted_parent_makes_a_full_read_that_writes_nothing_known() -> Result<()> {
    let site = Site::start().await?;
    let vm = site.create_vm("db1", &[100 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    back_up_and_prove(&site, &job, &vm).await?;

    let names = site.api.restore_points(&vm.uuid).await?.into_iter().map(|point| point.name).collect();
    let request = DeleteRestorePointsRequest { names, allow_last: true, ..Default::default() };
    let run = site.api.points.clone().delete_restore_points(request).await?.into_inner();
    site.api.succeeded(&site.api.ended(&run.name).await?).await?;
    assert!(site.api.restore_points(&vm.uuid).await?.is_empty());

    let (task, _) = back_up_and_prove(&site, &job, &vm).await?;
    assert_eq!(task.disks[0].source, "nbd", "{}", log_of(&task));
    assert!(says(&task, "first restore point on remote"), "{}", log_of(&task));
    let written = task.transfer.context("sums")?.written_bytes;
    assert!(written < 4 * MIB, "{written} bytes were written though the chunks were there");
    Ok(())
}

#[tokio::test]
async fn disks_that_come_and_go_are_followed() -> Result<()> {
    let site = Site::start().await?;
    let vm = site.create_vm("app", &[50 * MIB, 50 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    back_up_and_prove(&site, &job, &vm).await?;

    let added = DiskSpec { name: "late disk".into(), size: 20 * MIB, ..Default::default() };
    let added = site.hosts.add_disk(&vm.uuid, added).await?;
    site.hosts.write(&added.vdi.uuid, Write::Random { offset: 3 * MIB, length: 70_000, seed: 5 }).await?;
    let (task, _) = back_up_and_prove(&site, &job, &vm).await?;
    assert_eq!(task.disks.len(), 3, "{}", log_of(&task));
    assert!(says(&task, "the disk is not in the last restore point"), "{}", log_of(&task));

    site.hosts.remove_disk(&vm.disks[1]).await?;
    let (task, _) = back_up_and_prove(&site, &job, &vm).await?;
    assert_eq!(task.disks.len(), 2, "{}", log_of(&task));
    Ok(())
}
