//! Snapshot, checkpoint, clone, copy and revert of VMs: one disk after the other, undone when one of them fails.

use std::time::Duration;

use super::gate::{begin_vm, is_set, refresh_vm};
use super::{disks, power, vm, vtpm};
use crate::config::Profile;
use crate::db::Db;
use crate::rpc::{Args, Cx, Methods};
use crate::value::{NULL, Outcome, Record, Value};

/// What a VM's record work costs beside its disks.
const RECORDS: Duration = Duration::from_millis(300);

/// Fields of a VM that are its own and never copied.
const OWN: [&str; 30] = [
    "uuid",
    "allowed_operations",
    "current_operations",
    "blocked_operations",
    "snapshots",
    "snapshot_of",
    "snapshot_time",
    "snapshot_info",
    "snapshot_metadata",
    "parent",
    "children",
    "VBDs",
    "VIFs",
    "VTPMs",
    "VUSBs",
    "VGPUs",
    "attached_PCIs",
    "consoles",
    "crash_dumps",
    "metrics",
    "guest_metrics",
    "resident_on",
    "domid",
    "appliance",
    "is_a_snapshot",
    "is_default_template",
    "is_control_domain",
    "suspend_VDI",
    "power_state",
    "blobs",
];

pub(super) fn enter(table: &mut Methods) {
    let signature = match table.profile() {
        Profile::V8_2 => "vm:ref(VM) new_name:string",
        Profile::V8_3 => "vm:ref(VM) new_name:string ignore_vdis:set(ref(VDI))=[]",
    };
    table.add_cancellable("VM.snapshot", signature, |cx, args| async move {
        let ignored = args.strings(2);
        snapshot(&cx, &args.text(0), &args.text(1), &ignored, false).await.map(Value::Str)
    });
    table.add_cancellable("VM.checkpoint", "vm:ref(VM) new_name:string", |cx, args| async move {
        snapshot(&cx, &args.text(0), &args.text(1), &[], true).await.map(Value::Str)
    });
    table.add_cancellable("VM.clone", "vm:ref(VM) new_name:string", |cx, args| async move {
        duplicate(&cx, &args.text(0), &args.text(1), None).await.map(Value::Str)
    });
    table.add_cancellable("VM.copy", "vm:ref(VM) new_name:string sr:ref(SR)", |cx, args| async move {
        let sr = args.text(2);
        duplicate(&cx, &args.text(0), &args.text(1), Some(sr)).await.map(Value::Str)
    });
    table.add("VM.revert", "snapshot:ref(VM)", revert);
}

/// Destroys the disks made so far when dropped before [`keep`](Self::keep): also when the call was abandoned.
struct Undo<'a> {
    cx: &'a Cx,
    made: Vec<String>,
}

impl Undo<'_> {
    async fn undo(self) {
        for vdi in &self.made {
            if let Err(failure) = disks::destroy(self.cx, vdi).await {
                tracing::warn!(vdi, %failure, "a disk of a failed snapshot is left behind");
            }
        }
    }
}

async fn snapshot(cx: &Cx, source: &str, name: &str, ignored: &[String], checkpoint: bool) -> Outcome<String> {
    let running = begin_vm(cx, source, if checkpoint { "checkpoint" } else { "snapshot" }).await?;
    let lock = cx.world.vm_lock(source);
    let _one_at_a_time = lock.lock().await;
    let _counted = cx.world.tally.snapshot();
    let state = cx.world.read(|db| db.text("VM", source, "power_state"));
    let was_running = checkpoint && state != "Suspended";
    if was_running {
        power::write_suspend_image(cx, source).await?;
    }
    let made = snapshot_disks(cx, source, name, ignored, checkpoint).await;
    if was_running {
        power::drop_suspend_image(cx, source).await;
    }
    let made = made?;
    let uuid = cx.world.read(|db| db.uuid("VM", source));
    super::post_message(&cx.world, if checkpoint { "VM_CHECKPOINTED" } else { "VM_SNAPSHOTTED" }, 5, "VM", &uuid, "");
    drop(running);
    Ok(made)
}

