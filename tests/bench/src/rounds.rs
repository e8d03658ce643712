//! The rounds: each side does its work once a round, in turns, so that a machine that grows slower slows all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use coffer_proto::v1::ExportRestorePointRequest;
use coffer_scenarios::{Site, Vm};
use simpool::control::{Content, DiskSpec, VmSpec};
use tokio::process::Command;

use crate::measure::{Cost, Process, command};
use crate::report;

/// Who works. In the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// From a host to a file, nothing but moved: what the transport allows.
    NbdCopy,
    /// From a file into a repository.
    ResticBackup,
    /// From a host into a repository.
    Backup,
    /// The same again, when nothing changed.
    Unchanged,
    /// A VHD file to a host, nothing but moved.
    Upload,
    /// From a repository to a file, zeros and all.
    ResticDump,
    /// From a repository to a sparse file.
    Export,
    /// From a repository to a host.
    Restore,
}

/// What every side's work cost, round by round.
pub(crate) type Rounds = BTreeMap<Side, Vec<Cost>>;

/// Many disks at once.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) disks: usize,
    /// Peak of the agent while it backed them up, bytes.
    pub(crate) backup_bytes: u64,
    /// Peak of another agent while it restored them, bytes.
    pub(crate) restore_bytes: u64,
}

fn half_random(size: u64, seed: u64) -> DiskSpec {
    DiskSpec { name: "disk".into(), size, content: Content::Seeded { seed, percent: 50.0 }, ..Default::default() }
}

/// Plays one round that does not count and `rounds` that do. Every round has a site and repositories of its own.
pub(crate) async fn play(size: u64, rounds: usize) -> Result<Rounds> {
    let mut played = Rounds::new();
    for round in 0..=rounds {
        report::say(&format!("round {round} of {rounds}{}", if round == 0 { " (warm-up)" } else { "" }))?;
        for (side, cost) in one_round(size).await? {
            if round > 0 {
                played.entry(side).or_default().push(cost);
            }
        }
    }
    Ok(played)
}

async fn one_round(size: u64) -> Result<Vec<(Side, Cost)>> {
    let site = Site::start().await?;
    let spec = VmSpec { name: "bench".into(), running: true, disks: vec![half_random(size, 11)], ..Default::default() };
    let vm = site.create_vm_like(&spec).await?;
    let job = site.create_job("bench", &[&vm]).await?;
    let raw = site.folder().join("disk.raw");
    site.hosts.copy_disk(&vm.disks[0], &raw).await?;
    Ok(vec![
        (Side::NbdCopy, nbdcopy(&site, &vm).await?),
        (Side::ResticBackup, restic_backup(site.folder(), &raw).await?),
        (Side::Backup, backup(&site, &job).await?),
        (Side::Unchanged, backup(&site, &job).await?),
        (Side::ResticDump, restic_dump(site.folder(), &raw).await?),
        (Side::Export, export(&site, &vm).await?),
        (Side::Upload, upload(&site, size, &raw).await?),
        (Side::Restore, restore(&site, &vm).await?),
    ])
}

/// Backs several disks up at once, and restores them at once; the agent's peak memory in each.
pub(crate) async fn peak_memory_of_many_disks(size: u64, disks: usize) -> Result<Memory> {
    report::say(&format!("{disks} disks at once"))?;
    let mut site = Site::start().await?;
    let disks_of_vm = (0..disks).zip(100..).map(|(_, seed)| half_random(size, seed)).collect();
    let spec = VmSpec { name: "many".into(), running: true, disks: disks_of_vm, ..Default::default() };
    let vm = site.create_vm_like(&spec).await?;
    let job = site.create_job("many", &[&vm]).await?;
    let backup_bytes = backup(&site, &job).await?.peak_bytes;
    site.crash_agent().await?;
    let restore_bytes = restore(&site, &vm).await?.peak_bytes;
    Ok(Memory { disks, backup_bytes, restore_bytes })
}

async fn nbdcopy(site: &Site, vm: &Vm) -> Result<Cost> {
    let pool = site.hosts.pool().await?;
    let export = coffer_peers::snapshot_over_nbd(&pool, &vm.uuid, &site.folder().join("pki")).await?;
    let target = site.folder().join("nbdcopy.raw");
    let connections = "--connections=4";
    let cost = command(Command::new("nbdcopy").args([connections, &export.uri]).arg(&target)).await?;
    std::fs::remove_file(target)?;
    Ok(cost)
}

/// Sends a VHD that QEMU made of the same disk. `curl` knows nothing of it: the transport, and what the host does with
/// it.
async fn upload(site: &Site, size: u64, raw: &Path) -> Result<Cost> {
    let pool = site.hosts.pool().await?;
    let vhd = site.folder().join("disk.vhd");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-O", "vpc", "-o", "subformat=dynamic,force_size=on"]).arg(raw).arg(&vhd);
    command(&mut convert).await?;
    let empty = DiskSpec { name: "target".into(), size, ..Default::default() };
    let spec = VmSpec { name: "target".into(), disks: vec![empty], ..Default::default() };
    let target = site.hosts.create_vm(&spec).await?.disks.pop().context("the disk that was asked for")?;
    let url = format!("{}/import_raw_vdi?vdi={}&format=vhd", pool.url, target.vdi.uuid);
    let user = format!("{}:{}", pool.user, pool.password);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--insecure", "--http1.1", "--user", &user, "--upload-file"]).arg(&vhd).arg(url);
    let cost = command(&mut curl).await?;
    std::fs::remove_file(vhd)?;
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
    let target = folder.join("dump.raw");
    let cost =
        command(restic(folder).args(["dump", "latest"]).arg(raw).stdout(std::fs::File::create(&target)?)).await?;
    std::fs::remove_file(target)?;
    Ok(cost)
}

/// What the agent spends while something is done.
async fn spent<T>(site: &Site, work: impl Future<Output = Result<T>>) -> Result<Cost> {
    let agent = site.agent().context("an agent runs")?.id()?;
    let (before, start) = (Process::read(agent)?, Instant::now());
    work.await?;
    Ok(Process::read(agent)?.since(before, start.elapsed().as_secs_f64()))
}

async fn backup(site: &Site, job: &str) -> Result<Cost> {
    spent(site, site.api.back_up(job)).await
}

async fn newest_point(site: &Site, vm: &Vm) -> Result<String> {
    Ok(site.api.restore_points(&vm.uuid).await?.into_iter().next().context("a restore point")?.name)
}

async fn export(site: &Site, vm: &Vm) -> Result<Cost> {
    let folder: PathBuf = site.folder().join("export");
    std::fs::create_dir(&folder)?;
    let name = newest_point(site, vm).await?;
    let request = ExportRestorePointRequest { name, folder: folder.display().to_string(), ..Default::default() };
    let cost = spent(site, async {
        let run = site.api.points.clone().export_restore_point(request).await?.into_inner();
        site.api.succeeded(&site.api.ended(&run.name).await?).await
    });
    let cost = cost.await?;
    std::fs::remove_dir_all(folder)?;
    Ok(cost)
}

async fn restore(site: &Site, vm: &Vm) -> Result<Cost> {
    let (point, sr) = (newest_point(site, vm).await?, site.sr("Shared NFS").await?);
    spent(site, site.api.restore(&point, &sr)).await
}
