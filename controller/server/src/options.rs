//! What a controller is started with: its store, where it listens, its timings and limits.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coffer_store::StateStore;
use jiff::Timestamp;

/// Everything that [`Controller::serve`](crate::Controller::serve) needs.
#[derive(Debug)]
pub struct ServeOptions {
    /// The only authority.
    pub store: Arc<dyn StateStore>,
    /// Where to listen; only loopback addresses are accepted in this version. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Folder of this controller: holds `api-token`. It is created when absent.
    pub state_dir: PathBuf,
    /// The file with the keys that seal passwords; made when there is none and no password either.
    pub sealing_key: PathBuf,
    /// The sealing key is lost: all passwords are forgotten.
    pub forget_passwords: bool,
    /// How long things last.
    pub timings: Timings,
    /// What is kept, and how much.
    pub limits: Limits,
    /// Tells wall-clock time: when schedules fire, and what is written beside events.
    pub clock: Arc<dyn Clock>,
}

impl ServeOptions {
    /// The defaults for a store and a folder: loopback, a free port, the system's clock.
    pub fn new(store: Arc<dyn StateStore>, state_dir: impl Into<PathBuf>) -> Self {
        let state_dir = state_dir.into();
        Self {
            store,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            sealing_key: state_dir.join(crate::SEALING_KEY_FILE),
            forget_passwords: false,
            state_dir,
            timings: Timings::default(),
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// How long things last. Tests use short ones; the order `sync_interval < authority < hard_stop` has to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timings {
    /// An agent that was not heard of for so long has lost its session. At least 2 s, the store's shortest.
    pub session_ttl: Duration,
    /// Longest time between two calls of Sync; also the longest that one is held.
    pub sync_interval: Duration,
    /// After the sending of its last good Sync, an agent does nothing irreversible after this.
    pub authority: Duration,
    /// Likewise: no input or output for any task after this.
    pub hard_stop: Duration,
    /// Added to `hard_stop * 1.01` before a lost agent's tasks are taken over.
    pub takeover_margin: Duration,
    /// How often each loop runs without being woken.
    pub loop_period: Duration,
    /// How long a waiting task may find no agent that reaches its pool and remotes before it fails.
    pub unserved: Duration,
    /// How long a task that has to be recovered may find none before it ends as interrupted.
    pub unserved_recovery: Duration,
    /// How long after the end of a run its tasks are folded into one history record.
    pub fold_after: Duration,
    /// Wait before the second attempt of a task; four times as long before each further one.
    pub retry_backoff: Duration,
    /// Longest wait between two attempts.
    pub retry_backoff_max: Duration,
    /// How long a client that follows a run may take to read a message before it is cut off.
    pub slow_client: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            session_ttl: Duration::from_secs(30),
            sync_interval: Duration::from_secs(10),
            authority: Duration::from_secs(20),
            hard_stop: Duration::from_secs(120),
            takeover_margin: Duration::from_secs(5),
            loop_period: Duration::from_secs(5),
            unserved: Duration::from_secs(15 * 60),
            unserved_recovery: Duration::from_secs(60 * 60),
            fold_after: Duration::from_secs(5 * 60),
            retry_backoff: Duration::from_secs(60),
            retry_backoff_max: Duration::from_secs(15 * 60),
            slow_client: Duration::from_secs(10),
        }
    }
}

impl Timings {
    /// Timings with which a test sees a lost agent within seconds.
    #[must_use]
    pub fn short() -> Self {
        Self {
            session_ttl: Duration::from_secs(2),
            sync_interval: Duration::from_millis(500),
            authority: Duration::from_secs(1),
            hard_stop: Duration::from_millis(1500),
            takeover_margin: Duration::from_millis(200),
            loop_period: Duration::from_millis(200),
            unserved: Duration::from_secs(20),
            unserved_recovery: Duration::from_secs(20),
            fold_after: Duration::from_secs(2),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            slow_client: Duration::from_secs(2),
        }
    }

    /// How long after a controller saw a session end its tasks may be taken over: the agent's hard stop, by a clock
    /// that may run 1 % slow, and a margin.
    #[must_use]
    pub fn takeover_after(&self) -> Duration {
        self.hard_stop + self.hard_stop / 100 + self.takeover_margin
    }
}

/// What is kept, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many ended runs of each job (and of each other kind of run) are kept.
    pub runs_kept: usize,
    /// Most bytes of the history record of a run; log lines are left out of what would be larger.
    pub history_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { runs_kept: 200, history_bytes: 1024 * 1024 }
    }
}

/// Tells wall-clock time.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
