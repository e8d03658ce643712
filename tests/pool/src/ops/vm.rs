//! VM calls that neither copy nor run a VM: making, destroying, settings.

use super::gate::{begin_vm, check_vm, is_set, refresh_vm};
use super::vdi::mandatory;
use crate::config::Profile;
use crate::db::{Access, Db};
use crate::rpc::{Args, Cx, Methods};
use crate::value::{Failure, NULL, Outcome, Record, Value};

const MANDATORY: [&str; 25] = [
    "user_version",
    "is_a_template",
    "affinity",
    "memory_static_max",
    "memory_static_min",
    "memory_dynamic_max",
    "memory_dynamic_min",
    "VCPUs_params",
    "VCPUs_max",
    "VCPUs_at_startup",
    "actions_after_shutdown",
    "actions_after_reboot",
    "actions_after_crash",
    "PV_bootloader",
    "PV_kernel",
    "PV_ramdisk",
    "PV_args",
    "PV_bootloader_args",
    "PV_legacy_args",
    "HVM_boot_policy",
    "HVM_boot_params",
    "platform",
    "PCI_bus",
    "other_config",
    "recommendations",
];

const OPTIONAL: [&str; 23] = [
    "name_label",
    "name_description",
    "tags",
    "reference_label",
    "version",
    "HVM_shadow_multiplier",
    "domain_type",
    "NVRAM",
    "has_vendor_device",
    "generation_id",
    "hardware_platform_version",
    "actions_after_softreboot",
    "start_delay",
    "shutdown_delay",
    "order",
    "appliance",
    "ha_restart_priority",
    "suspend_SR",
    "snapshot_schedule",
    "is_vmss_snapshot",
    "xenstore_data",
    "is_snapshot_from_vmpp",
    "groups",
];

pub(super) fn enter(table: &mut Methods) {
    table.add("VM.create", "record:rec(VM)", create);
    table.add("VM.destroy", "self:ref(VM)", destroy);
    table.add("VM.provision", "vm:ref(VM)", provision);
    table.add("VM.set_is_a_template", "self:ref(VM) value:bool", set_is_a_template);
    table.add("VM.set_bios_strings", "self:ref(VM) value:map", set_bios_strings);
    table.add("VM.set_ha_restart_priority", "self:ref(VM) value:string", set_ha_restart_priority);
    table.add(
        "VM.set_memory_limits",
        "self:ref(VM) static_min:int static_max:int dynamic_min:int dynamic_max:int",
        set_memory_limits,
    );
    table.add("VM.set_suspend_VDI", "self:ref(VM) value:ref(VDI)", set_suspend_vdi);
    table.add("VM.assert_operation_valid", "self:ref(VM) op:string", |cx, args| async move {
        cx.world.read(|db| check_vm(db, cx.world.profile(), &args.text(0), &args.text(1)))?;
        Ok(Value::Void)
    });
    table.add("VM.update_allowed_operations", "self:ref(VM)", |cx, args| async move {
        cx.world.write(|db| refresh_vm(db, cx.world.profile(), &args.text(0)));
        Ok(Value::Void)
    });
    for name in ["set_blocked_operations", "add_to_blocked_operations", "remove_from_blocked_operations"] {
        let signature = match name {
            "set_blocked_operations" => "self:ref(VM) value:map",
            "add_to_blocked_operations" => "self:ref(VM) key:string value:string",
            _ => "self:ref(VM) key:string",
        };
        table.add(&format!("VM.{name}"), signature, move |cx, args| block(cx, args, name));
    }
    for field in [
        "set_VCPUs_max",
        "set_VCPUs_at_startup",
        "set_memory_static_max",
        "set_memory_dynamic_max",
        "set_memory_dynamic_min",
        "set_memory_static_min",
    ] {
        table.add(&format!("VM.{field}"), "self:ref(VM) value:int", move |cx, args| set_halted(cx, args, field));
    }
    table.add("VM_appliance.create", "record:rec(VM_appliance)", |cx, args| async move {
        let record = super::vdi::only(args.record(0), &["name_label", "name_description"]);
        Ok(Value::str(cx.world.write(|db| db.create("VM_appliance", record))))
    });
    table.add("VM_appliance.destroy", "self:ref(VM_appliance)", |cx, args| async move {
        cx.world.write(|db| db.delete("VM_appliance", &args.text(0)));
        Ok(Value::Void)
    });
    table.add("VM.get_possible_hosts", "vm:ref(VM)", |cx, args| async move {
        Ok(Value::set(cx.world.read(|db| super::power::possible_hosts(&cx.world, db, &args.text(0)))))
    });
    table.add("VM.assert_can_boot_here", "self:ref(VM) host:ref(host)", |cx, args| async move {
        let (vm, host) = (args.text(0), args.text(1));
        cx.world.read(|db| super::power::assert_can_boot(db, &vm, &host)).map(|()| Value::Void)
    });
    table.add("VM.snapshot_with_quiesce", "vm:ref(VM) new_name:string", |_, _| async {
        Err(Failure::new("MESSAGE_REMOVED", &[]))
    });
}

