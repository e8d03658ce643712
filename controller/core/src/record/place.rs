//! The persisted forms of pools and remotes. What an operator sets (`pool/{pool}`, `remote/{remote}`) is apart from
//! what agents see (`pool-state/{pool}`, `remote-state/{remote}`, and the model's inventory at `vm/{pool}/{vm}`,
//! `sr/{pool}/{sr}`), so that only the former changes an etag. Passwords are in neither: they lie at `secret/`, which
//! is never held in memory.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Problem;

/// This installation. Key `site`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteRecord {
    /// Stamped into what is created in pools.
    pub site: String,
    /// Rises when the store is restored from a copy; part of every fencing token.
    pub incarnation: u64,
}

/// Written along with every change that agents' configuration follows: its revision is the configuration's. Key
/// `config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRecord {}

/// A pool, as the operator set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Free text for people.
    pub display_name: String,
    /// Addresses of hosts; the first is the one whose certificate is pinned.
    pub hosts: Vec<String>,
    /// User of XAPI.
    pub username: String,
    /// Pinned fingerprint; empty until confirmed.
    pub fingerprint: String,
    /// Most tasks at once; 0 means no limit.
    pub max_concurrent_tasks: u32,
}

/// A pool, as agents see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStateRecord {
    /// An agent is logged in; none before the first report.
    pub connected: Option<bool>,
    /// Why not; of a pool that is connected, what is wrong with a part of it.
    pub problem: Option<Problem>,
    /// The fingerprint seen last.
    pub seen_fingerprint: String,
    /// UUID in XAPI of the pool that an agent was logged in to last; empty before, and while it is another pool's.
    #[serde(default)]
    pub uuid: String,
    /// When that was reported.
    pub time: Option<Timestamp>,
    /// What the last inventory said.
    pub facts: Option<PoolFacts>,
    /// When the last inventory came.
    pub inventory_time: Option<Timestamp>,
}

/// A pool in XAPI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolFacts {
    /// UUID.
    pub uuid: String,
    /// Name.
    pub name_label: String,
    /// Product and version.
    pub product: String,
    /// All hosts.
    #[serde(default)]
    pub members: Vec<HostFacts>,
    /// The pinned fingerprint under which their certificates were learnt.
    #[serde(default)]
    pub fingerprint: String,
}

impl PoolFacts {
    /// The hosts, as far as their certificates follow from the pinned fingerprint. Under another nobody vouches for
    /// them.
    #[must_use]
    pub fn members_under(&self, fingerprint: &str) -> &[HostFacts] {
        if self.fingerprint.is_empty() || self.fingerprint != fingerprint { &[] } else { &self.members }
    }
}

/// A host of a pool, as the pool lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Where it listens.
    pub address: String,
    /// UUID.
    pub uuid: String,
    /// Name.
    pub name_label: String,
    /// It is the coordinator.
    pub coordinator: bool,
    /// Its certificate; empty when the pool could not tell.
    pub fingerprint: String,
}

/// A remote, as the operator set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteRecord {
    /// Free text for people.
    pub display_name: String,
    /// A folder on the agent's machine.
    pub local_path: String,
    /// Size of a chunk of a new repository, bytes; 0 means the default.
    pub chunk_size_bytes: u32,
    /// Most tasks at once; 0 means no limit.
    pub max_concurrent_tasks: u32,
}

/// A remote, as agents see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStateRecord {
    /// Its repository is open; none before the first report.
    pub ready: Option<bool>,
    /// Why not.
    pub problem: Option<Problem>,
    /// Size of its file system, bytes; 0 when unknown.
    pub size_bytes: u64,
    /// Free, bytes; 0 when unknown.
    pub free_bytes: u64,
    /// The repository's id, as it was when the remote was first ready; empty until then. It never changes.
    pub repository_id: String,
    /// When that was reported.
    pub time: Option<Timestamp>,
}
