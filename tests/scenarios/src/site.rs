//! A whole site: a simulated pool, a controller and an agent, each a process, with one pool and one remote registered.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coffer_proto::v1::{
    CreateJobRequest, CreatePoolRequest, CreateRemoteRequest, GetPoolRequest, GetRemoteRequest, Job, LocalLocation,
    Pool, Remote, Selection, pool, remote,
};
use simpool::control::{Client, Content, Digest, DiskSpec, PoolInfo, VmSpec, Write};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{Api, Etcd, Gate, Process, program, until};

/// The password of every repository in scenarios.
const REPOSITORY_PASSWORD: &str = "scenario repository password";

/// How a site is set up.
#[derive(Debug)]
pub struct SiteOptions {
    /// Hosts of the pool.
    pub hosts: usize,
    /// How NBD is offered: `tls`, `plain` or `off`.
    pub nbd: &'static str,
    /// Generation of the hosts: `8.2` or `8.3`.
    pub profile: &'static str,
    /// Whether the pool and the remote are registered.
    pub registered: bool,
    /// Whether the agent reaches the controller through a [`Gate`].
    pub gated: bool,
    /// Controllers. More than one keep their state in [`Site::etcd`].
    pub controllers: usize,
    /// Agents, each of which knows all controllers.
    pub agents: usize,
}

impl Default for SiteOptions {
    fn default() -> Self {
        Self { hosts: 1, nbd: "tls", profile: "8.3", registered: true, gated: false, controllers: 1, agents: 1 }
    }
}

/// A virtual machine of the simulated pool.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Name.
    pub label: String,
    /// UUID.
    pub uuid: String,
    /// UUIDs of its disks, in order.
    pub disks: Vec<String>,
}

/// A running site. Everything ends with it.
pub struct Site {
    folder: TempDir,
    /// The control interface of the simulated pool.
    pub hosts: Client,
    /// The API of the first controller.
    pub api: Api,
    /// Where several controllers keep their state.
    pub etcd: Option<Etcd>,
    pool: Option<Process>,
    controllers: Vec<Option<Process>>,
    agents: Vec<Option<Process>>,
    addresses: Vec<String>,
    gate: Option<Gate>,
    options: SiteOptions,
}

impl Site {
    /// Name of the registered pool.
    pub const POOL: &'static str = "pools/lab";
    /// Name of the registered remote.
    pub const REMOTE: &'static str = "remotes/vault";

    /// A site as most scenarios need it.
    ///
    /// # Errors
    /// When a program does not come up; with the end of its log.
    pub async fn start() -> Result<Self> {
        Self::start_with(SiteOptions::default()).await
    }

