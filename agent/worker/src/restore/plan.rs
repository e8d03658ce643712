//! What a restored VM will be made of: a restore point's records, made fit for another time and another pool. Pure.

use std::collections::BTreeMap;

use coffer_xapi::Ref;
use coffer_xapi::records::{Network, NetworkRecord, VbdMode};
use serde_json::{Value, json};

use crate::document::{DocumentInterface, Record, VmDocument};
use crate::stamps;

/// Fields of a VM that a restored one has as well, each with what it is when the restore point does not say. What is
/// not here belongs to the old pool: hosts, storage for suspending, appliances, high availability.
const VM_FIELDS: [(&str, &str); 36] = [
    ("name_description", "\"\""),
    ("user_version", "1"),
    ("memory_static_max", "1073741824"),
    ("memory_static_min", "0"),
    ("memory_dynamic_max", "1073741824"),
    ("memory_dynamic_min", "1073741824"),
    ("VCPUs_params", "{}"),
    ("VCPUs_max", "1"),
    ("VCPUs_at_startup", "1"),
    ("actions_after_shutdown", "\"destroy\""),
    ("actions_after_reboot", "\"restart\""),
    ("actions_after_crash", "\"restart\""),
    ("PV_bootloader", "\"\""),
    ("PV_kernel", "\"\""),
    ("PV_ramdisk", "\"\""),
    ("PV_args", "\"\""),
    ("PV_bootloader_args", "\"\""),
    ("PV_legacy_args", "\"\""),
    ("HVM_boot_policy", "\"\""),
    ("HVM_boot_params", "{}"),
    ("platform", "{}"),
    ("recommendations", "\"\""),
    ("HVM_shadow_multiplier", ""),
    ("actions_after_softreboot", ""),
    ("NVRAM", ""),
    ("domain_type", ""),
    ("generation_id", ""),
    ("has_vendor_device", ""),
    ("hardware_platform_version", ""),
    ("order", ""),
    ("reference_label", ""),
    ("shutdown_delay", ""),
    ("start_delay", ""),
    ("tags", ""),
    ("version", ""),
    ("xenstore_data", ""),
];

/// Keys of a VM's `other_config` that belong to one VM alone.
const OWN_KEYS: [&str; 2] = ["import_task", "mac_seed"];

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    /// Name of the new VM; empty: made from the old one.
    pub(super) label: String,
    /// It keeps its MAC addresses.
    pub(super) keep_macs: bool,
}

/// What to make.
#[derive(Debug)]
pub(super) struct RestorePlan {
    /// For `VM.create`; its `other_config` is without stamps.
    pub(super) vm: Record,
    /// Its name when it is complete.
    pub(super) label: String,
    /// Empty when there are none.
    pub(super) bios_strings: BTreeMap<String, String>,
    pub(super) disks: Vec<PlannedDisk>,
    pub(super) drives: Vec<PlannedDrive>,
    pub(super) interfaces: Vec<PlannedInterface>,
    /// What cannot be as it was.
    pub(super) warnings: Vec<String>,
}

/// A disk to be made and attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedDisk {
    /// Index in the document's disks.
    pub(super) index: usize,
    pub(super) label: String,
    pub(super) description: String,
    pub(super) size: u64,
    pub(super) kind: String,
    pub(super) sharable: bool,
    pub(super) tags: Vec<String>,
    pub(super) other_config: BTreeMap<String, String>,
    pub(super) position: String,
    pub(super) bootable: bool,
    pub(super) mode: VbdMode,
    pub(super) unpluggable: bool,
    pub(super) vbd_config: BTreeMap<String, String>,
}

/// A CD drive, empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedDrive {
    pub(super) position: String,
    pub(super) bootable: bool,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedInterface {
    pub(super) network: Ref<Network>,
    pub(super) position: String,
    /// Empty: the pool gives one.
    pub(super) mac: String,
    pub(super) mtu: i64,
    pub(super) other_config: BTreeMap<String, String>,
    pub(super) locking_mode: String,
    pub(super) ipv4_allowed: Vec<String>,
    pub(super) ipv6_allowed: Vec<String>,
    pub(super) qos_type: String,
    pub(super) qos_params: BTreeMap<String, String>,
}

