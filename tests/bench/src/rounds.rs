//! The rounds: each side does its work once a round, in turns, so that a machine that grows slower slows all of them.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use coffer_scenarios::{Site, Vm};
use simpool::control::{Content, DiskSpec, VmSpec};
use tokio::process::Command;

use crate::measure::{Cost, Process, command};
use crate::report;

/// The work of every side.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    pub(crate) disk_bytes: u64,
    pub(crate) nbdcopy: Vec<Cost>,
    pub(crate) restic_backup: Vec<Cost>,
    pub(crate) coffer_backup: Vec<Cost>,
    pub(crate) coffer_unchanged: Vec<Cost>,
    pub(crate) restic_dump: Vec<Cost>,
    pub(crate) coffer_restore: Vec<Cost>,
}

/// Many disks at once.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) disks: usize,
    pub(crate) peak_bytes: u64,
}

fn half_random(size: u64, seed: u64) -> DiskSpec {
    DiskSpec { name: "disk".into(), size, content: Content::Seeded { seed, percent: 50.0 }, ..Default::default() }
}

/// Plays one round that does not count and `rounds` that do. Every round has a site and repositories of its own.
pub(crate) async fn play(size: u64, rounds: usize) -> Result<Rounds> {
    let mut played = Rounds { disk_bytes: size, ..Default::default() };
    for round in 0..=rounds {
        report::say(&format!("round {round} of {rounds}{}", if round == 0 { " (warm-up)" } else { "" }))?;
        let site = Site::start().await?;
        let spec =
            VmSpec { name: "bench".into(), running: true, disks: vec![half_random(size, 11)], ..Default::default() };
        let vm = site.create_vm_like(&spec).await?;
        let job = site.create_job("bench", &[&vm]).await?;
        let raw = site.folder().join("disk.raw");
        site.hosts.copy_disk(&vm.disks[0], &raw).await?;

        let nbdcopy = nbdcopy(&site, &vm).await?;
        let restic_backup = restic_backup(site.folder(), &raw).await?;
        let coffer_backup = coffer_backup(&site, &job).await?;
        let coffer_unchanged = self::coffer_backup(&site, &job).await?;
        let restic_dump = restic_dump(site.folder(), &raw).await?;
        let coffer_restore = coffer_restore(&site, &vm).await?;
        if round > 0 {
            played.nbdcopy.push(nbdcopy);
            played.restic_backup.push(restic_backup);
            played.coffer_backup.push(coffer_backup);
            played.coffer_unchanged.push(coffer_unchanged);
            played.restic_dump.push(restic_dump);
            played.coffer_restore.push(coffer_restore);
        }
    }
    Ok(played)
}

/// Backs several disks up at once; the agent's peak memory.
pub(crate) async fn peak_memory_of_many_disks(size: u64, disks: usize) -> Result<Memory> {
    let site = Site::start().await?;
    let disks_of_vm = (0..disks).zip(100..).map(|(_, seed)| half_random(size, seed)).collect();
    let spec = VmSpec { name: "many".into(), running: true, disks: disks_of_vm, ..Default::default() };
    let vm = site.create_vm_like(&spec).await?;
    let job = site.create_job("many", &[&vm]).await?;
    let cost = coffer_backup(&site, &job).await?;
    Ok(Memory { disks, peak_bytes: cost.peak_bytes })
}

/// Only moves the bytes: from a host over NBD and TLS to a file.
async fn nbdcopy(site: &Site, vm: &Vm) -> Result<Cost> {
    let pool = site.hosts.pool().await?;
    let export = coffer_peers::snapshot_over_nbd(&pool, &vm.uuid, &site.folder().join("pki")).await?;
    let target = site.folder().join("nbdcopy.raw");
    let connections = "--connections=4";
    let cost = command(Command::new("nbdcopy").args([connections, &export.uri]).arg(&target)).await?;
    std::fs::remove_file(target)?;
    Ok(cost)
}

fn restic(folder: &Path) -> Command {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "--quiet", "--repo"]).arg(folder.join("restic")).env("RESTIC_PASSWORD", "bench");
    command
}

async fn restic_backup(folder: &Path, raw: &Path) -> Result<Cost> {
    command(restic(folder).args(["init", "--repository-version", "2"])).await?;
    command(restic(folder).arg("backup").arg(raw)).await
}

async fn restic_dump(folder: &Path, raw: &Path) -> Result<Cost> {
    command(restic(folder).args(["dump", "latest"]).arg(raw)).await
}

async fn coffer_backup(site: &Site, job: &str) -> Result<Cost> {
    let agent = site.agent().context("an agent runs")?.id()?;
    let (before, start) = (Process::read(agent)?, Instant::now());
    site.api.back_up(job).await?;
    Ok(Process::read(agent)?.since(before, start.elapsed().as_secs_f64()))
}

async fn coffer_restore(site: &Site, vm: &Vm) -> Result<Cost> {
    let point = site.api.restore_points(&vm.uuid).await?.into_iter().next().context("a restore point")?;
    let sr = site.sr("Shared NFS").await?;
    let agent = site.agent().context("an agent runs")?.id()?;
    let (before, start) = (Process::read(agent)?, Instant::now());
    site.api.restore(&point.name, &sr).await?;
    Ok(Process::read(agent)?.since(before, start.elapsed().as_secs_f64()))
}
