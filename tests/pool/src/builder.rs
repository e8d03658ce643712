//! Starts a simulated pool inside the calling program, for tests of other crates.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, NbdMode, Profile};
use crate::control::{Client, PoolInfo, SrSpec, VmSpec};
use crate::error::Error;
use crate::running::Running;

/// Describes a pool; [`start`](Self::start) brings it up on free loopback ports.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    config: Config,
}

impl Builder {
    /// One host, profile 8.3, NBD over TLS, latencies at one hundredth, state in a temporary folder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From a configuration.
    #[must_use]
    pub fn from_config(config: Config) -> Self {
        Self { config }
    }

    /// Number of hosts.
    #[must_use]
    pub fn hosts(mut self, hosts: usize) -> Self {
        self.config.hosts = hosts;
        self
    }

    /// Generation of the hosts.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.config.profile = profile;
        self
    }

    /// Multiplier of real latencies.
    #[must_use]
    pub fn time_scale(mut self, scale: f64) -> Self {
        self.config.time_scale = scale;
        self
    }

    /// Password of `root`.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        password.clone_into(&mut self.config.password);
        self
    }

    /// How NBD is offered.
    #[must_use]
    pub fn nbd(mut self, mode: NbdMode) -> Self {
        self.config.nbd = mode;
        self
    }

    /// Keeps the state in this folder, so that a later start finds it.
    #[must_use]
    pub fn state(mut self, folder: impl Into<PathBuf>) -> Self {
        self.config.state = Some(folder.into());
        self
    }

    /// Makes this SR at the first start.
    #[must_use]
    pub fn sr(mut self, spec: SrSpec) -> Self {
        self.config.sr.push(spec);
        self
    }

    /// Makes this VM at the first start.
    #[must_use]
    pub fn vm(mut self, spec: VmSpec) -> Self {
        self.config.vm.push(spec);
        self
    }

    /// Starts it. The pool stops when the answer is dropped; [`SimPool::shutdown`] also saves its state.
    ///
    /// # Errors
    /// When a port cannot be bound, or the state folder cannot be used.
    pub async fn start(self) -> Result<SimPool, Error> {
        SimPool::start(self.config).await
    }
}

/// A pool that runs in this program.
#[derive(Debug)]
pub struct SimPool {
    info: PoolInfo,
    client: Client,
    running: Arc<Running>,
}

impl SimPool {
    async fn start(config: Config) -> Result<Self, Error> {
        let running = Running::start(config).await?;
        let info = running.info();
        Ok(Self { client: Client::new(&info.control), info, running })
    }

    /// Addresses, ports, user, fingerprints, as they were at the start.
    #[must_use]
    pub fn info(&self) -> &PoolInfo {
        &self.info
    }

    /// `https://127.0.0.1:<port>` of the first coordinator.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.info.url
    }

    /// The control interface.
    #[must_use]
    pub fn control(&self) -> &Client {
        &self.client
    }

    /// Closes everything and saves the state.
    pub async fn shutdown(self) {
        self.running.stop().await;
    }
}
