//! `Sync`: what is held and how it goes, against what should be held. Level-triggered: the answer is the whole truth,
//! whoever gives it; it is given at once when it is news, and else when the hold is over.

use std::time::Duration;

use coffer_core::decide::TaskKey;
use coffer_core::decide::identity::{self, Claim};
use coffer_core::decide::work::session_of;
use coffer_core::record::{PoolStateRecord, Problem, ReachRecord, RemoteStateRecord};
use coffer_core::{Change, Entry, Key, State};
use coffer_model::names::Named;
use coffer_model::{AgentId, PoolId, RemoteId};
use coffer_proto::v1;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::super::pools::touch_config;
use super::session::renew;
use super::specs::assignments;
use crate::board::Progress;
use crate::convert::place::members_out;
use crate::convert::report::{disks_in, problem_in, task_in};
use crate::convert::{cut, duration_in, name_in};
use crate::fault::Fault;
use crate::plane::Plane;
use crate::request::digest;
use crate::secret::{self, Owner};

/// Most entries of a list in a Sync.
const ENTRIES: usize = 2000;

pub(super) async fn sync(plane: &Plane, request: v1::SyncRequest) -> Result<v1::SyncResponse, Fault> {
    if request.held.len() > ENTRIES || request.pools.len() > ENTRIES || request.remotes.len() > ENTRIES {
        return Err(Fault::invalid("held, pools, remotes", format!("must each have at most {ENTRIES} entries")));
    }
    let agent = renew(plane, &request.session).await?;
    let hold = request.hold.map(|hold| duration_in("hold", hold)).transpose()?.unwrap_or_default();
    // The session must not end while its Sync is held.
    let hold = hold.min(plane.timings.sync_interval).min(plane.timings.session_ttl / 2);
    let held = take_in(plane, &agent, &request).await?;
    let answer = wait_for_news(plane, &agent, &request, &held, hold).await?;
    config(plane, answer, request.config_revision).await
}

/// How far an agent is that exchanges with another controller.
pub(super) fn take_in_progress(plane: &Plane, request: v1::ReportProgressRequest) -> Result<(), Fault> {
    if request.held.len() > ENTRIES {
        return Err(Fault::invalid("held", format!("must have at most {ENTRIES} entries")));
    }
    let agent = plane.read(|state| session_of(state, &request.session).map(|(agent, _)| agent.clone()))?;
    plane.heard.note(&agent, &request.session, plane.now());
    for task in &request.held {
        show_progress(plane, &request.session, task)?;
    }
    Ok(())
}

/// Shows how far a task is, if the session holds it.
fn show_progress(plane: &Plane, session: &str, task: &v1::HeldTask) -> Result<TaskKey, Fault> {
    let key = task_in(&task.task)?;
    let is_held = plane.read(|state| {
        let lease = state.task(&key).and_then(|task| task.record.state.lease());
        lease.is_some_and(|lease| lease.session == session)
    });
    if is_held {
        let disks = disks_in(task.disks.clone())?;
        plane.board.report(key.clone(), Progress { epoch: task.epoch, disks });
    }
    Ok(key)
}

/// Takes in what the agent reports; returns the tasks that it holds.
async fn take_in(plane: &Plane, agent: &AgentId, request: &v1::SyncRequest) -> Result<Vec<(TaskKey, u64)>, Fault> {
    let mut held = Vec::with_capacity(request.held.len());
    for task in &request.held {
        held.push((show_progress(plane, &request.session, task)?, task.epoch));
    }
    for report in &request.pools {
        let pool: PoolId = name_in("pools.pool", &report.pool)?;
        plane.mutate(|state, now| Ok((pool_seen(state, &pool, report, request.config_revision, now), ()))).await?;
    }
    for report in &request.remotes {
        let remote: RemoteId = name_in("remotes.remote", &report.remote)?;
        plane.mutate(|state, now| Ok((remote_seen(state, &remote, report, request.config_revision, now), ()))).await?;
    }
    // Last: only now it is known which of two was first with a repository or a pool.
    plane.mutate(|state, _| Ok((reach(state, agent, request)?, ()))).await?;
    Ok(held)
}

