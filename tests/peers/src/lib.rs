//! Starts a simulated pool and runs programs against it that nobody here wrote: they judge whether it speaks as real
//! hosts do. What they are told to do stands in `scripts/`.

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use simpool::control::{Client, Content, DiskSpec, PoolInfo, VmInfo, VmSpec};
use simpool::{Builder, SimPool};
use tempfile::TempDir;
use tokio::process::Command;

/// A simulated pool in this process, with one virtual machine that has two disks.
pub struct Stage {
    _pool: SimPool,
    /// Addresses and credentials.
    pub info: PoolInfo,
    /// The control interface.
    pub control: Client,
    /// The virtual machine.
    pub vm: VmInfo,
    /// A folder for files.
    pub folder: TempDir,
}

impl Stage {
    /// Starts it.
    ///
    /// # Errors
    /// When the pool does not come up.
    pub async fn start() -> Result<Self> {
        let pool = Builder::new().hosts(2).start().await?;
        let info = pool.info().clone();
        let control = Client::new(&info.control);
        let disk = |seed| DiskSpec {
            name: format!("disk {seed}"),
            size: 32 << 20,
            content: Content::Seeded { seed, percent: 40.0 },
            ..Default::default()
        };
        let spec =
            VmSpec { name: "web".into(), running: true, vifs: 1, disks: vec![disk(1), disk(2)], ..Default::default() };
        let vm = control.create_vm(&spec).await?;
        Ok(Self { _pool: pool, info, control, vm, folder: TempDir::new()? })
    }

    /// Runs a script of `scripts/` with Python and PyPI's XenAPI, on the virtual machine of the stage.
    ///
    /// # Errors
    /// When it fails; with all that it said.
    pub async fn python(&self, script: &str, arguments: &[&str]) -> Result<String> {
        python(&self.info, &self.vm.vm.uuid, script, arguments).await
    }

    /// Runs a script of `scripts/` with Node and npm's xen-api, on the virtual machine of the stage.
    ///
    /// # Errors
    /// When it fails; with all that it said.
    pub async fn node(&self, script: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("node");
        command.arg(scripts().join(script)).env("PEER_MODULES", peers().join("node_modules"));
        run(command, &self.info, &self.vm.vm.uuid, arguments).await
    }
}

/// Runs a script of `scripts/` with Python and PyPI's XenAPI, on one virtual machine of a pool.
///
/// # Errors
/// When it fails; with all that it said.
pub async fn python(pool: &PoolInfo, vm_uuid: &str, script: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(peers().join("venv/bin/python"));
    command.arg(scripts().join(script));
    run(command, pool, vm_uuid, arguments).await
}

/// An export of a disk over NBD.
#[derive(Debug)]
pub struct NbdUri {
    /// As libnbd's programs take it.
    pub uri: String,
    /// UUID of the snapshot's disk behind it.
    pub disk: String,
}

/// Takes a snapshot of a virtual machine and names its first disk as a host's NBD server exports it. The host's
/// certificate is put into `folder`.
///
/// # Errors
/// When the pool refuses; with all that it said.
pub async fn snapshot_over_nbd(pool: &PoolInfo, vm_uuid: &str, folder: &Path) -> Result<NbdUri> {
    std::fs::create_dir_all(folder)?;
    let answer = python(pool, vm_uuid, "nbd_info.py", &[&folder.to_string_lossy()]).await?;
    let mut lines = answer.lines().map(str::to_owned);
    Ok(NbdUri { uri: lines.next().context("a URI")?, disk: lines.next().context("a UUID")? })
}

async fn run(mut command: Command, pool: &PoolInfo, vm_uuid: &str, arguments: &[&str]) -> Result<String> {
    command.args(arguments).env("POOL_URL", &pool.url).env("POOL_USER", &pool.user);
    command.env("POOL_PASSWORD", &pool.password).env("VM_UUID", vm_uuid);
    Ok(String::from_utf8(succeed(&mut command).await?.stdout)?)
}

/// Runs a command, which must succeed.
///
/// # Errors
/// When it is missing or fails; with all that it said.
pub async fn succeed(command: &mut Command) -> Result<Output> {
    let shown = format!("{:?}", command.as_std());
    let output = command.output().await.with_context(|| format!("{shown}: is it installed? see tests/run"))?;
    ensure!(
        output.status.success(),
        "{shown} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

/// Where `tests/peers/install` puts what it installs.
fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers")
}
