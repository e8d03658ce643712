//! The agent as a whole: what it starts, and how it ends.

use std::sync::Arc;

use coffer_extent::{BufferPool, DEFAULT_BUFFER_BYTES};
use coffer_proto::v1::RegisterRequest;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::authority::Authority;
use crate::places::{ConfiguredPlaces, Surroundings};
use crate::state_dir::{StateDir, hostname};
use crate::sync::reports::Reports;
use crate::sync::{Link, Sync};
use crate::{AgentOptions, Error};

/// The program close to the hosts that does the work.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Works until `shutdown` is cancelled: then takes no new tasks, has running ones undone (for 20 seconds at most;
    /// what is left is undone by the next agent that gets them), and returns.
    ///
    /// # Errors
    /// Only what keeps it from starting: a state folder that cannot be used or is used by another process, no usable
    /// address of a controller. Controllers, pools and remotes that do not answer are reported and tried again.
    pub async fn run(options: AgentOptions, shutdown: CancellationToken) -> Result<(), Error> {
        let state = StateDir::open(&options.state_dir)?;
        let link = Link::new(&options.controllers, &options.token, options.token_file)?;
        info!(agent = %state.agent_id(), capacity = options.capacity, "agent started");
        let budget = usize::try_from(options.memory_budget_bytes).unwrap_or(usize::MAX);
        let around = Surroundings {
            link,
            reports: Reports::default(),
            authority: Authority::new(),
            buffers: BufferPool::new(budget, DEFAULT_BUFFER_BYTES),
        };
        let identity = RegisterRequest {
            agent_id: state.agent_id().to_string(),
            instance: uuid::Uuid::new_v4().to_string(),
            boot_id: coffer_runtime::boottime::boot_id().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: hostname(),
            capacity: options.capacity,
        };
        let places = Arc::new(ConfiguredPlaces::new(around.clone()));
        Sync::new(identity, around, Arc::clone(&places)).run(&shutdown).await;
        places.close().await;
        info!("agent stopped");
        Ok(())
    }
}
