//! VDIs and their storage together: records follow the nodes of the SR's tree.

use std::sync::Arc;
use std::time::Duration;

use pool_disks::NodeKind;
use uuid::Uuid;

use super::gate::is_set;
use crate::db::Db;
use crate::rpc::Cx;
use crate::value::{Failure, NULL, Outcome, Record, Value};
use crate::world::{World, blocking, uuid_of};

/// One disk's snapshot on a real host.
const SNAPSHOT: Duration = Duration::from_millis(1000);
/// Creating or destroying a disk.
const CREATE: Duration = Duration::from_millis(300);

/// Brings the records of an SR in line with its storage, as `SR.scan` does: base copies appear and vanish, parents,
/// sizes and figures are right. The storage is looked at while nobody else writes records: what was seen before another
/// call changed it would undo what that call wrote.
pub(crate) fn sync_sr(world: &World, sr: &str) {
    let Ok(store) = world.store(sr) else { return };
    world.write(|db| {
        let (nodes, usage) = (store.nodes(), store.usage());
        for node in &nodes {
            let uuid = node.id.to_string();
            let vdi = match db.by_uuid("VDI", &uuid) {
                Ok(vdi) => vdi,
                Err(_) => db.create("VDI", found_node(sr, &uuid, node.kind)),
            };
            db.set("VDI", &vdi, "virtual_size", Value::bytes(node.size));
            db.set("VDI", &vdi, "physical_utilisation", Value::bytes(node.physical));
            db.set("VDI", &vdi, "managed", Value::Bool(!node.hidden));
            db.set("VDI", &vdi, "cbt_enabled", Value::Bool(node.cbt));
            if node.kind == NodeKind::CbtMetadata {
                db.set("VDI", &vdi, "type", Value::str("cbt_metadata"));
            }
            match node.parent {
                Some(parent) => db.put("VDI", &vdi, "sm_config", "vhd-parent", parent.to_string()),
                None => db.take("VDI", &vdi, "sm_config", "vhd-parent"),
            }
        }
        for vdi in db.list("SR", sr, "VDIs") {
            let uuid = db.uuid("VDI", &vdi);
            if !nodes.iter().any(|node| node.id.to_string() == uuid) {
                remove_record(db, &vdi);
            }
        }
        db.set("SR", sr, "virtual_allocation", Value::bytes(usage.virtual_allocation));
        db.set("SR", sr, "physical_utilisation", Value::bytes(usage.physical_utilisation));
        db.set("SR", sr, "physical_size", Value::bytes(usage.physical_size));
    });
}

fn found_node(sr: &str, uuid: &str, kind: NodeKind) -> Record {
    let hidden = kind == NodeKind::Base;
    Record::from([
        ("uuid".to_owned(), Value::str(uuid)),
        ("location".to_owned(), Value::str(uuid)),
        ("SR".to_owned(), Value::str(sr)),
        ("name_label".to_owned(), Value::str(if hidden { "base copy" } else { "" })),
        ("read_only".to_owned(), Value::Bool(hidden)),
        ("managed".to_owned(), Value::Bool(!hidden)),
        ("is_a_snapshot".to_owned(), Value::Bool(matches!(kind, NodeKind::Snapshot | NodeKind::CbtMetadata))),
        ("sm_config".to_owned(), Value::map([("vdi_type", "vhd")])),
    ])
}

/// Removes a VDI's record and its VBDs.
fn remove_record(db: &mut Db, vdi: &str) {
    for vbd in db.list("VDI", vdi, "VBDs") {
        db.delete("VBD", &vbd);
    }
    db.delete("VDI", vdi);
}

/// Makes a disk and its record; `record` has at least `SR` and `virtual_size`.
pub(crate) async fn create(cx: &Cx, mut record: Record) -> Outcome<String> {
    let sr = record.get("SR").map(|v| v.as_str().to_owned()).unwrap_or_default();
    let size = record.get("virtual_size").map_or(0, Value::as_bytes);
    cx.world.read(|db| super::gate::check_attached_sr(db, &sr))?;
    let store = cx.world.store(&sr)?;
    cx.world.needs_room(&sr)?;
    cx.world.latency(CREATE).await;
    let id = Uuid::new_v4();
    let size = blocking(move || Ok(store.create_disk(id, size)?)).await?;
    record.insert("uuid".to_owned(), Value::str(id.to_string()));
    record.insert("location".to_owned(), Value::str(id.to_string()));
    record.insert("virtual_size".to_owned(), Value::bytes(size));
    let mut sm_config = record.get("sm_config").map(Value::as_map).unwrap_or_default();
    sm_config.entry("vdi_type".to_owned()).or_insert_with(|| Value::str("vhd"));
    record.insert("sm_config".to_owned(), Value::Map(sm_config));
    let vdi = cx.world.write(|db| {
        let vdi = db.create("VDI", record);
        refresh_vdi(db, &vdi);
        vdi
    });
    sync_sr(&cx.world, &sr);
    Ok(vdi)
}

