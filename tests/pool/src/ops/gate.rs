//! Whether an operation may start on a VM or VDI: the first failing check, in the order of hosts, is the error.
//!
//! The checks are pure; `begin` waits for busy objects and keeps `current_operations` true while an operation runs.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Profile;
use crate::db::Db;
use crate::rpc::Cx;
use crate::value::{Failure, NULL, Outcome, Value};
use crate::world::World;

/// How long a busy object is waited for before the error.
const BUSY: Duration = Duration::from_secs(120);

/// Operations on VMs that are listed in `allowed_operations`, with the power states that they need (none: any).
const VM_OPERATIONS: &[(&str, &[&str])] = &[
    ("snapshot", &[]),
    ("clone", &["Halted"]),
    ("copy", &["Halted"]),
    ("create_template", &["Halted", "Suspended"]),
    ("revert", &[]),
    ("checkpoint", &["Paused", "Suspended", "Running"]),
    ("provision", &["Halted"]),
    ("start", &["Halted"]),
    ("start_on", &["Halted"]),
    ("pause", &["Running"]),
    ("unpause", &["Paused"]),
    ("clean_shutdown", &["Running"]),
    ("clean_reboot", &["Running"]),
    ("hard_shutdown", &["Paused", "Suspended", "Running"]),
    ("power_state_reset", &[]),
    ("hard_reboot", &["Paused", "Running"]),
    ("suspend", &["Running"]),
    ("resume", &["Suspended"]),
    ("resume_on", &["Suspended"]),
    ("pool_migrate", &["Running"]),
    ("migrate_send", &["Halted", "Suspended", "Running"]),
    ("shutdown", &["Paused", "Suspended", "Running"]),
    ("changing_NVRAM", &["Halted"]),
    ("changing_memory_limits", &["Halted"]),
    ("changing_VCPUs", &["Halted"]),
    ("make_into_template", &["Halted"]),
    ("export", &["Halted", "Suspended"]),
    ("metadata_export", &[]),
    ("destroy", &["Halted", "Suspended"]),
    ("create_vtpm", &["Halted"]),
];

/// What a template allows.
const ON_TEMPLATES: &[&str] = &["clone", "copy", "export", "metadata_export", "provision", "destroy", "migrate_send"];
/// What a snapshot allows.
const ON_SNAPSHOTS: &[&str] = &["revert", "clone", "copy", "export", "destroy", "hard_shutdown", "metadata_export"];

/// Operations that may overlap within one of these groups.
const OVERLAPPING: &[&[&str]] = &[&["clone", "copy", "export"], &["snapshot", "checkpoint"]];

/// Whether `operation` may start on `vm`.
pub(crate) fn check_vm(db: &Db, profile: Profile, vm: &str, operation: &str) -> Outcome<()> {
    let record = db.record("VM", vm)?;
    if let Some(reason) = db.entry("VM", vm, "blocked_operations", operation) {
        return Err(Failure::new("OPERATION_BLOCKED", &[vm, &reason]));
    }
    let snapshot = db.flag("VM", vm, "is_a_snapshot");
    let state = db.text("VM", vm, "power_state");
    let mut needed: Vec<&str> =
        VM_OPERATIONS.iter().find(|(name, _)| *name == operation).map(|(_, s)| s.to_vec()).unwrap_or_default();
    if snapshot && ["clone", "copy"].contains(&operation) {
        needed.push("Suspended");
    }
    if !needed.is_empty() && !needed.contains(&state.as_str()) {
        let expected = needed.join(", ").to_ascii_lowercase();
        return Err(Failure::new("VM_BAD_POWER_STATE", &[vm, &expected, &state.to_ascii_lowercase()]));
    }
    let current = record.get("current_operations").map(Value::as_map).unwrap_or_default();
    let overrides = ["hard_shutdown", "hard_reboot"].contains(&operation);
    let conflicts = |running: &Value| {
        !OVERLAPPING.iter().any(|group| group.contains(&operation) && group.contains(&running.as_str()))
    };
    if !overrides && let Some((task, running)) = current.iter().find(|(_, running)| conflicts(running)) {
        return Err(busy(profile, "VM", vm, running.as_str(), task));
    }
    let free_on_any = operation.starts_with("changing_") || operation == "power_state_reset";
    if db.flag("VM", vm, "is_a_template") && !snapshot && !free_on_any {
        let default = db.flag("VM", vm, "is_default_template") && ["destroy", "migrate_send"].contains(&operation);
        if operation == "destroy" && default {
            return Err(Failure::new("VM_CANNOT_DELETE_DEFAULT_TEMPLATE", &[vm]));
        }
        if !ON_TEMPLATES.contains(&operation) || default {
            return Err(Failure::new("VM_IS_TEMPLATE", &[vm, operation]));
        }
    }
    if snapshot && !ON_SNAPSHOTS.contains(&operation) && !free_on_any {
        return Err(Failure::new("VM_IS_SNAPSHOT", &[vm, operation]));
    }
    if operation == "provision" && !db.flag("VM", vm, "is_a_template") {
        return Err(Failure::new("PROVISION_ONLY_ALLOWED_ON_TEMPLATE", &[]));
    }
    if operation == "revert" && !snapshot {
        return Err(Failure::new("REVERT_ONLY_ALLOWED_ON_SNAPSHOT", &[]));
    }
    if db.flag("VM", vm, "is_control_domain") {
        return Err(Failure::new("OPERATION_NOT_ALLOWED", &["This operation is not allowed on dom0"]));
    }
    if !db.list("VM", vm, "VUSBs").is_empty() && ["snapshot", "checkpoint", "suspend"].contains(&operation) {
        return Err(Failure::new("VM_HAS_VUSBS", &[vm]));
    }
    Ok(())
}