/// Makes the plan.
pub(super) fn plan(document: &VmDocument, wish: &Wish, networks: &[(Ref<Network>, NetworkRecord)]) -> RestorePlan {
    let mut warnings = Vec::new();
    let label = if wish.label.is_empty() {
        format!("{} ({})", document.vm_label, document.time.strftime("%Y-%m-%d %H:%M:%S UTC"))
    } else {
        wish.label.clone()
    };
    let mut interfaces = Vec::new();
    for interface in &document.interfaces {
        match find_network(interface, networks) {
            Some(network) => interfaces.push(planned_interface(interface, network, wish.keep_macs)),
            None => warnings.push(format!(
                "network interface {} is left out: the pool has no network {:?}",
                text(&interface.vif, "device"),
                interface.network.as_ref().map_or("", |network| network.label.as_str())
            )),
        }
    }
    for disk in &document.excluded {
        warnings
            .push(format!("disk {} ({}) was left out of the backup and is not restored", disk.position, disk.label));
    }
    RestorePlan {
        vm: vm_record(document, wish.keep_macs),
        label,
        bios_strings: texts(&document.vm, "bios_strings"),
        disks: document.disks.iter().enumerate().map(|(index, _)| planned_disk(document, index)).collect(),
        drives: document
            .drives
            .iter()
            .map(|vbd| PlannedDrive { position: text(vbd, "userdevice"), bootable: flag(vbd, "bootable") })
            .collect(),
        interfaces,
        warnings,
    }
}

fn vm_record(document: &VmDocument, keep_macs: bool) -> Record {
    let mut record = Record::new();
    for (field, default) in VM_FIELDS {
        match document.vm.get(field) {
            Some(value) => record.insert(field.to_owned(), value.clone()),
            None if default.is_empty() => None,
            None => record.insert(field.to_owned(), serde_json::from_str(default).expect("the defaults are JSON")),
        };
    }
    let mut other_config = texts(&document.vm, "other_config");
    other_config.retain(|key, _| !stamps::is_ours(key) && (keep_macs || !OWN_KEYS.contains(&key.as_str())));
    other_config.remove("import_task");
    record.insert("other_config".to_owned(), json!(other_config));
    record.insert("is_a_template".to_owned(), json!(false));
    record.insert("affinity".to_owned(), json!("OpaqueRef:NULL"));
    record.insert("PCI_bus".to_owned(), json!(""));
    // A guest that minds being copied is told by a new id at its first start.
    if record.get("generation_id").and_then(Value::as_str).is_some_and(|id| !id.is_empty()) {
        record.insert("generation_id".to_owned(), json!("0:0"));
    }
    record
}

fn planned_disk(document: &VmDocument, index: usize) -> PlannedDisk {
    let disk = &document.disks[index];
    let kind = text(&disk.vdi, "type");
    let mut other_config = texts(&disk.vdi, "other_config");
    other_config.retain(|key, _| !stamps::is_ours(key));
    PlannedDisk {
        index,
        label: disk.label.clone(),
        description: text(&disk.vdi, "name_description"),
        size: disk.size,
        kind: if kind == "system" { kind } else { "user".to_owned() },
        sharable: flag(&disk.vdi, "sharable"),
        tags: list(&disk.vdi, "tags"),
        other_config,
        position: disk.position.clone(),
        bootable: flag(&disk.vbd, "bootable"),
        mode: if text(&disk.vbd, "mode") == "RO" { VbdMode::ReadOnly } else { VbdMode::ReadWrite },
        unpluggable: disk.vbd.get("unpluggable").is_none() || flag(&disk.vbd, "unpluggable"),
        vbd_config: texts(&disk.vbd, "other_config"),
    }
}