async fn snapshot_disks(cx: &Cx, source: &str, name: &str, ignored: &[String], checkpoint: bool) -> Outcome<String> {
    let mut undo = Undo { cx, made: Vec::new() };
    let pairs = match copy_disks(cx, source, ignored, &mut undo, None, true).await {
        Ok(pairs) => pairs,
        Err(failure) => {
            undo.undo().await;
            return Err(failure);
        }
    };
    let image = cx.world.read(|db| db.text("VM", source, "suspend_VDI"));
    let suspend_vdi = if checkpoint && is_set(&image) {
        match disks::snapshot(cx, &image).await {
            Ok(vdi) => vdi,
            Err(failure) => {
                undo.undo().await;
                return Err(failure);
            }
        }
    } else {
        NULL.to_owned()
    };
    cx.world.latency(RECORDS).await;
    let profile = cx.world.profile();
    cx.world.write(|db| {
        let state = db.text("VM", source, "power_state");
        let mut record = copied(db, source)?;
        record.insert("name_label".to_owned(), Value::str(name));
        record.insert("is_a_template".to_owned(), Value::Bool(true));
        record.insert("is_a_snapshot".to_owned(), Value::Bool(true));
        record.insert("snapshot_of".to_owned(), Value::str(source));
        record.insert("snapshot_time".to_owned(), Value::now());
        let info = [("power-state-at-snapshot", state.as_str()), ("disk-snapshot-type", "crash_consistent")];
        record.insert("snapshot_info".to_owned(), Value::map(info));
        record.insert("snapshot_metadata".to_owned(), Value::str(metadata(db, source)));
        record.insert("parent".to_owned(), Value::str(db.text("VM", source, "parent")));
        record.insert("power_state".to_owned(), Value::str(if checkpoint { "Suspended" } else { "Halted" }));
        record.insert("suspend_VDI".to_owned(), Value::str(suspend_vdi.clone()));
        let made = finish(db, profile, source, record, &pairs, true, checkpoint);
        db.set("VM", source, "parent", Value::str(made.clone()));
        Ok(made)
    })
}

/// Copies each disk of a VM: by snapshot, by clone, or in full to an SR. CDs are shared. Answers pairs of the
/// source's VBD and the copy's VDI.
async fn copy_disks(
    cx: &Cx,
    source: &str,
    ignored: &[String],
    undo: &mut Undo<'_>,
    full: Option<&str>,
    snapshot: bool,
) -> Outcome<Vec<(String, String)>> {
    let (vbds, disks) = cx.world.read(|db| (db.list("VM", source, "VBDs"), disks::of_vm(db, source)));
    let mut pairs = Vec::new();
    let count = disks.len().max(1);
    for (at, (vbd, vdi)) in disks.iter().enumerate() {
        if ignored.contains(vdi) {
            continue;
        }
        cx.checkpoint()?;
        let made = match full {
            Some(sr) => {
                let own = cx.world.read(|db| db.text("VDI", vdi, "SR"));
                disks::copy(cx, vdi, if is_set(sr) { sr } else { &own }, NULL, NULL).await?
            }
            None if snapshot => disks::snapshot(cx, vdi).await?,
            None => disks::clone(cx, vdi).await?,
        };
        undo.made.push(made.clone());
        pairs.push((vbd.clone(), made));
        #[expect(clippy::cast_precision_loss, reason = "a share for display")]
        cx.progress(at as f64 / count as f64);
    }
    cx.world.read(|db| {
        for vbd in vbds.iter().filter(|vbd| db.text("VBD", vbd, "type") == "CD") {
            pairs.push((vbd.clone(), db.text("VBD", vbd, "VDI")));
        }
    });
    Ok(pairs)
}

/// The fields that a copy takes over.
fn copied(db: &Db, source: &str) -> Outcome<Record> {
    let mut record = db.record("VM", source)?.clone();
    record.retain(|field, _| !OWN.contains(&field.as_str()));
    if !db.text("VM", source, "generation_id").is_empty() {
        let (one, two) = (rand::random::<i64>(), rand::random::<i64>());
        record.insert("generation_id".to_owned(), Value::str(format!("{one}:{two}")));
    }
    Ok(record)
}

