//! What a pool is made of before anybody touches it: hosts, profile, speed, and what a configuration file adds.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::{SrSpec, VmSpec};

/// The generation of hosts that is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Profile {
    /// XCP-ng 8.2: no `ignore_vdis`, no VTPM, `VM.create` always halted.
    #[serde(rename = "8.2")]
    #[value(name = "8.2")]
    V8_2,
    /// XCP-ng 8.3.
    #[default]
    #[serde(rename = "8.3")]
    #[value(name = "8.3")]
    V8_3,
}

/// How the pool's first network offers NBD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NbdMode {
    /// Purpose `nbd`: TLS is forced.
    #[default]
    Tls,
    /// Purpose `insecure_nbd`.
    Plain,
    /// No purpose: connections are refused.
    Off,
}

/// Everything that decides how the pool starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `name_label` of the pool.
    pub name: String,
    /// Number of hosts, on 127.0.0.1, 127.0.0.2, …; the first is the coordinator.
    pub hosts: usize,
    /// Generation.
    pub profile: Profile,
    /// User that may log in.
    pub user: String,
    /// Password of that user.
    pub password: String,
    /// Real latencies are multiplied by this: 1 plays a real host, 0.01 suits tests, 0 waits for nothing.
    pub time_scale: f64,
    /// NBD on the first network.
    pub nbd: NbdMode,
    /// HTTPS port of every host; 0 takes a free one, and keeps it over restarts of the same state folder.
    pub port: u16,
    /// Port of the control interface; 0 takes a free one and keeps it.
    pub control_port: u16,
    /// Folder for everything; none means a temporary one that goes with the program.
    pub state: Option<PathBuf>,
    /// Whether "Local storage" on every host and a shared NFS SR are made at first start.
    pub default_srs: bool,
    /// Further SRs to make at first start.
    pub sr: Vec<SrSpec>,
    /// VMs to make at first start.
    pub vm: Vec<VmSpec>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "simulated pool".to_owned(),
            hosts: 1,
            profile: Profile::default(),
            user: "root".to_owned(),
            password: "simulated".to_owned(),
            time_scale: 0.01,
            nbd: NbdMode::default(),
            port: 0,
            control_port: 0,
            state: None,
            default_srs: true,
            sr: Vec::new(),
            vm: Vec::new(),
        }
    }
}

impl Config {
    /// A latency of a real host, as this pool plays it.
    #[must_use]
    pub fn scaled(&self, real: Duration) -> Duration {
        real.mul_f64(self.time_scale.clamp(0.0, 1000.0))
    }
}