fn busy(profile: Profile, class: &str, object: &str, operation: &str, task: &str) -> Failure {
    match profile {
        Profile::V8_2 => Failure::new("OTHER_OPERATION_IN_PROGRESS", &[class, object]),
        Profile::V8_3 => Failure::new("OTHER_OPERATION_IN_PROGRESS", &[class, object, operation, task]),
    }
}

/// Brings `allowed_operations` of a VM up to date.
pub(crate) fn refresh_vm(db: &mut Db, profile: Profile, vm: &str) {
    if !db.exists("VM", vm) || db.flag("VM", vm, "is_control_domain") {
        return;
    }
    let allowed = VM_OPERATIONS.iter().map(|(op, _)| *op).filter(|op| check_vm(db, profile, vm, op).is_ok());
    let allowed = Value::set(allowed.collect::<Vec<_>>());
    db.set("VM", vm, "allowed_operations", allowed);
}

/// Operations on a VDI that an attached one allows.
const WHILE_ATTACHED: &[&str] =
    &["snapshot", "clone", "resize_online", "mirror", "enable_cbt", "disable_cbt", "data_destroy"];
/// What is left of a VDI whose data were destroyed.
const ON_CBT_METADATA: &[&str] = &["destroy", "data_destroy", "list_changed_blocks", "forget", "update"];

/// Whether `operation` may start on `vdi`.
pub(crate) fn check_vdi(db: &Db, profile: Profile, vdi: &str, operation: &str) -> Outcome<()> {
    db.record("VDI", vdi)?;
    let sr = db.text("VDI", vdi, "SR");
    if !db.flag("VDI", vdi, "managed") && operation != "copy" {
        return Err(Failure::new("VDI_NOT_MANAGED", &[vdi]));
    }
    if db.flag("VDI", vdi, "missing") && operation != "forget" {
        return Err(Failure::new("VDI_MISSING", &[&sr, vdi]));
    }
    let own = db.field("VDI", vdi, "current_operations")?.as_map();
    if operation != "copy"
        && let Some((task, running)) = own.iter().next()
    {
        return Err(busy(profile, "VDI", vdi, running.as_str(), task));
    }
    let vbds = db.list("VDI", vdi, "VBDs");
    for vbd in &vbds {
        if let Some((task, running)) = db.field("VBD", vbd, "current_operations")?.as_map().iter().next() {
            return Err(busy(profile, "VDI", vdi, running.as_str(), task));
        }
    }
    let attached: Vec<&String> = vbds.iter().filter(|vbd| db.flag("VBD", vbd, "currently_attached")).collect();
    let read_only = attached.iter().all(|vbd| db.text("VBD", vbd, "mode") == "RO");
    let only_snapshots = attached.iter().all(|vbd| db.flag("VM", &db.text("VBD", vbd, "VM"), "is_a_snapshot"));
    let fits = WHILE_ATTACHED.contains(&operation)
        || (operation == "copy" && read_only)
        || (operation == "list_changed_blocks" && only_snapshots);
    if !attached.is_empty() && !fits {
        return Err(Failure::new("VDI_IN_USE", &[vdi, operation]));
    }
    let kind = db.text("VDI", vdi, "type");
    if kind == "cbt_metadata" && !ON_CBT_METADATA.contains(&operation) {
        return Err(Failure::new("VDI_INCOMPATIBLE_TYPE", &[vdi, &kind]));
    }
    let snapshot = db.flag("VDI", vdi, "is_a_snapshot");
    match operation {
        "data_destroy" if !snapshot => {
            return Err(Failure::new("OPERATION_NOT_ALLOWED", &[&format!("VDI is not a snapshot: {vdi}")]));
        }
        "data_destroy" if !db.flag("VDI", vdi, "cbt_enabled") => {
            return Err(Failure::new("VDI_NO_CBT_METADATA", &[vdi]));
        }
        "enable_cbt" | "disable_cbt" if snapshot => {
            return Err(Failure::new("OPERATION_NOT_ALLOWED", &[&format!("VDI is a snapshot: {vdi}")]));
        }
        "enable_cbt" if !["user", "system"].contains(&kind.as_str()) => {
            return Err(Failure::new("VDI_INCOMPATIBLE_TYPE", &[vdi, &kind]));
        }
        "enable_cbt" if db.text("VDI", vdi, "on_boot") != "persist" => {
            return Err(Failure::new("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION", &[]));
        }
        "mirror" | "pool_migrate" if db.flag("VDI", vdi, "cbt_enabled") => {
            return Err(Failure::new("VDI_CBT_ENABLED", &[vdi]));
        }
        "snapshot" | "clone" | "enable_cbt" | "disable_cbt" | "data_destroy" | "list_changed_blocks" => {
            check_feature(db, &sr, operation)?;
        }
        _ => {}
    }
    check_attached_sr(db, &sr)
}

