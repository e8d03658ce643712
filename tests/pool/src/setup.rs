//! The records of a new pool: hosts, dom0, networks, drivers. And VMs and SRs as the control interface describes them.

use std::sync::Arc;

use crate::config::{Config, NbdMode, Profile};
use crate::content;
use crate::control::{DiskInfo, DiskSpec, ObjectId, SrKind, SrSpec, VmInfo, VmSpec};
use crate::db::Db;
use crate::guest;
use crate::ops::{self, disks, power, sr, vbd, vm};
use crate::rpc::Cx;
use crate::value::{Failure, NULL, Outcome, Record, Value};
use crate::world::{World, blocking};

const GIB: i64 = 1 << 30;

fn record<const N: usize>(fields: [(&str, Value); N]) -> Record {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Address of a host by its number.
pub(crate) fn address(number: usize) -> String {
    format!("127.0.0.{}", number + 1)
}

/// Fills the database of a new pool; answers the hosts' references in order.
pub(crate) fn new_pool(db: &mut Db, config: &Config) -> Vec<String> {
    let network = db.create(
        "network",
        record([
            ("name_label", Value::str("Pool-wide network associated with eth0")),
            ("bridge", Value::str("xenbr0")),
            (
                "purpose",
                match config.nbd {
                    NbdMode::Tls => Value::set(["nbd"]),
                    NbdMode::Plain => Value::set(["insecure_nbd"]),
                    NbdMode::Off => Value::Set(Vec::new()),
                },
            ),
        ]),
    );
    let hosts: Vec<String> = (0..config.hosts).map(|number| new_host(db, config, number, &network)).collect();
    db.create(
        "pool",
        record([
            ("name_label", Value::str(config.name.clone())),
            ("master", Value::str(hosts.first().cloned().unwrap_or_else(|| NULL.to_owned()))),
            ("restrictions", Value::map([("restrict_vtpm", "false"), ("restrict_cbt", "false")])),
            ("cpu_info", Value::map([("cpu_count", "8"), ("vendor", "GenuineIntel")])),
        ]),
    );
    for kind in sr::KINDS {
        db.create("SM", sr::driver_record(kind));
    }
    let template = record([
        ("name_label", Value::str("Other install media")),
        ("is_a_template", Value::Bool(true)),
        ("is_default_template", Value::Bool(true)),
        ("memory_static_max", Value::Int(GIB)),
        ("memory_dynamic_max", Value::Int(GIB)),
        ("memory_dynamic_min", Value::Int(GIB)),
        ("VCPUs_max", Value::Int(1)),
        ("VCPUs_at_startup", Value::Int(1)),
        ("HVM_boot_policy", Value::str("BIOS order")),
        ("domain_type", Value::str("hvm")),
    ]);
    vm::insert(db, config.profile, template);
    hosts
}

fn new_host(db: &mut Db, config: &Config, number: usize, network: &str) -> String {
    let name = format!("host-{}", number + 1);
    let (version, major, minor) = match config.profile {
        Profile::V8_2 => ("8.2.1", 2, 15),
        Profile::V8_3 => ("8.3.0", 2, 21),
    };
    let api = format!("{major}.{minor}");
    let build = match config.profile {
        Profile::V8_2 => "1.249.38",
        Profile::V8_3 => "26.1.3",
    };
    let metrics = record([
        ("memory_total", Value::Int(256 * GIB)),
        ("memory_free", Value::Int(240 * GIB)),
        ("live", Value::Bool(true)),
        ("last_updated", Value::now()),
    ]);
    let metrics = db.create("host_metrics", metrics);
    let software = [
        ("product_brand", "XCP-ng"),
        ("product_version", version),
        ("product_version_text", version),
        ("platform_version", "3.4.0"),
        ("xapi", api.as_str()),
        ("xapi_build", build),
        ("build_number", "release/simulated"),
        ("hostname", "localhost"),
        ("date", "2024-10-07"),
        ("xen", "4.17.5"),
        ("linux", "4.19.0+1"),
        ("network_backend", "openvswitch"),
    ];
    let host = db.create(
        "host",
        record([
            ("name_label", Value::str(name.clone())),
            ("hostname", Value::str(name.clone())),
            ("address", Value::str(address(number))),
            ("API_version_major", Value::Int(major)),
            ("API_version_minor", Value::Int(minor)),
            ("software_version", Value::map(software)),
            ("metrics", Value::str(metrics)),
            ("cpu_info", Value::map([("cpu_count", "8"), ("vendor", "GenuineIntel"), ("modelname", "simulated")])),
            ("edition", Value::str("xcp-ng")),
            ("license_params", Value::map([("restrict_vtpm", "false")])),
            ("suspend_image_sr", Value::null()),
        ]),
    );
    let dom0 = record([
        ("name_label", Value::str(format!("Control domain on host: {name}"))),
        ("is_control_domain", Value::Bool(true)),
        ("power_state", Value::str("Running")),
        ("resident_on", Value::str(host.clone())),
        ("domid", Value::Int(0)),
        ("memory_static_max", Value::Int(4 * GIB)),
        ("memory_dynamic_max", Value::Int(4 * GIB)),
    ]);
    let dom0 = vm::insert(db, config.profile, dom0);
    db.set("host", &host, "control_domain", Value::str(dom0));
    let mac = format!("02:00:00:00:00:{:02x}", number + 1);
    let pif = record([
        ("device", Value::str("eth0")),
        ("network", Value::str(network)),
        ("host", Value::str(host.clone())),
        ("MAC", Value::str(mac)),
        ("currently_attached", Value::Bool(true)),
        ("IP", Value::str(address(number))),
        ("netmask", Value::str("255.0.0.0")),
        ("management", Value::Bool(true)),
    ]);
    db.create("PIF", pif);
    host
}

/// The certificate's record follows the host's certificate.
pub(crate) fn certificate_record(db: &mut Db, host: &str, fingerprint: &str) {
    for old in db.list("host", host, "certificates") {
        db.delete("Certificate", &old);
    }
    let now = jiff::Timestamp::now();
    let certificate = record([
        ("host", Value::str(host)),
        ("not_before", Value::Time(now - jiff::SignedDuration::from_hours(24 * 365))),
        ("not_after", Value::Time(now + jiff::SignedDuration::from_hours(24 * 365 * 9))),
        ("fingerprint", Value::str(fingerprint)),
        ("fingerprint_sha256", Value::str(fingerprint)),
    ]);
    db.create("Certificate", certificate);
}

/// Makes an SR.
pub(crate) async fn make_sr(world: &World, spec: &SrSpec) -> Outcome<String> {
    let all = || world.hosts.iter().map(|h| h.reference.clone());
    let hosts: Vec<String> =
        if sr::facts(spec.kind).shared { all().collect() } else { all().skip(spec.host).take(1).collect() };
    if hosts.is_empty() {
        return Err(Failure::internal(format!("there is no host number {}", spec.host)));
    }
    let fields = record([("name_label", Value::str(spec.name.clone()))]);
    let made = sr::make(world, spec.kind, fields, spec.size, &hosts, &Value::Map(Record::new())).await?;
    world.write(|db| {
        let pool = db.references("pool").pop().unwrap_or_default();
        let default = db.text("pool", &pool, "default_SR");
        let usable = spec.kind != SrKind::Iso;
        if usable && (default == NULL || default.is_empty()) {
            db.set("pool", &pool, "default_SR", Value::str(made.clone()));
            db.set("pool", &pool, "suspend_image_SR", Value::str(made.clone()));
        }
    });
    Ok(made)
}

/// Makes a VM with its disks.
pub(crate) async fn make_vm(world: &Arc<World>, spec: &VmSpec) -> Outcome<VmInfo> {
    let host = world
        .hosts
        .get(spec.host)
        .ok_or_else(|| Failure::internal(format!("there is no host number {}", spec.host)))?;
    let memory = if spec.memory == 0 { GIB } else { i64::try_from(spec.memory).unwrap_or(GIB) };
    let vcpus = i64::from(spec.vcpus.max(1));
    let config = spec.other_config.iter().map(|(k, v)| (k.clone(), v.clone()));
    let mut fields = record([
        ("name_label", Value::str(spec.name.clone())),
        ("name_description", Value::str(spec.description.clone())),
        ("tags", Value::set(spec.tags.clone())),
        ("other_config", Value::map(config)),
        ("memory_static_max", Value::Int(memory)),
        ("memory_dynamic_max", Value::Int(memory)),
        ("memory_dynamic_min", Value::Int(memory)),
        ("memory_static_min", Value::Int(memory / 2)),
        ("VCPUs_max", Value::Int(vcpus)),
        ("VCPUs_at_startup", Value::Int(vcpus)),
        ("HVM_boot_policy", Value::str("BIOS order")),
        ("domain_type", Value::str("hvm")),
        ("actions_after_reboot", Value::str("restart")),
        ("actions_after_crash", Value::str("restart")),
        ("generation_id", Value::str(format!("{}:{}", rand::random::<i64>(), rand::random::<i64>()))),
        ("bios_strings", Value::map([("bios-vendor", "Xen"), ("system-manufacturer", "Xen")])),
        ("affinity", Value::str(host.reference.clone())),
    ]);
    let firmware = if spec.uefi { "uefi" } else { "bios" };
    fields.insert("HVM_boot_params".to_owned(), Value::map([("order", "cd"), ("firmware", firmware)]));
    let mut platform = vec![("acpi", "1"), ("apic", "true"), ("pae", "true"), ("viridian", "true")];
    if spec.uefi {
        platform.extend([("device-model", "qemu-upstream-uefi"), ("secureboot", "true")]);
        let variables = [("EFI-variables", "c2ltdWxhdGVkIHZhcmlhYmxlcw=="), ("EFI-variables-backend", "xapidb")];
        fields.insert("NVRAM".to_owned(), Value::map(variables));
    }
    if spec.vtpm {
        platform.push(("vtpm", "true"));
    }
    fields.insert("platform".to_owned(), Value::map(platform));
    let made = world.write(|db| {
        let made = vm::insert(db, world.profile(), fields);
        let seed = db.entry("VM", &made, "other_config", "mac_seed").unwrap_or_default();
        let network = db.references("network").first().cloned().unwrap_or_default();
        for device in 0..spec.vifs.min(7) {
            let device = device.to_string();
            let vif = record([
                ("VM", Value::str(made.clone())),
                ("network", Value::str(network.clone())),
                ("device", Value::str(device.clone())),
                ("MAC", Value::str(ops::derive_mac(&seed, &device))),
                ("MTU", Value::Int(1500)),
                ("MAC_autogenerated", Value::Bool(true)),
            ]);
            db.create("VIF", vif);
        }
        if spec.vtpm && world.profile() == Profile::V8_3 {
            ops::create_vtpm(db, &made, false, "c2ltdWxhdGVkIFRQTSBzdGF0ZQ==");
        }
        made
    });
    for disk in &spec.disks {
        add_disk(world, &made, disk).await?;
    }
    guest::set_behaviour(world, &made, spec.guest.clone()).await;
    if spec.running {
        power::run(world, &made, &host.reference, false);
        guest::report_at_once(world, &made, &spec.guest);
    }
    Ok(describe(world, &made))
}

/// Adds a disk with its content to a VM; to a running one it is attached.
pub(crate) async fn add_disk(world: &Arc<World>, target: &str, spec: &DiskSpec) -> Outcome<DiskInfo> {
    let cx = Cx::new(world, world.coordinator().number, "");
    let sr = sr::find(world, &spec.sr)?;
    let mut size = spec.size;
    if let crate::control::Content::File { path } = &spec.content {
        let length = std::fs::metadata(path).map_err(|e| Failure::internal(format!("{path}: {e}")))?.len();
        size = size.max(length);
    }
    let (device, first, running) = world.read(|db| {
        let free = vbd::free_devices(db, target);
        let device = if spec.device.is_empty() { free.first().cloned() } else { Some(spec.device.clone()) };
        (
            device.unwrap_or_default(),
            disks::of_vm(db, target).is_empty(),
            db.text("VM", target, "power_state") == "Running",
        )
    });
    let name = if spec.name.is_empty() {
        format!("{}_{device}", world.read(|db| db.text("VM", target, "name_label")))
    } else {
        spec.name.clone()
    };
    let fields = record([
        ("SR", Value::str(sr.clone())),
        ("name_label", Value::str(name)),
        ("virtual_size", Value::bytes(size)),
    ]);
    let vdi = disks::create(&cx, fields).await?;
    let (disk, content) = (world.disk(&vdi)?, spec.content.clone());
    blocking(move || content::put(&disk, &content)).await?;
    disks::sync_sr(world, &sr);
    world.write(|db| {
        let fields = record([
            ("VM", Value::str(target)),
            ("VDI", Value::str(vdi.clone())),
            ("userdevice", Value::str(device.clone())),
            ("bootable", Value::Bool(first)),
            ("mode", Value::str("RW")),
            ("type", Value::str("Disk")),
        ]);
        let made = db.create("VBD", fields);
        if running {
            vbd::set_attached(db, &made, true);
        }
        Ok(DiskInfo {
            vdi: ObjectId { uuid: db.uuid("VDI", &vdi), reference: vdi.clone() },
            device: device.clone(),
            size: db.int("VDI", &vdi, "virtual_size").unsigned_abs(),
        })
    })
}

/// A VM as the control interface shows it.
pub(crate) fn describe(world: &World, target: &str) -> VmInfo {
    world.read(|db| VmInfo {
        vm: ObjectId { uuid: db.uuid("VM", target), reference: target.to_owned() },
        disks: disks::of_vm(db, target)
            .into_iter()
            .map(|(vbd, vdi)| DiskInfo {
                device: db.text("VBD", &vbd, "userdevice"),
                size: db.int("VDI", &vdi, "virtual_size").unsigned_abs(),
                vdi: ObjectId { uuid: db.uuid("VDI", &vdi), reference: vdi },
            })
            .collect(),
    })
}
