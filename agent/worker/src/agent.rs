//! The agent as a whole: what it starts, and how it ends.

use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::state_dir::StateDir;
use crate::{AgentOptions, Error};

/// The program close to the hosts that does the work.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Works until `shutdown` is cancelled: then takes no new tasks, lets running ones stop, and returns.
    ///
    /// # Errors
    /// Only what keeps it from starting: a state folder that cannot be used or is used by another process, no usable
    /// address of a controller. Controllers, pools and remotes that do not answer are reported and tried again.
    pub async fn run(options: AgentOptions, shutdown: CancellationToken) -> Result<(), Error> {
        let state = StateDir::open(&options.state_dir)?;
        info!(agent = state.agent_id(), capacity = options.capacity, "agent started");
        shutdown.cancelled().await;
        Ok(())
    }
}