/// The network of an interface: the very same one, else one of the same name, on the same bridge if there are several,
/// else one on the same bridge.
fn find_network(interface: &DocumentInterface, networks: &[(Ref<Network>, NetworkRecord)]) -> Option<Ref<Network>> {
    let wanted = interface.network.as_ref()?;
    let rank = |known: &NetworkRecord| {
        if known.uuid == wanted.uuid {
            return 0;
        }
        match (known.name_label == wanted.label && !wanted.label.is_empty(), known.bridge == wanted.bridge) {
            (true, true) => 1,
            (true, false) => 2,
            (false, true) if !wanted.bridge.is_empty() => 3,
            _ => 4,
        }
    };
    let best = networks.iter().map(|(reference, known)| (rank(known), known.uuid, reference)).min()?;
    (best.0 < 4).then(|| best.2.clone())
}

fn planned_interface(interface: &DocumentInterface, network: Ref<Network>, keep_macs: bool) -> PlannedInterface {
    let vif = &interface.vif;
    let mtu = vif.get("MTU").and_then(|mtu| mtu.as_i64().or_else(|| mtu.as_str()?.parse().ok()));
    let mode = text(vif, "locking_mode");
    PlannedInterface {
        network,
        position: text(vif, "device"),
        mac: if keep_macs { text(vif, "MAC") } else { String::new() },
        mtu: mtu.unwrap_or(1500),
        other_config: texts(vif, "other_config"),
        locking_mode: if mode.is_empty() { "network_default".to_owned() } else { mode },
        ipv4_allowed: list(vif, "ipv4_allowed"),
        ipv6_allowed: list(vif, "ipv6_allowed"),
        qos_type: text(vif, "qos_algorithm_type"),
        qos_params: texts(vif, "qos_algorithm_params"),
    }
}