async fn create(cx: Cx, args: Args) -> Outcome {
    let given = args.record(0);
    mandatory(&given, &MANDATORY)?;
    let profile = cx.world.profile();
    let text = |key: &str| given.get(key).map(|v| v.as_str().to_owned()).unwrap_or_default();
    let suspended = profile == Profile::V8_3 && text("power_state").eq_ignore_ascii_case("suspended");
    let mut record: Record = given
        .iter()
        .filter(|(key, _)| MANDATORY.contains(&key.as_str()) || OPTIONAL.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if suspended {
        let flags = given.get("last_boot_CPU_flags").map(Value::as_map).unwrap_or_default();
        if !is_set(&text("suspend_VDI")) || text("last_booted_record").is_empty() || flags.is_empty() {
            return Err(Failure::new("VM_BAD_POWER_STATE", &[NULL, "halted", "suspended"]));
        }
        record.insert("power_state".to_owned(), Value::str("Suspended"));
        for key in ["suspend_VDI", "last_booted_record", "last_boot_CPU_flags"] {
            record.insert(key.to_owned(), given.get(key).cloned().unwrap_or(Value::Void));
        }
    }
    if ["", "unspecified"].contains(&text("domain_type").as_str()) {
        let kind = if text("HVM_boot_policy").is_empty() { "pv" } else { "hvm" };
        record.insert("domain_type".to_owned(), Value::str(kind));
    }
    Ok(Value::str(cx.world.write(|db| insert(db, profile, record))))
}

/// Makes a VM's record with what every VM has beside it.
pub(crate) fn insert(db: &mut Db, profile: Profile, mut record: Record) -> String {
    let mut other_config = record.get("other_config").map(Value::as_map).unwrap_or_default();
    other_config.entry("mac_seed".to_owned()).or_insert_with(|| Value::str(uuid::Uuid::new_v4().to_string()));
    record.insert("other_config".to_owned(), Value::Map(other_config));
    let mut metrics = Record::from([
        ("memory_actual".to_owned(), record.get("memory_dynamic_max").cloned().unwrap_or(Value::Int(0))),
        ("VCPUs_number".to_owned(), record.get("VCPUs_at_startup").cloned().unwrap_or(Value::Int(0))),
        ("install_time".to_owned(), Value::now()),
        ("last_updated".to_owned(), Value::now()),
    ]);
    if let Some(kind) = record.get("domain_type") {
        metrics.insert("current_domain_type".to_owned(), kind.clone());
    }
    let metrics = db.create("VM_metrics", metrics);
    record.insert("metrics".to_owned(), Value::str(metrics));
    let vm = db.create("VM", record);
    refresh_vm(db, profile, &vm);
    vm
}

async fn destroy(cx: Cx, args: Args) -> Outcome {
    let vm = args.text(0);
    let running = begin_vm(&cx, &vm, "destroy").await?;
    cx.world.latency(std::time::Duration::from_millis(300)).await;
    cx.world.write(|db| remove(db, &vm));
    drop(running);
    Ok(Value::Void)
}

/// Removes a VM's record and everything that is its own; disks stay. Children move up in the snapshot tree.
pub(crate) fn remove(db: &mut Db, vm: &str) {
    let parent = db.text("VM", vm, "parent");
    for child in db.list("VM", vm, "children") {
        db.set("VM", &child, "parent", Value::str(parent.clone()));
    }
    for (field, class) in
        [("VBDs", "VBD"), ("VIFs", "VIF"), ("consoles", "console"), ("VUSBs", "VUSB"), ("VGPUs", "VGPU")]
    {
        for object in db.list("VM", vm, field) {
            db.delete(class, &object);
        }
    }
    for vtpm in db.list("VM", vm, "VTPMs") {
        super::vtpm::destroy(db, &vtpm);
    }
    let (metrics, guest) = (db.text("VM", vm, "metrics"), db.text("VM", vm, "guest_metrics"));
    db.delete("VM_metrics", &metrics);
    db.delete("VM_guest_metrics", &guest);
    db.delete("VM", vm);
}

async fn provision(cx: Cx, args: Args) -> Outcome {
    let vm = args.text(0);
    let _running = begin_vm(&cx, &vm, "provision").await?;
    cx.world.write(|db| {
        db.set("VM", &vm, "is_a_template", Value::Bool(false));
        db.set("VM", &vm, "is_default_template", Value::Bool(false));
    });
    Ok(Value::Void)
}

async fn set_is_a_template(cx: Cx, args: Args) -> Outcome {
    let (vm, value) = (args.text(0), args.flag(1));
    let profile = cx.world.profile();
    cx.world.write(|db| {
        if value {
            check_vm(db, profile, &vm, "make_into_template")?;
        } else {
            let metrics = db.text("VM", &vm, "metrics");
            db.set("VM_metrics", &metrics, "install_time", Value::now());
        }
        db.set("VM", &vm, "is_a_template", Value::Bool(value));
        refresh_vm(db, profile, &vm);
        Ok(Value::Void)
    })
}

async fn set_bios_strings(cx: Cx, args: Args) -> Outcome {
    let vm = args.text(0);
    cx.world.write(|db| {
        if !db.field("VM", &vm, "bios_strings")?.as_map().is_empty() {
            return Err(Failure::new("VM_BIOS_STRINGS_ALREADY_SET", &[]));
        }
        db.set("VM", &vm, "bios_strings", args.value(1));
        Ok(Value::Void)
    })
}

async fn set_ha_restart_priority(cx: Cx, args: Args) -> Outcome {
    let (vm, value) = (args.text(0), args.text(1));
    if !["", "restart", "best-effort"].contains(&value.as_str()) {
        return Err(Failure::new("INVALID_VALUE", &["ha_restart_priority", &value]));
    }
    cx.world.write(|db| db.set("VM", &vm, "ha_restart_priority", Value::str(value)));
    Ok(Value::Void)
}

async fn set_memory_limits(cx: Cx, args: Args) -> Outcome {
    let vm = args.text(0);
    let (static_min, static_max, dynamic_min, dynamic_max) = (args.int(1), args.int(2), args.int(3), args.int(4));
    if !(static_min <= dynamic_min && dynamic_min <= dynamic_max && dynamic_max <= static_max) {
        return Err(Failure::new("MEMORY_CONSTRAINT_VIOLATION_ORDER", &[]));
    }
    cx.world.write(|db| {
        check_vm(db, cx.world.profile(), &vm, "changing_memory_limits")?;
        for (field, at) in
            [("memory_static_min", 1), ("memory_static_max", 2), ("memory_dynamic_min", 3), ("memory_dynamic_max", 4)]
        {
            db.set("VM", &vm, field, args.value(at));
        }
        Ok(Value::Void)
    })
}

/// Replacing a suspend image is allowed only by the same bytes; here: by itself.
async fn set_suspend_vdi(cx: Cx, args: Args) -> Outcome {
    let (vm, new) = (args.text(0), args.text(1));
    let (state, old) = cx.world.read(|db| (db.text("VM", &vm, "power_state"), db.text("VM", &vm, "suspend_VDI")));
    if state != "Suspended" {
        return Err(Failure::new("VM_BAD_POWER_STATE", &[&vm, "suspended", &state.to_ascii_lowercase()]));
    }
    let (old_disk, new_disk) = (cx.world.disk(&old)?, cx.world.disk(&new)?);
    let same = crate::world::blocking(move || {
        Ok(crate::content::digest(&old_disk)?.sha256 == crate::content::digest(&new_disk)?.sha256)
    });
    if !same.await? {
        return Err(Failure::new("SUSPEND_VDI_REPLACEMENT_IS_NOT_IDENTICAL", &[&old, &new]));
    }
    cx.world.write(|db| db.set("VM", &vm, "suspend_VDI", Value::str(new)));
    Ok(Value::Void)
}

async fn block(cx: Cx, args: Args, name: &'static str) -> Outcome {
    let vm = args.text(0);
    cx.world.write(|db| {
        let key = args.text(1);
        let mut map = db.field("VM", &vm, "blocked_operations")?.as_map();
        match name {
            "set_blocked_operations" => map = args.record(1),
            "add_to_blocked_operations" if map.contains_key(&key) => {
                let uuid = db.uuid("VM", &vm);
                return Err(Failure::new("MAP_DUPLICATE_KEY", &["VM", "blocked_operations", &uuid, &key]));
            }
            "add_to_blocked_operations" => drop(map.insert(key, args.value(2))),
            _ => drop(map.remove(&key)),
        }
        db.set("VM", &vm, "blocked_operations", Value::Map(map));
        refresh_vm(db, cx.world.profile(), &vm);
        Ok(Value::Void)
    })
}

async fn set_halted(cx: Cx, args: Args, name: &'static str) -> Outcome {
    let vm = args.text(0);
    let field = name.trim_start_matches("set_");
    let operation = if field.starts_with("VCPUs") { "changing_VCPUs" } else { "changing_memory_limits" };
    cx.world.write(|db| {
        let known = db.schema().class("VM").and_then(|c| c.field(field)).is_some_and(|f| f.access != Access::Read);
        if !known {
            return Err(Failure::internal(field));
        }
        check_vm(db, cx.world.profile(), &vm, operation)?;
        db.set("VM", &vm, field, args.value(1));
        Ok(Value::Void)
    })
}