    /// A site.
    ///
    /// # Errors
    /// When a program does not come up; with the end of its log.
    pub async fn start_with(options: SiteOptions) -> Result<Self> {
        let folder = TempDir::with_prefix("coffer-scenario-")?;
        for name in ["pool", "remote", "etcd"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        let (pool, info) = start_pool(folder.path(), &options).await?;
        let etcd =
            if options.controllers > 1 { Some(Etcd::start(&folder.path().join("etcd"), 3).await?) } else { None };
        let endpoints = etcd.as_ref().map(Etcd::endpoints);
        let (mut controllers, mut addresses) = (Vec::new(), Vec::new());
        for number in 0..options.controllers {
            let (controller, address) =
                start_controller(folder.path(), number, "127.0.0.1:0", endpoints.as_deref()).await?;
            controllers.push(Some(controller));
            addresses.push(address);
        }
        let token = std::fs::read_to_string(folder.path().join("controller-0/api-token"))?;
        let api = Api::new(&format!("http://{}", addresses[0]), &token)?;
        let gate = if options.gated { Some(Gate::start(&addresses[0]).await?) } else { None };
        let mut site = Self {
            hosts: Client::new(&info.control),
            api,
            etcd,
            pool: Some(pool),
            controllers,
            agents: Vec::new(),
            addresses,
            gate,
            folder,
            options,
        };
        for number in 0..site.options.agents {
            site.agents.push(Some(site.start_agent(number)?));
        }
        if site.options.registered {
            site.register(&info).await?;
        }
        Ok(site)
    }

    async fn register(&self, info: &PoolInfo) -> Result<()> {
        let pool = Pool {
            hosts: vec![info.url.trim_start_matches("https://").to_owned()],
            username: info.user.clone(),
            password: info.password.clone(),
            fingerprint: info.fingerprint.clone(),
            ..Default::default()
        };
        let request = CreatePoolRequest { pool_id: "lab".into(), pool: Some(pool), ..Default::default() };
        self.api.pools.clone().create_pool(request).await?;
        let remote = Remote {
            password: REPOSITORY_PASSWORD.into(),
            location: Some(remote::Location::Local(LocalLocation { path: self.remote_path().display().to_string() })),
            ..Default::default()
        };
        let request = CreateRemoteRequest { remote_id: "vault".into(), remote: Some(remote), ..Default::default() };
        self.api.remotes.clone().create_remote(request).await?;
        self.pool_connected().await?;
        until("the remote to be ready", async || {
            let request = GetRemoteRequest { name: Self::REMOTE.into() };
            let remote = self.api.remotes.clone().get_remote(request).await?.into_inner();
            ensure!(remote.state() != remote::State::Unavailable, remote.state_message);
            Ok((remote.state() == remote::State::Ready).then_some(()))
        })
        .await
    }

    /// Waits until an agent follows the pool.
    ///
    /// # Errors
    /// When none does; with what the agent says.
    pub async fn pool_connected(&self) -> Result<Pool> {
        until("the pool to be connected", async || {
            let request = GetPoolRequest { name: Self::POOL.into() };
            let pool = self.api.pools.clone().get_pool(request).await?.into_inner();
            ensure!(pool.state() != pool::State::Unreachable, pool.state_message);
            Ok((pool.state() == pool::State::Connected).then_some(pool))
        })
        .await
    }

    /// The remote's folder.
    #[must_use]
    pub fn remote_path(&self) -> PathBuf {
        self.folder.path().join("remote")
    }

    /// A folder for the scenario's own files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a running virtual machine with disks of these sizes, each partly filled, and waits until it is in the
    /// inventory.
    ///
    /// # Errors
    /// What the pool answers.
    pub async fn create_vm(&self, label: &str, disk_sizes: &[u64]) -> Result<Vm> {
        let disks = disk_sizes
            .iter()
            .zip(1u64..)
            .map(|(&size, number)| DiskSpec {
                name: format!("{label} disk {number}"),
                size,
                content: Content::Seeded { seed: number, percent: 40.0 },
                ..Default::default()
            })
            .collect();
        let spec = VmSpec { name: label.to_owned(), running: true, vifs: 1, disks, ..Default::default() };
        self.create_vm_like(&spec).await
    }

    /// Makes a virtual machine and waits until it is in the inventory.
    ///
    /// # Errors
    /// What the pool answers.
    pub async fn create_vm_like(&self, spec: &VmSpec) -> Result<Vm> {
        let made = self.hosts.create_vm(spec).await?;
        let vm = Vm {
            label: spec.name.clone(),
            uuid: made.vm.uuid,
            disks: made.disks.into_iter().map(|disk| disk.vdi.uuid).collect(),
        };
        until(&format!("{} to be in the inventory", vm.label), async || {
            let request = coffer_proto::v1::ListVirtualMachinesRequest {
                parent: Self::POOL.into(),
                page_size: 1000,
                ..Default::default()
            };
            let seen = self.api.pools.clone().list_virtual_machines(request).await?.into_inner().virtual_machines;
            let known = seen.iter().any(|seen| seen.uuid == vm.uuid && seen.disks.len() == vm.disks.len());
            Ok(known.then_some(()))
        })
        .await?;
        Ok(vm)
    }

    /// Creates a job for some virtual machines; returns its name.
    ///
    /// # Errors
    /// What the controller answers.
    pub async fn create_job(&self, id: &str, vms: &[&Vm]) -> Result<String> {
        let selection = Selection {
            vms: vms.iter().map(|vm| format!("{}/vms/{}", Self::POOL, vm.uuid)).collect(),
            ..Default::default()
        };
        let job = Job { selection: Some(selection), remotes: vec![Self::REMOTE.into()], ..Default::default() };
        let request = CreateJobRequest { job_id: id.to_owned(), job: Some(job), ..Default::default() };
        Ok(self.api.jobs.clone().create_job(request).await?.into_inner().name)
    }

    /// The guest rewrites some of a disk's 1 MiB chunks; how many bytes.
    ///
    /// # Errors
    /// What the pool answers.
    pub async fn guest_writes(&self, vdi: &str, percent: f64, seed: u64) -> Result<u64> {
        Ok(self.hosts.write(vdi, Write::Percent { percent, seed }).await?.bytes())
    }

    /// SHA-256 and size of each disk of a virtual machine, in order, as they are now.
    ///
    /// # Errors
    /// What the pool answers.
    pub async fn digests(&self, vm_uuid: &str) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for disk in self.hosts.vm(vm_uuid).await?.disks {
            digests.push(self.hosts.digest(&disk.vdi.uuid).await?);
        }
        Ok(digests)
    }

