//! Which place is which: a remote is the repository that was there when it was first ready, and no two remotes are one
//! repository, nor two pools one pool: the retention of one would delete restore points of the other, and both would
//! back one machine up at once. What an agent has open counts only when it is what it was opened for.

use coffer_model::names::Named;
use coffer_model::{PoolId, RemoteId};

use crate::record::Problem;
use crate::state::State;

/// What an agent has found is to the remote or pool that it looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody had it before: from now on it is this one's.
    First,
    /// It is this one's.
    Same,
    /// It is not, for this reason.
    Refused(Problem),
}

/// Judges the repository that an agent has open as a remote.
#[must_use]
pub fn repository(state: &State, remote: &RemoteId, repository: &str) -> Claim {
    if repository.is_empty() {
        return Claim::Same;
    }
    let known = |of: &RemoteId| state.remote_states.get(&(of.clone(),)).map_or("", |seen| &seen.record.repository_id);
    let ours = known(remote);
    if ours == repository {
        return Claim::Same;
    }
    if !ours.is_empty() {
        return Claim::Refused(Problem {
            reason: "REPOSITORY_OTHER".into(),
            message: format!("the folder of remote {remote} holds repository {repository}, not {ours}"),
            advice: "is it mounted? put the right file system back at its path; to begin anew, register another remote"
                .into(),
            retryable: true,
        });
    }
    match state.remotes.keys().find(|(other,)| known(other) == repository) {
        Some((other,)) => Claim::Refused(Problem::lasting(
            "REMOTE_TWICE",
            format!("the folder of remote {remote} holds the repository of {}", other.name()),
            "use that remote, and remove this one: with both, the retention of one deletes the points of the other",
        )),
        None => Claim::First,
    }
}

/// Judges the pool that an agent is logged in to, by its UUID. Unlike a remote, a pool may become another one when its
/// hosts are set anew: its machines then have other UUIDs as well.
#[must_use]
pub fn pool(state: &State, pool: &PoolId, uuid: &str) -> Claim {
    if uuid.is_empty() {
        return Claim::Same;
    }
    let known = |of: &PoolId| state.pool_states.get(&(of.clone(),)).map_or("", |seen| &seen.record.uuid);
    if known(pool) == uuid {
        return Claim::Same;
    }
    match state.pools.keys().find(|(other,)| known(other) == uuid) {
        Some((other,)) => Claim::Refused(Problem::lasting(
            "POOL_TWICE",
            format!("the hosts of pool {pool} are those of {}", other.name()),
            "use that pool, and remove this one: with both, one machine could be backed up twice at once",
        )),
        None => Claim::First,
    }
}