/// `allowed_operations` of a VDI, coarsely: they only inform.
pub(crate) fn refresh_vdi(db: &mut Db, vdi: &str) {
    let attached = db.list("VDI", vdi, "VBDs").iter().any(|vbd| db.flag("VBD", vbd, "currently_attached"));
    let mut allowed = vec!["snapshot", "clone"];
    if !attached {
        allowed.extend(["copy", "destroy", "forget", "resize", "update", "generate_config"]);
    }
    if !db.flag("VDI", vdi, "is_a_snapshot") {
        allowed.extend(["enable_cbt", "disable_cbt"]);
    } else if !attached {
        allowed.extend(["list_changed_blocks", "data_destroy"]);
    }
    db.set("VDI", vdi, "allowed_operations", Value::set(allowed));
}

/// What a new VDI takes from the one it was made of.
fn inherited(db: &Db, vdi: &str, fields: &[&str]) -> Outcome<Record> {
    let record = db.record("VDI", vdi)?;
    Ok(fields.iter().filter_map(|f| Some(((*f).to_owned(), record.get(*f)?.clone()))).collect())
}

/// Takes a snapshot of one disk; returns the new VDI.
pub(crate) async fn snapshot(cx: &Cx, vdi: &str) -> Outcome<String> {
    cx.world.read(|db| super::gate::check_vdi(db, cx.world.profile(), vdi, "snapshot"))?;
    fork(cx, vdi, true).await
}

/// Makes a writable copy-on-write copy of one disk; returns the new VDI.
pub(crate) async fn clone(cx: &Cx, vdi: &str) -> Outcome<String> {
    cx.world.read(|db| super::gate::check_vdi(db, cx.world.profile(), vdi, "clone"))?;
    fork(cx, vdi, false).await
}

async fn fork(cx: &Cx, vdi: &str, snapshot: bool) -> Outcome<String> {
    let (sr, uuid) = cx.world.read(|db| (db.text("VDI", vdi, "SR"), db.uuid("VDI", vdi)));
    let store = cx.world.store(&sr)?;
    let lock = cx.world.sr_lock(&sr);
    let _one_at_a_time = lock.lock().await;
    cx.checkpoint()?;
    cx.world.needs_room(&sr)?;
    cx.world.latency(SNAPSHOT).await;
    let (source, copy, base) = (uuid_of(&uuid)?, Uuid::new_v4(), Uuid::new_v4());
    blocking(move || {
        let forked = if snapshot { store.snapshot(source, copy, base) } else { store.clone_disk(source, copy, base) };
        Ok(forked?)
    })
    .await?;
    let made = cx.world.write(|db| -> Outcome<String> {
        let fields = [
            "name_label",
            "name_description",
            "SR",
            "type",
            "sharable",
            "virtual_size",
            "other_config",
            "xenstore_data",
            "on_boot",
            "tags",
        ];
        let mut record = inherited(db, vdi, &fields)?;
        let id = copy.to_string();
        record.insert("uuid".to_owned(), Value::str(&*id));
        record.insert("location".to_owned(), Value::str(&*id));
        record.insert("sm_config".to_owned(), Value::map([("vdi_type", "vhd")]));
        if snapshot {
            record.insert("is_a_snapshot".to_owned(), Value::Bool(true));
            record.insert("snapshot_of".to_owned(), Value::str(vdi));
            record.insert("snapshot_time".to_owned(), Value::now());
        }
        let made = db.create("VDI", record);
        refresh_vdi(db, &made);
        Ok(made)
    })?;
    sync_sr(&cx.world, &sr);
    Ok(made)
}

