//! The services, one file each: they read requests, let the core decide, and shape answers.

pub(crate) mod agents;
pub(crate) mod follow;
pub(crate) mod jobs;
pub(crate) mod points;
pub(crate) mod pools;
pub(crate) mod remotes;
pub(crate) mod restores;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod work;

use coffer_core::Change;
use coffer_core::record::{Plan, RunRecord};
use coffer_core::{Entry, Key, State, Versioned};
use coffer_model::RunId;
use coffer_model::names::Named;
use prost::Message;
use uuid::Uuid;

use crate::convert::place::etag;
use crate::fault::Fault;
use crate::plane::{Effect, Plane};
use crate::request::{Known, look_up};

/// Refuses when the client's etag is set and not the current one.
pub(crate) fn check_etag<T>(name: &str, shown: &str, found: &Versioned<T>) -> Result<(), Fault> {
    if shown.is_empty() || shown == etag(found) {
        return Ok(());
    }
    Err(Fault::Etag { name: name.to_owned(), etag: shown.to_owned() })
}

/// The fields that an update names; refuses others, and an empty mask.
pub(crate) fn mask(mask: Option<prost_types::FieldMask>, allowed: &[&str]) -> Result<Vec<String>, Fault> {
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    if paths.is_empty() {
        return Err(Fault::invalid("update_mask", format!("must name fields, of: {}", allowed.join(", "))));
    }
    match paths.iter().find(|path| !allowed.contains(&path.as_str())) {
        Some(other) => Err(Fault::invalid(
            "update_mask",
            format!("names {other:?}, which cannot be changed; only {}", allowed.join(", ")),
        )),
        None => Ok(paths),
    }
}

pub(crate) fn missing(name: String) -> Fault {
    Fault::NotFound { name }
}

/// Starts a run, once per request id. `prepare` checks what the run needs and says what it does; its change holds what
/// has to stay true.
pub(crate) async fn start_run<M: Message>(
    plane: &Plane,
    method: &'static str,
    request_id: &str,
    request: &M,
    mut prepare: impl FnMut(&State, &RunId) -> Result<(Change, RunRecord), Fault>,
) -> Result<RunId, Fault> {
    let fresh = match look_up(plane, method, request_id, request).await? {
        Known::Done(made) => return RunId::from_name(&made).map_err(|_| missing(made)),
        Known::Fresh(fresh) => fresh,
    };
    let id = RunId::by_hand(Uuid::now_v7());
    let result = plane
        .mutate(|state, now| {
            let (change, record) = prepare(state, &id)?;
            let change = change.absent(Key::Run(id.clone())).put(Entry::Run((id.clone(),), record));
            Ok((fresh.remember(Effect::from(change), &id.name(), now), ()))
        })
        .await;
    match fresh.settle(plane, result).await? {
        None => Ok(id),
        Some(made) => RunId::from_name(&made).map_err(|_| missing(made)),
    }
}

/// Runs that have not ended and use something.
pub(crate) fn unfinished(state: &State, uses: impl Fn(&Plan) -> bool) -> Option<&RunId> {
    state.runs.iter().find(|(_, run)| run.record.verdict().is_none() && uses(&run.record.plan)).map(|((run,), _)| run)
}
