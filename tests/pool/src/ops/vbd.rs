//! VBD calls: attaching disks and CDs to VMs, dom0 included.

use std::time::Duration;

use super::disks::refresh_vdi;
use super::gate::{check_attached_sr, is_set, refresh_vm};
use super::vdi::{mandatory, only};
use crate::config::Profile;
use crate::db::Db;
use crate::rpc::{Args, Cx, Methods};
use crate::value::{Failure, Outcome, Value};
use crate::world::World;

/// Attaching or detaching a disk.
const PLUG: Duration = Duration::from_millis(800);

pub(super) fn enter(table: &mut Methods) {
    table.add("VBD.create", "record:rec(VBD)", create);
    table.add("VBD.destroy", "self:ref(VBD)", destroy);
    table.add("VBD.plug", "self:ref(VBD)", plug);
    table.add("VBD.unplug", "self:ref(VBD)", unplug);
    table.add("VBD.unplug_force", "self:ref(VBD)", unplug);
    table.add("VBD.insert", "vbd:ref(VBD) vdi:ref(VDI)", insert);
    table.add("VBD.eject", "vbd:ref(VBD)", eject);
    table.add("VBD.set_mode", "self:ref(VBD) value:string", set_mode);
    table.add("VM.get_allowed_VBD_devices", "vm:ref(VM)", allowed_devices);
}

/// Device numbers that a VM has free.
pub(crate) fn free_devices(db: &Db, vm: &str) -> Vec<String> {
    let used: Vec<String> = db.list("VM", vm, "VBDs").iter().map(|vbd| db.text("VBD", vbd, "userdevice")).collect();
    (0..255).map(|n| n.to_string()).filter(|n| !used.contains(n)).collect()
}

/// `xvda` for 0; numbers beyond the alphabet as guests see them.
pub(crate) fn device_name(userdevice: &str) -> String {
    let Ok(number) = userdevice.parse::<u8>() else { return userdevice.to_owned() };
    let letter = |n: u8| char::from(b'a' + n % 26);
    match number {
        0..26 => format!("xvd{}", letter(number)),
        _ => format!("xvd{}{}", letter(number / 26 - 1), letter(number)),
    }
}

async fn create(cx: Cx, args: Args) -> Outcome {
    let record = args.record(0);
    let needed = [
        "VM",
        "VDI",
        "userdevice",
        "bootable",
        "mode",
        "type",
        "empty",
        "other_config",
        "qos_algorithm_type",
        "qos_algorithm_params",
    ];
    mandatory(&record, &needed)?;
    let mut keys = needed.to_vec();
    keys.push("unpluggable");
    if cx.world.profile() == Profile::V8_3 {
        keys.extend(["device", "currently_attached"]);
    }
    let mut record = only(record, &keys);
    let text = |key: &str| record.get(key).map(|v| v.as_str().to_owned()).unwrap_or_default();
    let (vm, vdi, mode, kind) = (text("VM"), text("VDI"), text("mode"), text("type"));
    let mut userdevice = text("userdevice");
    let (given_device, attached) = (text("device"), record.get("currently_attached").is_some_and(Value::as_bool));
    let empty = record.get("empty").is_some_and(Value::as_bool);
    let made = cx.world.write(|db| -> Outcome<String> {
        db.record("VM", &vm)?;
        let free = free_devices(db, &vm);
        if userdevice == "autodetect" {
            userdevice = free.first().cloned().ok_or_else(|| Failure::new("INVALID_DEVICE", &["autodetect"]))?;
        } else if userdevice.parse::<u8>().map_or(true, |n| n > 254) {
            return Err(Failure::new("INVALID_DEVICE", &[&userdevice]));
        } else if !free.contains(&userdevice) {
            return Err(Failure::new("DEVICE_ALREADY_EXISTS", &[&userdevice]));
        }
        if kind == "CD" && mode != "RO" {
            return Err(Failure::new("VBD_CDS_MUST_BE_READONLY", &[]));
        }
        if kind != "CD" && empty {
            return Err(Failure::new("VBD_NOT_REMOVABLE_MEDIA", &[&vm]));
        }
        if !empty {
            db.record("VDI", &vdi)?;
            let vdi_type = db.text("VDI", &vdi, "type");
            if vdi_type == "cbt_metadata" {
                return Err(Failure::new("VDI_INCOMPATIBLE_TYPE", &[&vdi, &vdi_type]));
            }
            if !db.flag("VDI", &vdi, "managed") {
                return Err(Failure::new("VDI_NOT_MANAGED", &[&vdi]));
            }
            if mode != "RO" && db.flag("VDI", &vdi, "read_only") {
                return Err(Failure::new("VDI_READONLY", &[&vdi]));
            }
        }
        let suspended = db.text("VM", &vm, "power_state") == "Suspended";
        let device = if suspended && !given_device.is_empty() { given_device.clone() } else { String::new() };
        record.insert("device".to_owned(), Value::str(device));
        record.insert("currently_attached".to_owned(), Value::Bool(suspended && attached));
        record.insert("userdevice".to_owned(), Value::str(userdevice.clone()));
        record.insert("allowed_operations".to_owned(), Value::set(["attach"]));
        Ok(db.create("VBD", record.clone()))
    })?;
    Ok(Value::str(made))
}

async fn destroy(cx: Cx, args: Args) -> Outcome {
    let vbd = args.text(0);
    cx.world.write(|db| {
        if db.flag("VBD", &vbd, "currently_attached")
            && db.text("VM", &db.text("VBD", &vbd, "VM"), "power_state") == "Running"
        {
            return Err(Failure::new("OPERATION_NOT_ALLOWED", &["VBD is still attached"]));
        }
        let vdi = db.text("VBD", &vbd, "VDI");
        db.delete("VBD", &vbd);
        refresh_vdi(db, &vdi);
        Ok(Value::Void)
    })
}

