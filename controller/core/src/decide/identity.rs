//! Which remote is which: a remote is the repository that was there when it was first ready, and no two remotes are one
//! repository. What an agent has open counts only when it is what it was opened for.

use coffer_model::RemoteId;
use coffer_model::names::Named;

use crate::record::Problem;
use crate::state::State;

/// What an agent's repository is to the remote that it was opened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody was ready before: from now on it is the remote's.
    First,
    /// It is the remote's.
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
    if !ours.is_empty() && ours != repository {
        return Claim::Refused(Problem {
            reason: "REPOSITORY_OTHER".into(),
            message: format!("the folder of remote {remote} holds repository {repository}, not {ours}"),
            advice: "is it mounted? put the right file system back at its path; to begin anew, register another remote"
                .into(),
            retryable: true,
        });
    }
    // Of two that were registered before this was looked at, the older one stays.
    let age = |of: &RemoteId| state.remotes.get(&(of.clone(),)).map_or(u64::MAX, |found| found.created);
    let other = state.remotes.keys().find(|(other,)| {
        other != remote && known(other) == repository && (ours.is_empty() || age(other) < age(remote))
    });
    match other {
        Some((other,)) => Claim::Refused(Problem::lasting(
            "REMOTE_TWICE",
            format!("the folder of remote {remote} holds the repository of {}", other.name()),
            "use that remote, and remove this one: with both, the retention of one deletes the points of the other",
        )),
        None if ours.is_empty() => Claim::First,
        None => Claim::Same,
    }
}