/// What the agent reaches; written only when it changed.
fn reach(state: &State, agent: &AgentId, request: &v1::SyncRequest) -> Result<Change, Fault> {
    let (_, session) = session_of(state, &request.session)?;
    let found = state.reaches.get(&(agent.clone(),));
    let mut record = found
        .map(|found| found.record.clone())
        .filter(|known| known.session == request.session)
        .unwrap_or_else(|| ReachRecord { session: request.session.clone(), ..ReachRecord::default() });
    record.draining = request.draining;
    for report in &request.pools {
        let pool: PoolId = name_in("pools.pool", &report.pool)?;
        if report.connected && !matches!(identity::pool(state, &pool, &report.pool_uuid), Claim::Refused(_)) {
            record.pools.insert(pool)
        } else {
            record.pools.remove(&pool)
        };
    }
    for report in &request.remotes {
        let remote: RemoteId = name_in("remotes.remote", &report.remote)?;
        if report.ready && !matches!(identity::repository(state, &remote, &report.repository_id), Claim::Refused(_)) {
            record.remotes.insert(remote)
        } else {
            record.remotes.remove(&remote)
        };
    }
    if found.is_some_and(|found| found.record == record) {
        return Ok(Change::new());
    }
    Ok(Change::new()
        .unchanged(Key::Session(agent.clone()), session)
        .unchanged_or_absent(Key::Reach(agent.clone()), found)
        .put(Entry::Reach((agent.clone(),), record)))
}

/// What an agent sees of a pool. A report from before the pool was set as it is now says nothing about it: agents that
/// get a configuration report everything anew.
fn pool_seen(state: &State, pool: &PoolId, report: &v1::PoolReport, config: u64, now: Timestamp) -> Change {
    let known = state.pools.get(&(pool.clone(),)).filter(|known| known.modified <= config);
    let Some(known) = known else { return Change::new() };
    let found = state.pool_states.get(&(pool.clone(),));
    let before = found.map(|found| found.record.clone()).unwrap_or_default();
    let claim = if report.connected { identity::pool(state, pool, &report.pool_uuid) } else { Claim::Same };
    let (is_first, refused) = (claim == Claim::First, refusal(claim));
    let mut record = PoolStateRecord {
        connected: Some(report.connected && refused.is_none()),
        problem: refused.clone().or_else(|| report.problem.clone().map(problem_in)),
        ..before.clone()
    };
    if is_first {
        record.uuid = cut(report.pool_uuid.clone(), 64);
    } else if refused.is_some() {
        record.uuid.clear();
    }
    if !report.fingerprint.is_empty() {
        record.seen_fingerprint = cut(report.fingerprint.clone(), 200);
    }
    if record == before {
        return Change::new();
    }
    record.time = Some(now);
    let is_rebound = record.uuid != before.uuid;
    let change = Change::new()
        .same(Key::Pool(pool.clone()), known)
        .unchanged_or_absent(Key::PoolState(pool.clone()), found)
        .put(Entry::PoolState((pool.clone(),), record));
    if is_rebound { alone(state, change) } else { change }
}

fn refusal(claim: Claim) -> Option<Problem> {
    match claim {
        Claim::Refused(problem) => Some(problem),
        Claim::First | Claim::Same => None,
    }
}

/// The same change, so that of two places that come to one repository, or one pool, at the same moment the second is
/// judged anew: both write the configuration.
fn alone(state: &State, change: Change) -> Change {
    touch_config(change).unchanged_or_absent(Key::Config(), state.configs.get(&()))
}

/// As [`pool_seen`], of a remote.
fn remote_seen(state: &State, remote: &RemoteId, report: &v1::RemoteReport, config: u64, now: Timestamp) -> Change {
    let known = state.remotes.get(&(remote.clone(),)).filter(|known| known.modified <= config);
    let Some(known) = known else { return Change::new() };
    let found = state.remote_states.get(&(remote.clone(),));
    let before = found.map(|found| found.record.clone()).unwrap_or_default();
    let claim = if report.ready { identity::repository(state, remote, &report.repository_id) } else { Claim::Same };
    let (is_first, refused) = (claim == Claim::First, refusal(claim));
    let mut record = RemoteStateRecord {
        ready: Some(report.ready && refused.is_none()),
        problem: refused.or_else(|| report.problem.clone().map(problem_in).filter(|_| !report.ready)),
        size_bytes: report.size_bytes,
        free_bytes: report.free_bytes,
        repository_id: if is_first { cut(report.repository_id.clone(), 64) } else { before.repository_id.clone() },
        time: before.time,
    };
    // Free space moves all the time; a hundredth of the whole is worth a write.
    let moved = record.free_bytes.abs_diff(before.free_bytes) > record.size_bytes / 100;
    let as_before = RemoteStateRecord { free_bytes: before.free_bytes, ..record.clone() } == before;
    if as_before && !moved {
        return Change::new();
    }
    record.time = Some(now);
    let change = Change::new()
        .same(Key::Remote(remote.clone()), known)
        .unchanged_or_absent(Key::RemoteState(remote.clone()), found)
        .put(Entry::RemoteState((remote.clone(),), record));
    // Every agent is told which repository it is.
    if is_first { alone(state, change) } else { change }
}

