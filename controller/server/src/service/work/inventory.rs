//! What agents find in pools and on remotes: streams that count when they end well, and then replace what was known,
//! some keys at a time. Each round compares with what the store holds by then, so a repetition changes nothing.

use std::collections::BTreeMap;

use coffer_core::decide::work::session_of;
use coffer_core::decide::work::{Caller, Refusal, check_held};
use coffer_core::record::{HostFacts, PointRecord, PointState, PoolFacts, Subject, Work};
use coffer_core::{Change, Entry, Key, State};
use coffer_model::{InventorySr, InventoryVm, PoolId, RemoteId, RestorePointId, SrUuid, TaskId, VmUuid};
use coffer_proto::v1;
use jiff::Timestamp;
use tonic::{Status, Streaming};

use crate::convert::point::point_in;
use crate::convert::report::{caller_in, sr_in, vm_in};
use crate::convert::{cut, name_in};
use crate::fault::Fault;
use crate::plane::Plane;

/// Most virtual machines, and most storage repositories, of a pool.
const OBJECTS: usize = 20_000;
/// Most restore points of a remote.
const POINTS: usize = 100_000;
/// Most keys that one transaction writes, and most bytes; beyond them another one follows.
const KEYS: usize = 100;
const BYTES: usize = 512 * 1024;
/// Most hosts of a pool.
const HOSTS: usize = 256;
/// Most characters of what a pool says of itself.
const FACT: usize = 512;

pub(super) async fn report_inventory(
    plane: &Plane,
    mut parts: Streaming<v1::ReportInventoryRequest>,
) -> Result<v1::ReportInventoryResponse, Status> {
    let Some(first) = parts.message().await? else { return Err(nothing().into()) };
    let session = first.session.clone();
    let pool: PoolId = name_in("pool", &first.pool)?;
    // Nobody without a session gets anything kept in memory.
    plane.read(|state| session_of(state, &session).map(|_| ())).map_err(Fault::from)?;
    let mut seen = Inventory::default();
    let mut next = Some(first);
    while let Some(part) = next {
        if part.session != session || name_in::<PoolId>("pool", &part.pool)? != pool {
            return Err(Fault::invalid("session, pool", "must be the same in every part").into());
        }
        seen.add(part)?;
        next = parts.message().await?;
    }
    loop {
        let more = plane.mutate(|state, now| seen.replace(state, &session, &pool, now)).await?;
        if !more {
            return Ok(v1::ReportInventoryResponse {});
        }
    }
}

fn nothing() -> Fault {
    Fault::invalid("session", "the stream ended before its first part")
}

fn host_in(host: v1::PoolHost) -> HostFacts {
    HostFacts {
        address: cut(host.address, FACT),
        uuid: cut(host.uuid, FACT),
        name_label: cut(host.name_label, FACT),
        coordinator: host.coordinator,
        fingerprint: cut(host.fingerprint, FACT),
    }
}

/// A pool, as an agent sees it now.
#[derive(Default)]
struct Inventory {
    facts: Option<PoolFacts>,
    vms: BTreeMap<VmUuid, InventoryVm>,
    srs: BTreeMap<SrUuid, InventorySr>,
}

impl Inventory {
    fn add(&mut self, part: v1::ReportInventoryRequest) -> Result<(), Fault> {
        if let Some(facts) = part.facts {
            self.facts = Some(PoolFacts {
                uuid: cut(facts.uuid, FACT),
                name_label: cut(facts.name_label, FACT),
                product: cut(facts.product, FACT),
                members: facts.hosts.into_iter().take(HOSTS).map(host_in).collect(),
                fingerprint: cut(facts.fingerprint, FACT),
            });
        }
        for vm in part.vms {
            let vm = vm_in(vm)?;
            self.vms.insert(vm.uuid, vm);
        }
        for sr in part.srs {
            let sr = sr_in(sr)?;
            self.srs.insert(sr.uuid, sr);
        }
        if self.vms.len() > OBJECTS || self.srs.len() > OBJECTS {
            return Err(Fault::invalid("vms, srs", format!("must each have at most {OBJECTS} entries")));
        }
        Ok(())
    }

    /// The next changes, and whether more are to follow. The pool's own state comes last: it says that all is there.
    fn replace(&self, state: &State, session: &str, pool: &PoolId, now: Timestamp) -> Result<(Change, bool), Fault> {
        let (agent, live) = session_of(state, session)?;
        // A pool that was removed meanwhile has no inventory.
        let Some(known) = state.pools.get(&(pool.clone(),)) else { return Ok((Change::new(), false)) };
        let mut batch =
            Batch::new(Change::new().same(Key::Session(agent.clone()), live).same(Key::Pool(pool.clone()), known));
        for (uuid, vm) in &self.vms {
            let parts = (pool.clone(), *uuid);
            if state.vms.get(&parts).is_none_or(|known| known.record != *vm) {
                batch.put(|| Entry::Vm(parts, vm.clone()));
            }
        }
        for (uuid, sr) in &self.srs {
            let parts = (pool.clone(), *uuid);
            if state.srs.get(&parts).is_none_or(|known| known.record != *sr) {
                batch.put(|| Entry::Sr(parts, sr.clone()));
            }
        }
        let nil = uuid::Uuid::nil();
        let vms = state.vms.range((pool.clone(), VmUuid::new(nil))..).take_while(|((of, _), _)| of == pool);
        for ((_, uuid), _) in vms.filter(|((_, uuid), _)| !self.vms.contains_key(uuid)) {
            batch.delete(|| Key::Vm(pool.clone(), *uuid));
        }
        let srs = state.srs.range((pool.clone(), SrUuid::new(nil))..).take_while(|((of, _), _)| of == pool);
        for ((_, uuid), _) in srs.filter(|((_, uuid), _)| !self.srs.contains_key(uuid)) {
            batch.delete(|| Key::Sr(pool.clone(), *uuid));
        }
        if batch.full {
            return Ok((batch.change, true));
        }
        let found = state.pool_states.get(&(pool.clone(),));
        let mut record = found.map(|found| found.record.clone()).unwrap_or_default();
        record.inventory_time = Some(now);
        if self.facts.is_some() {
            record.facts.clone_from(&self.facts);
        }
        let change = batch.change.unchanged_or_absent(Key::PoolState(pool.clone()), found);
        Ok((change.put(Entry::PoolState((pool.clone(),), record)), false))
    }
}

