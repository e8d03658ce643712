//! The persisted forms of agents: who they are (`agent/{agent}`), that they live (`session/{agent}`, attached to a
//! lease of the store), what they reach (`reach/{agent}`).

use std::collections::BTreeSet;

use coffer_model::{PoolId, RemoteId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An agent that has registered at least once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Version of the program.
    pub version: String,
    /// Name of its machine.
    pub hostname: String,
    /// How many tasks it takes at most.
    pub capacity: u32,
    /// When its last session began.
    pub session_start: Timestamp,
}

/// A session: exists only while the agent is heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Names the session in every call.
    pub session: String,
    /// The start of the agent's process.
    pub instance: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The store's lease that the key is attached to.
    pub lease: u64,
}

/// What an agent reaches. Belongs to the session that it names, and means nothing without it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachRecord {
    /// The session in which this was said.
    pub session: String,
    /// Pools that it is logged in to.
    pub pools: BTreeSet<PoolId>,
    /// Remotes whose repository it has open.
    pub remotes: BTreeSet<RemoteId>,
    /// It takes no new tasks.
    pub draining: bool,
}