    /// Resource name of a storage repository of the pool, by its label.
    ///
    /// # Errors
    /// When there is none.
    pub async fn sr(&self, label: &str) -> Result<String> {
        until(&format!("storage repository {label} to be in the inventory"), async || {
            let request = coffer_proto::v1::ListStorageRepositoriesRequest {
                parent: Self::POOL.into(),
                page_size: 1000,
                ..Default::default()
            };
            let answer = self.api.pools.clone().list_storage_repositories(request).await?.into_inner();
            Ok(answer.storage_repositories.into_iter().find(|sr| sr.name_label == label).map(|sr| sr.name))
        })
        .await
    }

    /// Runs stock `restic` on the repository; what it prints.
    ///
    /// # Errors
    /// When it is missing or fails; with what it says.
    pub async fn restic(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new("restic");
        command.args(["--no-cache", "--quiet", "--repo"]).arg(self.remote_path().join("repository")).args(arguments);
        run_peer(command.env("RESTIC_PASSWORD", REPOSITORY_PASSWORD)).await
    }

    /// Runs the reader made of rustic's library on the repository; what it prints.
    ///
    /// # Errors
    /// When it is missing or fails; with what it says.
    pub async fn rustic(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let reader = program("simpool")?.with_file_name("../peers/rustic/debug/rustic-reader");
        let mut command = Command::new(reader);
        command.arg(self.remote_path().join("repository")).args(arguments);
        run_peer(command.env("RUSTIC_PASSWORD", REPOSITORY_PASSWORD)).await
    }

    /// Runs the command line against this site; what it prints.
    ///
    /// # Errors
    /// When it fails; with what it says.
    pub async fn coffer(&self, arguments: &[&str]) -> Result<String> {
        Ok(String::from_utf8(run_peer(&mut self.coffer_command(arguments)?).await?)?)
    }