async fn wait_for_news(
    plane: &Plane,
    agent: &AgentId,
    request: &v1::SyncRequest,
    held: &[(TaskKey, u64)],
    hold: Duration,
) -> Result<v1::SyncResponse, Fault> {
    let until = Instant::now() + hold;
    let mut changes = plane.changes();
    loop {
        changes.borrow_and_update();
        let answer = plane.read(|state| {
            session_of(state, &request.session)?;
            let tasks = assignments(state, &request.session, held);
            let config_revision = state.configs.get(&()).map_or(0, |config| config.modified);
            Ok::<_, Fault>(v1::SyncResponse { tasks, config: None, config_revision })
        })?;
        let same_tasks = answer.tasks.len() == held.len() && answer.tasks.iter().all(|task| task.spec.is_none());
        let said = digest(&v1::SyncResponse {
            // Operations go on all the time, and their author knows of them.
            tasks: answer
                .tasks
                .iter()
                .map(|task| v1::Assignment { spec: None, intents: Vec::new(), op_seq: 0, ..task.clone() })
                .collect(),
            ..answer.clone()
        });
        let news = !same_tasks
            || answer.config_revision != request.config_revision
            || !plane.heard.was_told(agent, &request.session, said);
        if news || Instant::now() >= until || plane.stop.is_cancelled() {
            plane.heard.tell(agent, &request.session, said);
            return Ok(answer);
        }
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return Err(Fault::Stopping);
                }
            }
            () = tokio::time::sleep_until(until) => {}
            () = plane.stop.cancelled() => {}
        }
    }
}

/// Adds pools and remotes with their passwords, when they changed: the only way on which a password leaves.
async fn config(plane: &Plane, mut answer: v1::SyncResponse, known: u64) -> Result<v1::SyncResponse, Fault> {
    if answer.config_revision == known {
        return Ok(answer);
    }
    let (pools, remotes, revision) = plane.read(|state| {
        let pools: Vec<_> = state
            .pools
            .iter()
            .map(|((id,), pool)| (id.clone(), pool.record.clone(), members_out(state, id, &pool.record)))
            .collect();
        let known =
            |id: &RemoteId| state.remote_states.get(&(id.clone(),)).map(|seen| seen.record.repository_id.clone());
        let remotes: Vec<_> = state
            .remotes
            .iter()
            .map(|((id,), remote)| (id.clone(), remote.record.clone(), known(id).unwrap_or_default()))
            .collect();
        (pools, remotes, state.configs.get(&()).map_or(0, |config| config.modified))
    });
    let mut config = v1::AgentConfig::default();
    for (id, pool, members) in pools {
        let password = secret::get(&*plane.store, &plane.sealer, &Owner::Pool(&id)).await?;
        config.pools.push(v1::PoolAccess {
            pool: id.name(),
            hosts: pool.hosts,
            username: pool.username,
            password: password.expose_secret().to_owned(),
            fingerprint: pool.fingerprint,
            members,
        });
    }
    for (id, remote, repository_id) in remotes {
        let password = secret::get(&*plane.store, &plane.sealer, &Owner::Remote(&id)).await?;
        config.remotes.push(v1::RemoteAccess {
            remote: id.name(),
            local_path: remote.local_path,
            password: password.expose_secret().to_owned(),
            chunk_size_bytes: remote.chunk_size_bytes,
            repository_id,
        });
    }
    answer.config = Some(config);
    answer.config_revision = revision;
    Ok(answer)
}