/// A change that takes no more than a transaction may have.
struct Batch {
    change: Change,
    bytes: usize,
    full: bool,
}

impl Batch {
    fn new(change: Change) -> Self {
        Self { change, bytes: 0, full: false }
    }

    fn has_room(&mut self) -> bool {
        self.full = self.full || self.change.writes.len() >= KEYS || self.bytes >= BYTES;
        !self.full
    }

    fn put(&mut self, entry: impl FnOnce() -> Entry) {
        if self.has_room() {
            let entry = entry();
            self.bytes += entry.encode("").len();
            self.change = std::mem::take(&mut self.change).put(entry);
        }
    }

    fn delete(&mut self, key: impl FnOnce() -> Key) {
        if self.has_room() {
            self.change = std::mem::take(&mut self.change).delete(key());
        }
    }
}

pub(super) async fn report_catalogue(
    plane: &Plane,
    mut parts: Streaming<v1::ReportCatalogueRequest>,
) -> Result<v1::ReportCatalogueResponse, Status> {
    let Some(first) = parts.message().await? else { return Err(nothing().into()) };
    let caller = caller_in(first.session.clone(), &first.task, first.epoch)?;
    let remote: RemoteId = name_in("remote", &first.remote)?;
    plane.read(|state| scan_of(state, &caller, &remote).map(|_| ()))?;
    let mut found = BTreeMap::new();
    let mut next = Some(first);
    while let Some(part) = next {
        let same = part.session == caller.session && part.epoch == caller.epoch;
        if !same || name_in::<RemoteId>("remote", &part.remote)? != remote {
            return Err(Fault::invalid("session, epoch, remote", "must be the same in every part").into());
        }
        for point in part.points {
            let (id, point) = point_in(point)?;
            if id.remote != remote {
                return Err(Fault::invalid("points", format!("must be on {remote}; {id} is not")).into());
            }
            found.insert(id, point);
        }
        if found.len() > POINTS {
            return Err(Fault::invalid("points", format!("must have at most {POINTS} entries")).into());
        }
        next = parts.message().await?;
    }
    let mut answer = v1::ReportCatalogueResponse::default();
    loop {
        let (more, added, removed) = plane.mutate(|state, _| correct(state, &caller, &remote, &found)).await?;
        answer.added += added;
        answer.removed += removed;
        if !more {
            return Ok(answer);
        }
    }
}

/// The revision that made the task, when it is the caller's and scans this remote.
fn scan_of(state: &State, caller: &Caller, remote: &RemoteId) -> Result<u64, Fault> {
    check_held(state, caller)?;
    let task = state.task(&caller.task).filter(|task| {
        task.record.work == Work::Scan && task.record.subject == Subject::Remote { remote: remote.clone() }
    });
    let not_of_task = || Refusal::NotOfTask { what: format!("task {} does not scan remote {remote}", caller.task.1) };
    Ok(task.ok_or_else(not_of_task)?.created)
}

/// The next corrections of a remote's catalogue, whether more are to follow, and how many were added and removed.
fn correct(
    state: &State,
    caller: &Caller,
    remote: &RemoteId,
    found: &BTreeMap<RestorePointId, PointRecord>,
) -> Result<(Change, (bool, u32, u32)), Fault> {
    let planned = scan_of(state, caller, remote)?;
    let key = Key::Task(caller.task.0.clone(), caller.task.1);
    let mut batch = Batch::new(match state.task(&caller.task) {
        Some(task) => Change::new().unchanged(key, task),
        None => Change::new(),
    });
    let (mut added, mut removed) = (0, 0);
    for (id, point) in found {
        let parts = (id.clone(),);
        let put = match state.points.get(&parts) {
            // The task that made it will put it there itself, or find that it lost.
            None => !makes(state, id.task),
            // Whoever was to delete it has not: it is all there.
            Some(known) => match &known.record.state {
                PointState::Listed => false,
                PointState::Deleting { by } => !state.open.contains_key(&(by.run.clone(), by.task)),
            },
        };
        if put && batch.has_room() {
            let is_new = !state.points.contains_key(&parts);
            added += u32::from(is_new);
            let guard = Key::Point(id.clone());
            batch.change = std::mem::take(&mut batch.change).unchanged_or_absent(guard, state.points.get(&parts));
            batch.put(|| Entry::Point(parts, point.clone()));
        }
    }
    let of_remote = state.points.iter().filter(|((id,), _)| id.remote == *remote);
    for ((id,), known) in of_remote.filter(|((id,), _)| !found.contains_key(id)) {
        // What came into the catalogue after the scan was planned may have been published behind its back.
        if known.created < planned && batch.has_room() {
            removed += 1;
            let change = std::mem::take(&mut batch.change).unchanged(Key::Point(id.clone()), known);
            batch.change = change.delete(Key::Point(id.clone()));
        }
    }
    Ok((batch.change, (batch.full, added, removed)))
}

/// True while the task that makes a restore point has not ended.
fn makes(state: &State, task: TaskId) -> bool {
    state.open.keys().any(|(_, open)| *open == task)
}