fn text(record: &Record, field: &str) -> String {
    record.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn flag(record: &Record, field: &str) -> bool {
    record.get(field).and_then(Value::as_bool).unwrap_or(false)
}

fn list(record: &Record, field: &str) -> Vec<String> {
    let values = record.get(field).and_then(Value::as_array).into_iter().flatten();
    values.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn texts(record: &Record, field: &str) -> BTreeMap<String, String> {
    let entries = record.get(field).and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{DocumentNetwork, tests::sample};
    use proptest::prelude::*;
    use uuid::Uuid;

    fn record(value: Value) -> Record {
        match value {
            Value::Object(record) => record,
            _ => unreachable!("an object was written"),
        }
    }

    fn network(id: u128, name: &str, bridge: &str) -> (Ref<Network>, NetworkRecord) {
        let known = NetworkRecord {
            uuid: Uuid::from_u128(id),
            name_label: name.into(),
            bridge: bridge.into(),
            ..NetworkRecord::default()
        };
        (Ref::new(&format!("OpaqueRef:{id}")).unwrap(), known)
    }

    fn on(network: (u128, &str, &str)) -> DocumentInterface {
        DocumentInterface {
            vif: record(json!({"device": "0", "MAC": "aa:bb:cc:dd:ee:ff", "MTU": "9000"})),
            network: Some(DocumentNetwork {
                uuid: Uuid::from_u128(network.0),
                label: network.1.into(),
                bridge: network.2.into(),
            }),
        }
    }

    #[test]
    fn fields_of_the_old_pool_stay_behind() {
        let mut document = sample();
        document.vm = record(json!({
            "uuid": "x", "affinity": "OpaqueRef:host", "resident_on": "OpaqueRef:host", "suspend_SR": "OpaqueRef:sr",
            "appliance": "OpaqueRef:a", "ha_restart_priority": "restart", "power_state": "Running", "PCI_bus": "0/0000:00:02.0",
            "memory_static_max": 4294967296u64, "platform": {"secureboot": "true"}, "NVRAM": {"EFI-variables": "AAAA"},
            "generation_id": "12:34", "other_config": {"mac_seed": "s", "coffer:site": "x", "folder": "prod"},
            "bios_strings": {"bios-vendor": "Xen"}, "tags": ["prod"],
        }));
        let plan = plan(&document, &Wish::default(), &[]);
        for gone in ["uuid", "resident_on", "suspend_SR", "appliance", "ha_restart_priority", "power_state"] {
            assert!(!plan.vm.contains_key(gone), "{gone} is still there");
        }
        assert_eq!(plan.vm["affinity"], "OpaqueRef:NULL");
        assert_eq!(plan.vm["PCI_bus"], "");
        assert_eq!(plan.vm["memory_static_max"], 4294967296u64);
        assert_eq!(plan.vm["NVRAM"]["EFI-variables"], "AAAA");
        assert_eq!(plan.vm["generation_id"], "0:0");
        assert_eq!(plan.vm["other_config"], json!({"folder": "prod"}));
        assert_eq!(plan.vm["tags"], json!(["prod"]));
        assert_eq!(plan.bios_strings["bios-vendor"], "Xen");
        assert_eq!(plan.label, "db (2023-11-14 22:13:20 UTC)");
        let kept = super::plan(&document, &Wish { keep_macs: true, label: "new".into() }, &[]);
        assert_eq!(kept.vm["other_config"], json!({"folder": "prod", "mac_seed": "s"}));
        assert_eq!(kept.label, "new");
    }

    #[test]
    fn what_create_demands_is_there_even_when_the_restore_point_is_old() {
        let mut document = sample();
        document.vm = Record::new();
        let plan = plan(&document, &Wish::default(), &[]);
        for field in "user_version is_a_template affinity memory_static_max memory_static_min memory_dynamic_max \
                      memory_dynamic_min VCPUs_params VCPUs_max VCPUs_at_startup actions_after_shutdown \
                      actions_after_reboot actions_after_crash PV_bootloader PV_kernel PV_ramdisk PV_args \
                      PV_bootloader_args PV_legacy_args HVM_boot_policy HVM_boot_params platform PCI_bus other_config \
                      recommendations"
            .split_whitespace()
        {
            assert!(plan.vm.contains_key(field), "{field} is missing");
        }
    }

    #[test]
    fn interfaces_find_their_network_in_another_pool() {
        let networks = [network(1, "lan", "xenbr0"), network(2, "dmz", "xenbr1"), network(3, "lan", "xenbr7")];
        let found = |wanted| find_network(&on(wanted), &networks).map(|found| found.as_str().to_owned());
        assert_eq!(found((2, "renamed", "")).as_deref(), Some("OpaqueRef:2"));
        assert_eq!(found((9, "lan", "xenbr7")).as_deref(), Some("OpaqueRef:3"));
        assert_eq!(found((9, "lan", "xenbr9")).as_deref(), Some("OpaqueRef:1"));
        assert_eq!(found((9, "unknown", "xenbr1")).as_deref(), Some("OpaqueRef:2"));
        assert_eq!(found((9, "unknown", "xenbr9")), None);
        assert_eq!(found((9, "", "")), None);
    }

    #[test]
    fn an_interface_without_a_network_is_left_out_and_said_so() {
        let mut document = sample();
        document.interfaces = vec![on((9, "gone", "")), on((1, "lan", ""))];
        let networks = [network(1, "lan", "xenbr0")];
        let plan = plan(&document, &Wish { keep_macs: true, ..Wish::default() }, &networks);
        assert_eq!(plan.interfaces.len(), 1);
        assert_eq!((plan.interfaces[0].mac.as_str(), plan.interfaces[0].mtu), ("aa:bb:cc:dd:ee:ff", 9000));
        assert!(plan.warnings[0].contains("gone"));
        let anew = super::plan(&document, &Wish::default(), &networks);
        assert_eq!(anew.interfaces[0].mac, "");
    }

    proptest! {
        #[test]
        fn records_of_any_shape_are_planned_without_a_panic(
            fields in prop::collection::vec(("[a-zA-Z_]{1,20}", prop_oneof![Just(json!(1)), Just(json!("x")), Just(json!({"a": 1})), Just(json!([1]))]), 0..10),
        ) {
            let mut document = sample();
            let odd: Record = fields.into_iter().collect();
            document.vm = odd.clone();
            document.disks[0].vdi = odd.clone();
            document.disks[0].vbd = odd.clone();
            document.drives.push(odd.clone());
            document.interfaces.push(DocumentInterface { vif: odd, network: None });
            let plan = plan(&document, &Wish::default(), &[network(1, "lan", "")]);
            prop_assert_eq!(plan.disks.len(), 1);
        }
    }
}