/// The source's record as an s-expression, opaque to everybody.
fn metadata(db: &Db, vm: &str) -> String {
    let Ok(record) = db.record("VM", vm) else { return String::new() };
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let pairs = record.iter().map(|(field, value)| {
        let text = match value {
            Value::Str(text) => text.clone(),
            other => other.to_json().to_string(),
        };
        format!("('{field}' '{}')", escaped(&text))
    });
    format!("({})", pairs.collect::<Vec<_>>().join(" "))
}

/// Makes the records of a copy: VM, VBDs, VIFs, VTPMs, metrics.
fn finish(
    db: &mut Db,
    profile: Profile,
    source: &str,
    mut record: Record,
    pairs: &[(String, String)],
    snapshot: bool,
    checkpoint: bool,
) -> String {
    let clone_of = |db: &mut Db, class: &str, field: &str| {
        let from = db.text("VM", source, field);
        let mut record = db.record(class, &from).cloned().unwrap_or_default();
        record.remove("uuid");
        if is_set(&from) { db.create(class, record) } else { NULL.to_owned() }
    };
    let metrics = clone_of(db, "VM_metrics", "metrics");
    record.insert("metrics".to_owned(), Value::str(metrics));
    if snapshot {
        let guest = clone_of(db, "VM_guest_metrics", "guest_metrics");
        record.insert("guest_metrics".to_owned(), Value::str(guest));
    }
    let made = db.create("VM", record);
    for (vbd, vdi) in pairs {
        let Ok(mut record) = db.record("VBD", vbd).cloned() else { continue };
        let keep_attached = checkpoint && record.get("currently_attached").is_some_and(Value::as_bool);
        for own in ["uuid", "current_operations", "allowed_operations", "metrics", "runtime_properties"] {
            record.remove(own);
        }
        if !keep_attached {
            record.remove("device");
        }
        let mut other_config = record.get("other_config").map(Value::as_map).unwrap_or_default();
        if record.get("type").is_none_or(|t| t.as_str() != "CD") {
            other_config.entry("owner".to_owned()).or_insert_with(|| Value::str(""));
        }
        record.insert("other_config".to_owned(), Value::Map(other_config));
        record.insert("currently_attached".to_owned(), Value::Bool(keep_attached));
        record.insert("VM".to_owned(), Value::str(made.clone()));
        record.insert("VDI".to_owned(), Value::str(vdi.clone()));
        db.create("VBD", record);
    }
    let seed = db.entry("VM", &made, "other_config", "mac_seed").unwrap_or_default();
    for vif in db.list("VM", source, "VIFs") {
        let Ok(mut record) = db.record("VIF", &vif).cloned() else { continue };
        for own in ["uuid", "current_operations", "allowed_operations", "metrics", "runtime_properties"] {
            record.remove(own);
        }
        if !snapshot {
            let device = record.get("device").map(|v| v.as_str().to_owned()).unwrap_or_default();
            record.insert("MAC".to_owned(), Value::str(super::derive_mac(&seed, &device)));
            record.insert("MAC_autogenerated".to_owned(), Value::Bool(true));
        }
        let keep_attached = checkpoint && record.get("currently_attached").is_some_and(Value::as_bool);
        record.insert("currently_attached".to_owned(), Value::Bool(keep_attached));
        record.insert("VM".to_owned(), Value::str(made.clone()));
        db.create("VIF", record);
    }
    vtpm::copy(db, source, &made);
    refresh_vm(db, profile, &made);
    made
}

