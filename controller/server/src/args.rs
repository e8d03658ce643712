//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use coffer_controller::Timings;

use crate::state::EtcdArgs;

/// Below this hard stop the loops keep pace with it.
const SHORT: Duration = Duration::from_secs(30);

/// The control plane of Coffer: one controller on a store of its own, or several in etcd.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    /// Folder for the API's token and, without --etcd, for everything that is known; made when it does not exist
    #[arg(long, value_name = "DIR", env = "COFFER_STATE")]
    pub(crate) state: PathBuf,
    /// Where the API is served; loopback only in this version
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7420")]
    pub(crate) listen: SocketAddr,
    /// File with the keys that seal passwords, the same for all controllers of a store [default: sealing-key in the
    /// state folder]
    #[arg(long, value_name = "FILE", env = "COFFER_SEALING_KEY")]
    pub(crate) sealing_key: Option<PathBuf>,
    /// The sealing key is lost: forget all passwords of pools and remotes, to be set anew
    #[arg(long)]
    pub(crate) forget_passwords: bool,
    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,
    /// How long an agent may be silent before its session ends [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    session_ttl: Option<Duration>,
    /// Longest time between two calls of an agent [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    sync_interval: Option<Duration>,
    /// How long after its last good call an agent may do what cannot be undone [default: 20s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    authority: Option<Duration>,
    /// How long after its last good call an agent may read or write anything [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    hard_stop: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    parsed.ok_or_else(|| "expected a duration such as `3s`, `500ms` or `2m`".to_owned())
}

impl Args {
    /// Timings as asked for; when agents have to stop soon, the loops keep up with them.
    pub(crate) fn timings(&self) -> Timings {
        let (usual, short) = (Timings::default(), Timings::short());
        let hard_stop = self.hard_stop.unwrap_or(usual.hard_stop);
        let pace = if hard_stop < SHORT { &short } else { &usual };
        Timings {
            session_ttl: self.session_ttl.unwrap_or(usual.session_ttl),
            sync_interval: self.sync_interval.unwrap_or(usual.sync_interval),
            authority: self.authority.unwrap_or(usual.authority),
            hard_stop,
            takeover_margin: pace.takeover_margin,
            loop_period: pace.loop_period,
            retry_backoff: pace.retry_backoff,
            retry_backoff_max: pace.retry_backoff_max,
            ..usual
        }
    }
}