    /// The command line, told of all controllers in their order.
    ///
    /// # Errors
    /// When it was not built.
    pub fn coffer_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("coffer")?);
        command.args(arguments).env("COFFER_SERVER", self.addresses.join(","));
        command.env("COFFER_TOKEN_FILE", self.token_file());
        Ok(command)
    }

    /// The file with the token that all controllers know.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.folder.path().join("controller-0/api-token")
    }

    fn start_agent(&self, number: usize) -> Result<Process> {
        let folder = self.folder.path();
        let state = folder.join(format!("agent-{number}")).display().to_string();
        let token = self.token_file().display().to_string();
        let known = match &self.gate {
            Some(gate) => vec![gate.address().to_owned()],
            None => self.addresses.clone(),
        };
        let known = known.iter().map(|address| format!("http://{address}")).collect::<Vec<_>>().join(",");
        let arguments = ["--state", &state, "--controller", &known, "--token-file", &token];
        Process::start_as(&format!("coffer-agent-{number}"), &program("coffer-agent")?, folder, &arguments)
    }

    /// Kills the agent and starts it again.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn crash_agent(&mut self) -> Result<()> {
        self.kill_agent(0).await?;
        self.agents[0] = Some(self.start_agent(0)?);
        Ok(())
    }

    /// Kills an agent for good.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_agent(&mut self, number: usize) -> Result<()> {
        self.agents[number].take().context("the agent runs")?.kill().await
    }

    /// Kills the controller and starts it again at the same address.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn crash_controller(&mut self) -> Result<()> {
        self.kill_controller(0).await?;
        let endpoints = self.etcd.as_ref().map(Etcd::endpoints);
        let started = start_controller(self.folder.path(), 0, &self.addresses[0], endpoints.as_deref()).await?;
        self.controllers[0] = Some(started.0);
        Ok(())
    }

    /// Kills a controller for good. [`Self::api`] is then that of the first that is left.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_controller(&mut self, number: usize) -> Result<()> {
        self.controllers[number].take().context("the controller runs")?.kill().await?;
        if let Some(left) = self.controllers.iter().position(Option::is_some) {
            self.api = self.api_of(left)?;
        }
        Ok(())
    }

    /// A controller's process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn controller(&self, number: usize) -> Result<&Process> {
        self.controllers[number].as_ref().context("the controller runs")
    }

    /// Resource name of an agent.
    ///
    /// # Errors
    /// When it has not begun yet.
    pub fn agent_name(&self, number: usize) -> Result<String> {
        let id = self.folder.path().join(format!("agent-{number}/agent-id"));
        Ok(format!("agents/{}", std::fs::read_to_string(id)?.trim()))
    }

    /// Where one of several controllers serves: `host:port`.
    #[must_use]
    pub fn address_of(&self, number: usize) -> &str {
        &self.addresses[number]
    }

    /// The API of one of several controllers.
    ///
    /// # Errors
    /// When the token cannot be read.
    pub fn api_of(&self, number: usize) -> Result<Api> {
        let token = std::fs::read_to_string(self.token_file())?;
        Api::new(&format!("http://{}", self.addresses[number]), &token)
    }

    /// Kills the simulated pool and starts it again from its state.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn crash_pool(&mut self) -> Result<()> {
        self.pool.take().context("the pool runs")?.kill().await?;
        self.pool = Some(start_pool(self.folder.path(), &self.options).await?.0);
        Ok(())
    }

    /// What stands between the agent and the controller.
    ///
    /// # Errors
    /// When the site was started without.
    pub fn gate(&self) -> Result<&Gate> {
        self.gate.as_ref().context("the site has a gate only when it is started with `gated`")
    }

    /// Where the controller serves: `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.addresses[0]
    }

    /// The agent's process.
    #[must_use]
    pub fn agent(&self) -> Option<&Process> {
        self.agents.first()?.as_ref()
    }

    /// What all programs of ours logged so far.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn logs(&self) -> Result<String> {
        let named =
            |name: &str, count| (0..count).map(move |number| format!("{name}-{number}.log")).collect::<Vec<_>>();
        let names = [named("coffer-controller", self.options.controllers), named("coffer-agent", self.options.agents)];
        let logs = names.concat().into_iter().map(|name| std::fs::read_to_string(self.folder.path().join(name)));
        Ok(logs.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// What is left in the pool that Coffer made and nothing needs: snapshots, disks, virtual machines, and disks
    /// attached to a control domain. References for the next delta (changed-block metadata and, without NBD, base
    /// snapshots) are needed, hence not in it.
    ///
    /// # Errors
    /// What the pool answers.
    pub async fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let vms = self.hosts.records("VM").await?;
        for vm in vms.values().filter(|vm| is_ours(vm)) {
            found.push(format!("VM {}", vm["name_label"]));
        }
        let mut bases = BTreeSet::new();
        for vdi in self.hosts.records("VDI").await?.values().filter(|vdi| is_ours(vdi)) {
            // Without NBD the next delta is read against the last snapshot of each disk.
            let is_base = self.options.nbd == "off" && vdi["is_a_snapshot"] == true && is_kept(vdi);
            let is_needed = is_base && bases.insert(vdi["snapshot_of"].to_string());
            if vdi["type"] != "cbt_metadata" && !is_needed {
                found.push(format!("VDI {} ({})", vdi["name_label"], vdi["uuid"]));
            }
        }
        for vbd in self.hosts.records("VBD").await?.values() {
            let owner = vbd["VM"].as_str().and_then(|vm| vms.get(vm));
            if owner.is_some_and(|vm| vm["is_control_domain"] == true) {
                found.push(format!("VBD {} in a control domain", vbd["uuid"]));
            }
        }
        Ok(found)
    }
}