/// Copies a disk's content to a new or given disk of any SR; with `base` only what differs from it.
pub(crate) async fn copy(cx: &Cx, vdi: &str, sr: &str, base: &str, into: &str) -> Outcome<String> {
    let source = cx.world.disk(vdi)?;
    let target = if is_set(into) {
        let (from, to) = cx.world.read(|db| (db.int("VDI", vdi, "virtual_size"), db.int("VDI", into, "virtual_size")));
        if to < from {
            return Err(Failure::new("VDI_TOO_SMALL", &[into, &from.to_string()]));
        }
        if cx.world.read(|db| db.flag("VDI", into, "read_only")) {
            return Err(Failure::new("VDI_READONLY", &[into]));
        }
        into.to_owned()
    } else {
        let fields = [
            "name_label",
            "name_description",
            "virtual_size",
            "type",
            "sharable",
            "other_config",
            "tags",
            "xenstore_data",
        ];
        let mut record = cx.world.read(|db| inherited(db, vdi, &fields))?;
        record.insert("SR".to_owned(), Value::str(sr));
        create(cx, record).await?
    };
    let sink = cx.world.disk(&target)?;
    let base = if is_set(base) { Some(uuid_of(&cx.world.read(|db| db.uuid("VDI", base)))?) } else { None };
    let blocks = {
        let source = source.clone();
        blocking(move || Ok(source.allocated(base)?)).await?
    };
    let count = blocks.len().max(1);
    for (done, block) in blocks.into_iter().enumerate() {
        cx.checkpoint()?;
        let (source, sink) = (source.clone(), sink.clone());
        blocking(move || {
            let size = source.size()?;
            let offset = u64::from(block) * pool_disks::BLOCK;
            let length = usize::try_from(pool_disks::BLOCK.min(size - offset)).map_err(Failure::internal)?;
            let mut buffer = vec![0; length];
            pool_disks::ReadAt::read_at(&source, offset, &mut buffer)?;
            Ok(sink.write_at(offset, &buffer)?)
        })
        .await?;
        #[expect(clippy::cast_precision_loss, reason = "a share for display")]
        cx.progress(done as f64 / count as f64);
    }
    let sr = cx.world.read(|db| db.text("VDI", &target, "SR"));
    sync_sr(&cx.world, &sr);
    Ok(target)
}

/// Destroys a disk, its record and its VBDs; garbage collection follows later.
pub(crate) async fn destroy(cx: &Cx, vdi: &str) -> Outcome<()> {
    let (sr, uuid) = cx.world.read(|db| (db.text("VDI", vdi, "SR"), db.uuid("VDI", vdi)));
    if let Ok(store) = cx.world.store(&sr) {
        let id = uuid_of(&uuid)?;
        cx.world.latency(CREATE).await;
        blocking(move || match store.destroy(id) {
            Err(pool_disks::Error::UnknownDisk { .. }) => Ok(()),
            other => Ok(other?),
        })
        .await?;
    }
    cx.world.write(|db| remove_record(db, vdi));
    sync_sr(&cx.world, &sr);
    cx.world.garbage.due(&cx.world, &sr);
    Ok(())
}

/// The disks of a VM: (VBD, VDI) of every VBD that is a disk and not empty, in the order of their devices.
pub(crate) fn of_vm(db: &Db, vm: &str) -> Vec<(String, String)> {
    let mut found: Vec<(u32, String, String)> = db
        .list("VM", vm, "VBDs")
        .into_iter()
        .filter(|vbd| db.text("VBD", vbd, "type") != "CD")
        .filter_map(|vbd| {
            let vdi = db.text("VBD", &vbd, "VDI");
            let device = db.text("VBD", &vbd, "userdevice").parse().unwrap_or(u32::MAX);
            is_set(&vdi).then_some((device, vbd, vdi))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, vbd, vdi)| (vbd, vdi)).collect()
}

/// The VMs that a transfer of this VDI counts for: of a snapshot, the VM it was taken of.
pub(crate) fn vms_of(db: &Db, vdi: &str) -> Vec<String> {
    let mut found = Vec::new();
    for vbd in db.list("VDI", vdi, "VBDs") {
        let vm = db.text("VBD", &vbd, "VM");
        if !db.flag("VM", &vm, "is_control_domain") {
            found.push(db.uuid("VM", &original(db, &vm)));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The VM of which a snapshot was taken; any other VM itself.
pub(crate) fn original(db: &Db, vm: &str) -> String {
    let of = db.text("VM", vm, "snapshot_of");
    if of == NULL || of.is_empty() { vm.to_owned() } else { of }
}

/// The disk of a VM that it boots from: the bootable one, else the first.
pub(crate) fn boot_disk(world: &Arc<World>, vm: &str) -> Option<pool_disks::Disk> {
    let vdi = world.read(|db| {
        let disks = of_vm(db, vm);
        let bootable = disks.iter().find(|(vbd, _)| db.flag("VBD", vbd, "bootable"));
        bootable.or(disks.first()).map(|(_, vdi)| vdi.clone())
    })?;
    world.disk(&vdi).ok()
}
