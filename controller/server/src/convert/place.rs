//! Pools and remotes, as clients see them: what the operator set, with what agents saw, and never a password.

use coffer_core::record::{HostFacts, PoolRecord, PoolStateRecord, Problem, RemoteRecord, RemoteStateRecord};
use coffer_core::{State, Versioned};
use coffer_model::names::Named;
use coffer_model::{InventorySr, InventoryVm, PoolId, RemoteId, SrName, VmName};
use coffer_proto::v1;
use jiff::Timestamp;

use super::time_out;

/// The etag of a record: its revision.
pub(crate) fn etag<T>(record: &Versioned<T>) -> String {
    format!("{:x}", record.modified)
}

fn words(problem: Option<&Problem>, otherwise: &str) -> String {
    match problem {
        None => otherwise.to_owned(),
        Some(problem) if problem.advice.is_empty() => problem.message.clone(),
        Some(problem) => format!("{}; {}", problem.message, problem.advice),
    }
}

/// The hosts of a pool with their certificates, as far as these follow from the pinned one.
pub(crate) fn members_out(state: &State, id: &PoolId, pool: &PoolRecord) -> Vec<v1::PoolHost> {
    let facts = state.pool_states.get(&(id.clone(),)).and_then(|seen| seen.record.facts.as_ref());
    let members = facts.map_or(&[][..], |facts| facts.members_under(&pool.fingerprint));
    let host = |host: &HostFacts| v1::PoolHost {
        address: host.address.clone(),
        uuid: host.uuid.clone(),
        name_label: host.name_label.clone(),
        coordinator: host.coordinator,
        fingerprint: host.fingerprint.clone(),
    };
    members.iter().map(host).collect()
}

pub(crate) fn pool_out(state: &State, id: &PoolId, pool: &Versioned<PoolRecord>) -> v1::Pool {
    use v1::pool::State as Out;
    let unseen = PoolStateRecord::default();
    let seen = state.pool_states.get(&(id.clone(),)).map_or(&unseen, |seen| &seen.record);
    let facts = seen.facts.clone().unwrap_or_default();
    let (stands, message) = match seen.connected {
        None => (Out::Pending, "no agent has tried yet".to_owned()),
        Some(true) => (Out::Connected, words(seen.problem.as_ref(), "")),
        Some(false) if pool.record.fingerprint.is_empty() && !seen.seen_fingerprint.is_empty() => {
            let confirm = "compare `seen_fingerprint` with the host's console, then set `fingerprint` to it";
            (Out::Untrusted, confirm.to_owned())
        }
        Some(false) => (Out::Unreachable, words(seen.problem.as_ref(), "the agent gave no reason")),
    };
    let machines = state.vms.range((id.clone(), coffer_model::VmUuid::new(uuid::Uuid::nil()))..);
    let vm_count = machines.take_while(|((of, _), _)| of == id).count();
    v1::Pool {
        name: id.name(),
        display_name: pool.record.display_name.clone(),
        hosts: pool.record.hosts.clone(),
        username: pool.record.username.clone(),
        password: String::new(),
        fingerprint: pool.record.fingerprint.clone(),
        seen_fingerprint: seen.seen_fingerprint.clone(),
        state: stands.into(),
        state_message: message,
        state_time: seen.time.map(time_out),
        uuid: facts.uuid,
        name_label: facts.name_label,
        product: facts.product,
        vm_count: u32::try_from(vm_count).unwrap_or(u32::MAX),
        max_concurrent_tasks: pool.record.max_concurrent_tasks,
        etag: etag(pool),
        members: members_out(state, id, &pool.record),
    }
}

pub(crate) fn vm_out(pool: &PoolId, vm: &InventoryVm, seen: Option<Timestamp>) -> v1::VirtualMachine {
    v1::VirtualMachine {
        name: VmName { pool: pool.clone(), vm: vm.uuid }.name(),
        uuid: vm.uuid.to_string(),
        name_label: vm.name_label.clone(),
        power_state: vm.power_state.to_string(),
        tags: vm.tags.iter().cloned().collect(),
        disks: vm
            .disks
            .iter()
            .map(|disk| v1::VirtualDisk {
                uuid: disk.uuid.to_string(),
                device: disk.device.clone(),
                name_label: disk.name_label.clone(),
                size_bytes: disk.size.0,
                sr_uuid: disk.sr.to_string(),
                excluded: disk.is_excluded(),
            })
            .collect(),
        seen_time: seen.map(time_out),
    }
}

pub(crate) fn sr_out(pool: &PoolId, sr: &InventorySr, seen: Option<Timestamp>) -> v1::StorageRepository {
    v1::StorageRepository {
        name: SrName { pool: pool.clone(), sr: sr.uuid }.name(),
        uuid: sr.uuid.to_string(),
        name_label: sr.name_label.clone(),
        r#type: sr.kind.clone(),
        shared: sr.shared,
        size_bytes: sr.size.0,
        used_bytes: sr.used.0,
        seen_time: seen.map(time_out),
    }
}

pub(crate) fn remote_out(state: &State, id: &RemoteId, remote: &Versioned<RemoteRecord>) -> v1::Remote {
    use v1::remote::State as Out;
    let unseen = RemoteStateRecord::default();
    let seen = state.remote_states.get(&(id.clone(),)).map_or(&unseen, |seen| &seen.record);
    let (stands, message) = match seen.ready {
        None => (Out::Pending, "no agent has tried yet".to_owned()),
        Some(true) => (Out::Ready, String::new()),
        Some(false) => (Out::Unavailable, words(seen.problem.as_ref(), "the agent gave no reason")),
    };
    v1::Remote {
        name: id.name(),
        display_name: remote.record.display_name.clone(),
        location: Some(v1::remote::Location::Local(v1::LocalLocation { path: remote.record.local_path.clone() })),
        password: String::new(),
        chunk_size_bytes: remote.record.chunk_size_bytes,
        state: stands.into(),
        state_message: message,
        state_time: seen.time.map(time_out),
        size_bytes: seen.size_bytes,
        free_bytes: seen.free_bytes,
        repository_id: seen.repository_id.clone(),
        max_concurrent_tasks: remote.record.max_concurrent_tasks,
        etag: etag(remote),
    }
}