/// Whether a record carries a stamp or a name of ours, and is not what a restore made for good.
fn is_ours(record: &serde_json::Value) -> bool {
    let named = record["name_label"].as_str().is_some_and(|label| label.starts_with("coffer:"));
    let stamped = record["other_config"].as_object().is_some_and(|map| map.contains_key("coffer:intent"));
    named || stamped
}

/// Whether a disk carries the mark of one that is kept for the next delta.
fn is_kept(vdi: &serde_json::Value) -> bool {
    vdi["other_config"].as_object().is_some_and(|map| map.contains_key("coffer:remotes"))
}

async fn run_peer(command: &mut Command) -> Result<Vec<u8>> {
    let shown = format!("{:?}", command.as_std());
    let output = command.output().await.with_context(|| format!("starting {shown}: is it installed? see tests/run"))?;
    ensure!(
        output.status.success(),
        "{shown} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

async fn start_pool(folder: &Path, options: &SiteOptions) -> Result<(Process, PoolInfo)> {
    let state = folder.join("pool").display().to_string();
    let hosts = options.hosts.to_string();
    let arguments =
        ["serve", "--state", &state, "--hosts", &hosts, "--nbd", options.nbd, "--version-profile", options.profile];
    let (process, line) = Process::start_and_read_line("simpool", folder, &arguments).await?;
    Ok((process, serde_json::from_str(&line).with_context(|| format!("simpool printed {line}"))?))
}

/// Deadlines short enough that a test sees a lost agent's work taken over within seconds.
const FAST: [(&str, Duration); 4] = [
    ("--session-ttl", Duration::from_secs(3)),
    ("--sync-interval", Duration::from_millis(500)),
    ("--authority", Duration::from_secs(2)),
    ("--hard-stop", Duration::from_secs(5)),
];

/// All of several controllers have the token and the sealing key that the first one made.
async fn start_controller(folder: &Path, number: usize, listen: &str, etcd: Option<&str>) -> Result<(Process, String)> {
    let state = folder.join(format!("controller-{number}"));
    if number > 0 && !state.exists() {
        std::fs::create_dir(&state)?;
        for name in ["api-token", "sealing-key"] {
            std::fs::copy(folder.join("controller-0").join(name), state.join(name))?;
        }
    }
    let state = state.display().to_string();
    let mut arguments = vec!["--state", &state, "--listen", listen];
    let durations = FAST.map(|(flag, duration)| (flag, format!("{}ms", duration.as_millis())));
    for (flag, duration) in &durations {
        arguments.extend([flag, duration.as_str()]);
    }
    if let Some(endpoints) = etcd {
        arguments.extend(["--etcd", endpoints]);
    }
    let label = format!("coffer-controller-{number}");
    let (process, line) = Process::start_labelled(&label, "coffer-controller", folder, &arguments).await?;
    let address = line.rsplit("http://").next().context("the controller says where it listens")?;
    Ok((process, address.to_owned()))
}