fn check_feature(db: &Db, sr: &str, operation: &str) -> Outcome<()> {
    let feature = match operation {
        "snapshot" => "VDI_SNAPSHOT",
        "clone" => "VDI_CLONE",
        _ => "VDI_CONFIG_CBT",
    };
    if sr_features(db, sr).iter().any(|f| f == feature) {
        return Ok(());
    }
    Err(Failure::new("SR_OPERATION_NOT_SUPPORTED", &[sr]))
}

/// What the driver of an SR can do.
pub(crate) fn sr_features(db: &Db, sr: &str) -> Vec<String> {
    let kind = db.text("SR", sr, "type");
    let driver = db.rows("SM").find(|(_, sm)| sm.get("type").is_some_and(|t| t.as_str() == kind));
    driver.and_then(|(_, sm)| sm.get("features")).map(|f| f.as_map().into_keys().collect()).unwrap_or_default()
}

/// The SR must be plugged somewhere.
pub(crate) fn check_attached_sr(db: &Db, sr: &str) -> Outcome<()> {
    let pbds = db.list("SR", sr, "PBDs");
    if pbds.is_empty() {
        return Err(Failure::new("SR_HAS_NO_PBDS", &[sr]));
    }
    if !pbds.iter().any(|pbd| db.flag("PBD", pbd, "currently_attached")) {
        return Err(Failure::new("SR_NOT_ATTACHED", &[sr]));
    }
    Ok(())
}

/// An operation that runs: listed in `current_operations` until dropped.
#[derive(Debug)]
pub(crate) struct Running {
    world: Arc<World>,
    class: &'static str,
    object: String,
    key: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let profile = self.world.profile();
        self.world.write(|db| {
            db.take(self.class, &self.object, "current_operations", &self.key);
            if self.class == "VM" {
                refresh_vm(db, profile, &self.object);
            }
        });
    }
}

/// Starts an operation on a VM; a busy one is waited for.
pub(crate) async fn begin_vm(cx: &Cx, vm: &str, operation: &str) -> Outcome<Running> {
    begin(cx, "VM", vm, operation, check_vm).await
}

/// Starts an operation on a VDI; a busy one is waited for.
pub(crate) async fn begin_vdi(cx: &Cx, vdi: &str, operation: &str) -> Outcome<Running> {
    begin(cx, "VDI", vdi, operation, check_vdi).await
}

async fn begin(
    cx: &Cx,
    class: &'static str,
    object: &str,
    operation: &str,
    check: fn(&Db, Profile, &str, &str) -> Outcome<()>,
) -> Outcome<Running> {
    let profile = cx.world.profile();
    let deadline = tokio::time::Instant::now() + cx.world.config.scaled(BUSY);
    let mut changes = cx.world.changes();
    loop {
        changes.mark_unchanged();
        let begun: Outcome<()> = cx.world.write(|db| {
            check(db, profile, object, operation)?;
            db.put(class, object, "current_operations", &cx.task, operation);
            if class == "VM" {
                refresh_vm(db, profile, object);
            }
            Ok(())
        });
        match begun {
            Ok(()) => {
                let (world, object, key) = (Arc::clone(&cx.world), object.to_owned(), cx.task.clone());
                return Ok(Running { world, class, object, key });
            }
            Err(failure) if failure.code == "OTHER_OPERATION_IN_PROGRESS" => {
                if tokio::time::Instant::now() >= deadline {
                    return Err(failure);
                }
                tokio::select! {
                    _ = changes.changed() => {}
                    () = tokio::time::sleep_until(deadline) => {}
                    () = cx.cancel.cancelled() => return cx.checkpoint().and(Err(failure)),
                }
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Whether a reference means anything.
pub(crate) fn is_set(reference: &str) -> bool {
    !reference.is_empty() && reference != NULL
}
