//! A restore gives the virtual machine back, not only its disks.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use coffer_scenarios::{Site, SiteOptions};
use serde_json::{Map, Value};
use simpool::control::{Content, DiskSpec, VmSpec};

const MIB: u64 = 1 << 20;

/// Fields of a VM record that a restore has to bring back unchanged. `name_label` and what names this host or this run
/// of it are not among them.
const KEPT: [&str; 25] = [
    "HVM_boot_params",
    "HVM_boot_policy",
    "HVM_shadow_multiplier",
    "NVRAM",
    "PV_args",
    "PV_bootloader",
    "PV_kernel",
    "PV_ramdisk",
    "VCPUs_at_startup",
    "VCPUs_max",
    "VCPUs_params",
    "actions_after_crash",
    "actions_after_reboot",
    "actions_after_shutdown",
    "bios_strings",
    "domain_type",
    "has_vendor_device",
    "memory_dynamic_max",
    "memory_dynamic_min",
    "memory_static_max",
    "memory_static_min",
    "name_description",
    "platform",
    "recommendations",
    "tags",
];

type Records = BTreeMap<String, Value>;

fn vm_named<'a>(vms: &'a Records, uuid: &str) -> Result<&'a Value> {
    vms.values().find(|vm| vm["uuid"] == uuid).with_context(|| format!("no VM {uuid}"))
}

/// What a guest sees of its disks and network interfaces: device, mode, bootable, names; MAC and network.
fn devices(vm: &Value, vbds: &Records, vdis: &Records, vifs: &Records) -> Result<Vec<String>> {
    let references = |field: &str| -> Vec<String> {
        vm[field]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|reference| reference.as_str().map(str::to_owned))
            .collect()
    };
    let mut shown = Vec::new();
    for reference in references("VBDs") {
        let vbd = vbds.get(&reference).context("a VBD of the VM")?;
        let vdi = vbd["VDI"].as_str().and_then(|vdi| vdis.get(vdi));
        let label = vdi.map_or(Value::Null, |vdi| vdi["name_label"].clone());
        let size = vdi.map_or(Value::Null, |vdi| vdi["virtual_size"].clone());
        shown.push(format!(
            "disk {} {} bootable={} {} {label} {size}",
            vbd["userdevice"], vbd["mode"], vbd["bootable"], vbd["type"]
        ));
    }
    for reference in references("VIFs") {
        let vif = vifs.get(&reference).context("a VIF of the VM")?;
        shown.push(format!("interface {} {} {} {}", vif["device"], vif["MAC"], vif["network"], vif["MTU"]));
    }
    shown.sort();
    Ok(shown)
}

/// What the virtual TPMs of a machine hold: the simulated pool keeps it as real ones do, in secrets beside the records.
fn tpm_contents(vm: &Value, secrets: &Records) -> Result<Vec<String>> {
    let tpms = vm["VTPMs"].as_array().context("the TPMs of a VM")?;
    let contents = |tpm: &Value| {
        let secret = secrets.values().find(|secret| secret["other_config"]["vtpm"] == *tpm);
        Ok(secret.context("the contents of a TPM")?["value"].as_str().context("text")?.to_owned())
    };
    tpms.iter().map(contents).collect()
}

fn without_stamps(map: &Value) -> Map<String, Value> {
    let known_to_change = ["mac_seed", "import_task", "base_template_name"];
    let map = map.as_object().cloned().unwrap_or_default();
    map.into_iter().filter(|(key, _)| !key.starts_with("coffer") && !known_to_change.contains(&key.as_str())).collect()
}

async fn round_trip(profile: &'static str, uefi: bool, vtpm: bool) -> Result<()> {
    let site = Site::start_with(SiteOptions { profile, ..Default::default() }).await?;
    let disk = |name: &str| DiskSpec {
        name: name.into(),
        size: 8 * MIB,
        content: Content::Seeded { seed: 3, percent: 50.0 },
        ..Default::default()
    };
    let spec = VmSpec {
        name: "ledger".into(),
        description: "the books, since 1998".into(),
        tags: vec!["prod".into(), "finance".into()],
        other_config: BTreeMap::from([("owner".into(), "accounts".into()), ("unusual key".into(), "ünï".into())]),
        running: true,
        memory: 3 << 30,
        vcpus: 6,
        disks: vec![disk("system"), disk("data"), disk("log")],
        vifs: 2,
        uefi,
        vtpm,
        ..Default::default()
    };
    let vm = site.create_vm_like(&spec).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    site.api.back_up(&job).await?;
    let point = site.api.restore_points(&vm.uuid).await?.pop().context("a restore point")?;
    let restored = site.api.restore(&point.name, &site.sr("Shared NFS").await?).await?;

    let vms = site.hosts.records("VM").await?;
    let (vbds, vdis, vifs) =
        (site.hosts.records("VBD").await?, site.hosts.records("VDI").await?, site.hosts.records("VIF").await?);
    let (before, after) = (vm_named(&vms, &vm.uuid)?, vm_named(&vms, &restored)?);
    for field in KEPT {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(without_stamps(&before["other_config"]), without_stamps(&after["other_config"]));
    assert_eq!(devices(before, &vbds, &vdis, &vifs)?, devices(after, &vbds, &vdis, &vifs)?);
    assert_eq!(after["blocked_operations"], Value::Object(Map::new()), "the restored VM cannot be started");
    assert_eq!(site.digests(&restored).await?, site.digests(&vm.uuid).await?);
    let secrets = site.hosts.records("secret").await?;
    let (held, holds) = (tpm_contents(before, &secrets)?, tpm_contents(after, &secrets)?);
    assert_eq!((held.len(), &held), (usize::from(vtpm), &holds));
    assert!(held.iter().all(|contents| !contents.is_empty()), "nothing is compared");
    // For the guest the restored machine is another one: its domain controller must not take up where it was.
    let generation = |vm: &Value| vm["generation_id"].as_str().unwrap_or_default().to_owned();
    assert_eq!(generation(before).is_empty(), generation(after).is_empty());
    assert!(generation(before).is_empty() || generation(before) != generation(after));
    Ok(())
}

#[tokio::test]
async fn a_bios_vm_of_an_8_2_pool_comes_back_whole() -> Result<()> {
    round_trip("8.2", false, false).await
}

#[tokio::test]
async fn a_secure_boot_vm_with_a_tpm_comes_back_whole() -> Result<()> {
    round_trip("8.3", true, true).await
}