async fn duplicate(cx: &Cx, source: &str, name: &str, full: Option<String>) -> Outcome<String> {
    let running = begin_vm(cx, source, if full.is_some() { "copy" } else { "clone" }).await?;
    let mut undo = Undo { cx, made: Vec::new() };
    let pairs = match copy_disks(cx, source, &[], &mut undo, full.as_deref(), false).await {
        Ok(pairs) => pairs,
        Err(failure) => {
            undo.undo().await;
            return Err(failure);
        }
    };
    let profile = cx.world.profile();
    let made = cx.world.write(|db| -> Outcome<String> {
        let mut record = copied(db, source)?;
        let mut other_config = record.get("other_config").map(Value::as_map).unwrap_or_default();
        other_config.insert("mac_seed".to_owned(), Value::str(uuid::Uuid::new_v4().to_string()));
        record.insert("other_config".to_owned(), Value::Map(other_config));
        record.insert("name_label".to_owned(), Value::str(name));
        Ok(finish(db, profile, source, record, &pairs, false, false))
    })?;
    drop(running);
    Ok(made)
}

async fn revert(cx: Cx, args: Args) -> Outcome {
    let snapshot = args.text(0);
    let _reverting = begin_vm(&cx, &snapshot, "revert").await?;
    let live = cx.world.read(|db| db.text("VM", &snapshot, "snapshot_of"));
    if !is_set(&live) {
        return Err(crate::value::Failure::new("VM_REVERT_FAILED", &[NULL, &snapshot]));
    }
    let lock = cx.world.vm_lock(&live);
    let _one_at_a_time = lock.lock().await;
    if cx.world.read(|db| db.text("VM", &live, "power_state")) != "Halted" {
        power::halt(&cx.world, &live);
    }
    let old: Vec<(String, String)> = cx.world.read(|db| disks::of_vm(db, &live));
    let mut undo = Undo { cx: &cx, made: Vec::new() };
    let pairs = match copy_disks(&cx, &snapshot, &[], &mut undo, None, false).await {
        Ok(pairs) => pairs,
        Err(failure) => {
            undo.undo().await;
            return Err(failure);
        }
    };
    for (_, vdi) in &old {
        disks::destroy(&cx, vdi).await?;
    }
    let profile = cx.world.profile();
    cx.world.write(|db| {
        let fields = copied(db, &snapshot)?;
        for (field, value) in fields.into_iter().filter(|(f, _)| f != "is_a_template" && f != "name_label") {
            db.set("VM", &live, &field, value);
        }
        for (class, set) in [("VBD", "VBDs"), ("VIF", "VIFs")] {
            for object in db.list("VM", &live, set) {
                db.delete(class, &object);
            }
        }
        for (vbd, vdi) in &pairs {
            attach_copy(db, "VBD", vbd, &live, Some(vdi));
        }
        for vif in db.list("VM", &snapshot, "VIFs") {
            attach_copy(db, "VIF", &vif, &live, None);
        }
        db.set("VM", &live, "parent", Value::str(snapshot.clone()));
        refresh_vm(db, profile, &live);
        Ok(Value::Void)
    })
}

fn attach_copy(db: &mut Db, class: &str, from: &str, vm: &str, vdi: Option<&str>) {
    let Ok(mut record) = db.record(class, from).cloned() else { return };
    for own in ["uuid", "current_operations", "allowed_operations", "metrics"] {
        record.remove(own);
    }
    record.insert("VM".to_owned(), Value::str(vm));
    record.insert("currently_attached".to_owned(), Value::Bool(false));
    if let Some(vdi) = vdi {
        record.insert("VDI".to_owned(), Value::str(vdi));
    }
    db.create(class, record);
}

/// Removes the disks that belong to a VM along with its records, whatever its state: for the control interface.
pub(crate) async fn destroy_with_disks(cx: &Cx, target: &str) -> Outcome<()> {
    power::halt(&cx.world, target);
    let snapshots = cx.world.read(|db| db.list("VM", target, "snapshots"));
    for each in snapshots.iter().map(String::as_str).chain([target]) {
        let mut own: Vec<String> = cx.world.read(|db| disks::of_vm(db, each)).into_iter().map(|(_, vdi)| vdi).collect();
        own.push(cx.world.read(|db| db.text("VM", each, "suspend_VDI")));
        cx.world.write(|db| vm::remove(db, each));
        for vdi in own.iter().filter(|vdi| is_set(vdi)) {
            disks::destroy(cx, vdi).await?;
        }
    }
    Ok(())
}