/// Whether a VBD's disk can be attached: not when somebody else holds it writable, or holds it and writes are wanted.
pub(crate) fn check_attach(db: &Db, vbd: &str) -> Outcome<()> {
    let vdi = db.text("VBD", vbd, "VDI");
    if !is_set(&vdi) {
        return Ok(());
    }
    check_attached_sr(db, &db.text("VDI", &vdi, "SR"))?;
    if db.flag("VDI", &vdi, "sharable") {
        return Ok(());
    }
    let writable = db.text("VBD", vbd, "mode") == "RW";
    let clash = |other: &String| {
        other != vbd
            && db.flag("VBD", other, "currently_attached")
            && (writable || db.text("VBD", other, "mode") == "RW")
    };
    if db.list("VDI", &vdi, "VBDs").iter().any(clash) {
        return Err(Failure::new("VDI_IN_USE", &[&vdi, "attach"]));
    }
    Ok(())
}

/// Attaches or detaches in the records.
pub(crate) fn set_attached(db: &mut Db, vbd: &str, attached: bool) {
    let device = if attached { device_name(&db.text("VBD", vbd, "userdevice")) } else { String::new() };
    let vdi = db.text("VBD", vbd, "VDI");
    db.set("VBD", vbd, "device", Value::str(device));
    db.set("VBD", vbd, "currently_attached", Value::Bool(attached));
    let allowed = if attached { vec!["unplug", "unplug_force", "pause", "unpause"] } else { vec!["attach", "plug"] };
    db.set("VBD", vbd, "allowed_operations", Value::set(allowed));
    if is_set(&vdi) {
        refresh_vdi(db, &vdi);
    }
}

async fn plug(cx: Cx, args: Args) -> Outcome {
    let vbd = args.text(0);
    let userdevice = cx.world.read(|db| {
        let vm = db.text("VBD", &vbd, "VM");
        let state = db.text("VM", &vm, "power_state");
        if state != "Running" {
            return Err(Failure::new("VM_BAD_POWER_STATE", &[&vm, "running", &state.to_ascii_lowercase()]));
        }
        Ok(db.text("VBD", &vbd, "userdevice"))
    })?;
    if cx.world.read(|db| db.flag("VBD", &vbd, "currently_attached")) {
        return Err(Failure::new("DEVICE_ALREADY_ATTACHED", &[&userdevice]));
    }
    cx.world.latency(PLUG).await;
    cx.world.write(|db| {
        check_attach(db, &vbd)?;
        set_attached(db, &vbd, true);
        Ok(Value::Void)
    })
}

async fn unplug(cx: Cx, args: Args) -> Outcome {
    let vbd = args.text(0);
    detach(&cx.world, &vbd).await.map(|()| Value::Void)
}

/// Unplugs a VBD.
pub(crate) async fn detach(world: &World, vbd: &str) -> Outcome<()> {
    world.read(|db| {
        if !db.flag("VBD", vbd, "currently_attached") {
            return Err(Failure::new("DEVICE_ALREADY_DETACHED", &[&db.text("VBD", vbd, "userdevice")]));
        }
        Ok(())
    })?;
    world.latency(PLUG).await;
    world.write(|db| set_attached(db, vbd, false));
    Ok(())
}

async fn insert(cx: Cx, args: Args) -> Outcome {
    let (vbd, vdi) = (args.text(0), args.text(1));
    cx.world.write(|db| {
        if db.text("VBD", &vbd, "type") != "CD" {
            return Err(Failure::new("VBD_NOT_REMOVABLE_MEDIA", &[&vbd]));
        }
        if !db.flag("VBD", &vbd, "empty") {
            return Err(Failure::new("VBD_NOT_EMPTY", &[&vbd]));
        }
        db.set("VBD", &vbd, "VDI", Value::str(vdi.clone()));
        db.set("VBD", &vbd, "empty", Value::Bool(false));
        Ok(Value::Void)
    })
}

async fn eject(cx: Cx, args: Args) -> Outcome {
    let vbd = args.text(0);
    cx.world.write(|db| {
        if db.text("VBD", &vbd, "type") != "CD" {
            return Err(Failure::new("VBD_NOT_REMOVABLE_MEDIA", &[&vbd]));
        }
        if db.flag("VBD", &vbd, "empty") {
            return Err(Failure::new("VBD_IS_EMPTY", &[&vbd]));
        }
        db.set("VBD", &vbd, "VDI", Value::null());
        db.set("VBD", &vbd, "empty", Value::Bool(true));
        Ok(Value::Void)
    })
}

async fn set_mode(cx: Cx, args: Args) -> Outcome {
    let (vbd, mode) = (args.text(0), args.text(1));
    cx.world.write(|db| {
        if mode == "RW" && db.flag("VDI", &db.text("VBD", &vbd, "VDI"), "read_only") {
            return Err(Failure::new("VDI_READONLY", &[&db.text("VBD", &vbd, "VDI")]));
        }
        db.set("VBD", &vbd, "mode", Value::str(mode.clone()));
        let profile = cx.world.profile();
        let vm = db.text("VBD", &vbd, "VM");
        refresh_vm(db, profile, &vm);
        Ok(Value::Void)
    })
}

async fn allowed_devices(cx: Cx, args: Args) -> Outcome {
    Ok(cx.world.read(|db| Value::set(free_devices(db, &args.text(0)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_guests_see_them() {
        for (number, name) in [("0", "xvda"), ("25", "xvdz"), ("26", "xvdaa"), ("52", "xvdba"), ("hda", "hda")] {
            assert_eq!(device_name(number), name);
        }
    }
}
