//! What a pool holds, as controllers are told. Pure.

use coffer_proto::v1::{InventoryDisk, InventorySr, InventoryVm, PoolFacts, PoolHost, ReportInventoryRequest};
use coffer_xapi::records::PowerState;
use coffer_xapi::{Fingerprint, Inventory, KnownHost, VmView};

/// Entries in one part: far below the most that one message may hold.
const PART: usize = 500;

/// The parts of one report, in order; at least one. `hosts` are the pool's with their certificates, which follow from
/// the `pinned` one.
pub(super) fn parts(
    pool: &str,
    inventory: &Inventory,
    hosts: &[KnownHost],
    pinned: Fingerprint,
) -> Vec<ReportInventoryRequest> {
    let part = || ReportInventoryRequest { pool: pool.to_owned(), ..ReportInventoryRequest::default() };
    let mut parts = vec![ReportInventoryRequest { facts: Some(facts(inventory, hosts, pinned)), ..part() }];
    for srs in inventory.srs.chunks(PART) {
        let srs = srs.iter().map(|sr| InventorySr {
            uuid: sr.uuid.to_string(),
            name_label: sr.name.clone(),
            r#type: sr.kind.clone(),
            shared: sr.shared,
            size_bytes: sr.size,
            used_bytes: sr.used,
        });
        parts.push(ReportInventoryRequest { srs: srs.collect(), ..part() });
    }
    for vms in inventory.vms.chunks(PART) {
        parts.push(ReportInventoryRequest { vms: vms.iter().map(machine).collect(), ..part() });
    }
    parts
}

fn facts(inventory: &Inventory, hosts: &[KnownHost], pinned: Fingerprint) -> PoolFacts {
    let coordinator = inventory.hosts.iter().find(|host| host.coordinator);
    let mut hosts: Vec<PoolHost> = hosts
        .iter()
        .map(|host| PoolHost {
            address: host.endpoint.to_string(),
            uuid: host.uuid.to_string(),
            name_label: host.name.clone(),
            coordinator: coordinator.is_some_and(|coordinator| coordinator.uuid == host.uuid),
            fingerprint: host.fingerprint.map(|fingerprint| fingerprint.to_string()).unwrap_or_default(),
        })
        .collect();
    hosts.sort_by(|a, b| (&a.name_label, &a.uuid).cmp(&(&b.name_label, &b.uuid)));
    PoolFacts {
        uuid: inventory.pool.to_string(),
        name_label: inventory.pool_name.clone(),
        product: coordinator.map(|host| host.product.clone()).unwrap_or_default(),
        hosts,
        fingerprint: pinned.to_string(),
    }
}

fn machine(vm: &VmView) -> InventoryVm {
    let mut tags = vm.tags.clone();
    tags.sort_unstable();
    let disks = vm.disks.iter().map(|disk| InventoryDisk {
        uuid: disk.uuid.to_string(),
        device: disk.device.clone(),
        name_label: disk.name.clone(),
        size_bytes: disk.size,
        sr_uuid: disk.sr.map(|sr| sr.to_string()).unwrap_or_default(),
    });
    InventoryVm {
        uuid: vm.uuid.to_string(),
        name_label: vm.name.clone(),
        power_state: power_state(vm.power_state).to_owned(),
        tags,
        disks: disks.collect(),
        host_uuid: vm.host.map(|host| host.to_string()).unwrap_or_default(),
    }
}

/// As XAPI calls it.
fn power_state(state: PowerState) -> &'static str {
    match state {
        PowerState::Halted => "Halted",
        PowerState::Paused => "Paused",
        PowerState::Running => "Running",
        PowerState::Suspended => "Suspended",
        PowerState::Unknown => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_xapi::Ref;
    use uuid::Uuid;

    #[test]
    fn a_large_pool_is_told_in_parts_of_which_the_first_names_it() {
        let vm = |number: u128| VmView {
            reference: Ref::new("OpaqueRef:vm").unwrap(),
            uuid: Uuid::from_u128(number),
            name: format!("vm {number}"),
            description: String::new(),
            tags: vec!["b".into(), "a".into()],
            power_state: PowerState::Running,
            host: None,
            disks: Vec::new(),
        };
        let inventory = Inventory { pool_name: "lab".into(), vms: (0..1001).map(vm).collect(), ..Inventory::default() };
        let pinned = Fingerprint::of_der(b"pinned");
        let parts = parts("pools/lab", &inventory, &[], pinned);
        assert_eq!(parts.iter().map(|part| part.vms.len()).collect::<Vec<_>>(), [0, 500, 500, 1]);
        let facts = parts[0].facts.as_ref().unwrap();
        assert_eq!((facts.name_label.as_str(), &facts.fingerprint), ("lab", &pinned.to_string()));
        assert!(parts[1..].iter().all(|part| part.facts.is_none() && part.pool == "pools/lab"));
        assert_eq!(
            (parts[1].vms[0].power_state.as_str(), &parts[1].vms[0].tags),
            ("Running", &vec!["a".to_owned(), "b".to_owned()])
        );
    }
}
