//! `/import`: an XVA becomes a VM. Records first, then the disks' content; a failure removes what was made.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pool_disks::xva;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ova::Objects;
use super::tap::Tap;
use super::{Refusal, Stream, accept, cancellable, finish, object, own_task, place, progress, references};
use crate::db::Db;
use crate::dom0;
use crate::http::{Request, Status};
use crate::ops::gate::{is_set, refresh_vm};
use crate::ops::{create_vtpm, derive_mac, disks, sr, vm};
use crate::rpc::Cx;
use crate::value::{Failure, Outcome, Record, Value};

/// Attaching a disk for a stream.
const ATTACH: Duration = Duration::from_secs(1);

pub(super) async fn import(
    cx: &Cx,
    request: &Request,
    stream: &mut Stream,
    probe: bool,
) -> Result<io::Result<()>, Refusal> {
    let world = &cx.world;
    if request.header("transfer-encoding").is_some() {
        return Err(Refusal::Status(Status(403), Failure::new("IMPORT_ERROR_CANNOT_HANDLE_CHUNKED", &[])));
    }
    let bad = || Refusal::Status(Status(400), Failure::new("IMPORT_ERROR", &["bad request"]));
    let length = request.content_length().map_err(|_| bad())?;
    let target = match request.query("sr_id").or(request.query("sr_uuid")).filter(|id| !id.is_empty()) {
        Some(id) => world.read(|db| object(db, "SR", id))?,
        None => sr::find(world, "")?,
    };
    place(cx, request, std::slice::from_ref(&target))?;
    if probe {
        return Ok(super::answer(stream, Status(200), &[]).await);
    }
    let cx = own_task(cx, "VM.import");
    let mut faults = world.faults.stream("/import", &world.sr_names(&target));
    let task_fault = faults.task_fails.take();
    if let Err(error) = accept(stream, &cx.task).await {
        finish(&cx, Err(Failure::internal(&error)), None);
        return Ok(Err(error));
    }
    let restore = request.query("restore") == Some("true");
    let force = request.query("force") == Some("true");
    let aborts = faults.cut_after.is_some();
    let mut tap = Tap::new((&mut *stream).take(length.unwrap_or(u64::MAX)), faults);
    let received = tap.counter();
    let mut made = Made { vm: None, vdis: Vec::new() };
    let outcome = cancellable(&cx, receive(&cx, &target, restore, force, &mut tap, &mut made)).await;
    world.tally.vm_imported(received.load(Ordering::Relaxed));
    let outcome = match (outcome, &task_fault) {
        (Ok(vm), None) => Ok(references(vec![vm])),
        (Ok(_), Some(_)) => Ok(Value::Void),
        (Err(failure), _) => Err(failure),
    };
    if outcome.is_err() || task_fault.is_some() {
        made.undo(&cx).await;
    }
    let broken = outcome.is_err();
    finish(&cx, outcome, task_fault);
    Ok(if broken && aborts { Err(io::ErrorKind::ConnectionAborted.into()) } else { stream.flush().await })
}

/// What an import made so far.
struct Made {
    vm: Option<String>,
    vdis: Vec<String>,
}

impl Made {
    async fn undo(&self, cx: &Cx) {
        if let Some(made) = &self.vm {
            cx.world.write(|db| vm::remove(db, made));
        }
        for vdi in &self.vdis {
            if let Err(failure) = disks::destroy(cx, vdi).await {
                tracing::warn!(vdi, %failure, "a disk of a failed import is left behind");
            }
        }
    }
}

async fn receive<R>(
    cx: &Cx,
    target: &str,
    restore: bool,
    force: bool,
    reader: &mut R,
    made: &mut Made,
) -> Outcome<String>
where
    R: tokio::io::AsyncRead + Send + Unpin,
{
    let world = &cx.world;
    let mut archive = xva::Import::open(reader).await?;
    let objects = Objects::parse(archive.ova_xml()).map_err(|detail| Failure::new("IMPORT_ERROR", &[&detail]))?;
    if restore {
        make_way(cx, &objects, force).await?;
    }
    let vms = world.read(|db| objects.of(db, "VM"));
    let (vm_name, record) = vms.first().ok_or_else(|| Failure::new("IMPORT_ERROR", &["the archive has no VM"]))?;
    let imported = world.write(|db| make_vm(db, world.profile(), record, restore, force, &cx.task));
    made.vm = Some(imported.clone());
    let vdis = world.read(|db| objects.of(db, "VDI"));
    let vbds = world.read(|db| objects.of(db, "VBD"));
    let of_vm = |r: &Record| r.get("VM").is_some_and(|v| v.as_str() == vm_name);
    let suspend_name = record.get("suspend_VDI").map(|v| v.as_str().to_owned()).unwrap_or_default();
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    for (name, vdi) in &vdis {
        let uses = |r: &Record| of_vm(r) && r.get("VDI").is_some_and(|v| v.as_str() == name);
        let disk = vbds.iter().any(|(_, r)| uses(r) && r.get("type").is_none_or(|t| t.as_str() != "CD"));
        if !disk && *name != suspend_name {
            continue;
        }
        let keep = [
            "name_label",
            "name_description",
            "virtual_size",
            "type",
            "sharable",
            "other_config",
            "xenstore_data",
            "tags",
        ];
        let mut fields: Record =
            vdi.iter().filter(|(k, _)| keep.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
        fields.insert("SR".to_owned(), Value::str(target));
        let created = disks::create(cx, fields).await?;
        made.vdis.push(created.clone());
        renamed.insert(name.clone(), created);
    }
    world.write(|db| {
        attach(db, &objects, &imported, vm_name, &renamed, restore);
        if let Some(vdi) = renamed.get(&suspend_name) {
            db.set("VM", &imported, "suspend_VDI", Value::str(vdi.clone()));
        }
        db.put("task", &cx.task, "other_config", "object_creation", "complete");
    });
    let mut sinks = BTreeMap::new();
    let mut attached = Vec::new();
    for (name, vdi) in &renamed {
        attached.push(dom0::attach(world, cx.host, vdi, true, ATTACH).await?);
        sinks.insert(name.clone(), world.disk(vdi)?);
    }
    world.needs_room(target)?;
    let open = world.tally.open(vec![world.read(|db| db.uuid("VM", &imported))]);
    archive.read_disks(&sinks, force, &progress(cx)).await?;
    drop((attached, open));
    disks::sync_sr(world, target);
    world.write(|db| {
        db.take("VM", &imported, "current_operations", &cx.task);
        db.take("VM", &imported, "other_config", "import_task");
        refresh_vm(db, world.profile(), &imported);
    });
    Ok(imported)
}

/// A full restore replaces the halted VM of the same UUID.
async fn make_way(cx: &Cx, objects: &Objects, force: bool) -> Outcome<()> {
    let old = cx.world.read(|db| -> Outcome<Option<String>> {
        for (_, record) in objects.of(db, "VM") {
            let text = |key: &str| record.get(key).map(|v| v.as_str().to_owned()).unwrap_or_default();
            let seed = record.get("other_config").and_then(|c| c.get("mac_seed")).map(|v| v.as_str().to_owned());
            let old = db.by_uuid("VM", &text("uuid")).ok();
            let same_seed = |r: &str| seed.is_some() && db.entry("VM", r, "other_config", "mac_seed") == seed;
            let unrelated = |r: &str| Some(r) != old.as_deref() && !db.flag("VM", r, "is_a_snapshot");
            if db.rows("VM").any(|(r, _)| unrelated(r) && same_seed(r)) {
                return Err(Failure::new("DUPLICATE_MAC_SEED", &[&seed.unwrap_or_default()]));
            }
            let Some(old) = old else { continue };
            let state = db.text("VM", &old, "power_state");
            if state != "Halted" {
                return Err(Failure::new("VM_BAD_POWER_STATE", &[&old, "halted", &state.to_ascii_lowercase()]));
            }
            let (have, given) = (db.int("VM", &old, "version"), record.get("version").map_or(0, Value::as_int));
            if given < have && !force {
                return Err(Failure::new(
                    "VM_TO_IMPORT_IS_NOT_NEWER_VERSION",
                    &[&old, &have.to_string(), &given.to_string()],
                ));
            }
            return Ok(Some(old));
        }
        Ok(None)
    })?;
    if let Some(old) = old {
        crate::ops::snapshot::destroy_with_disks(cx, &old).await?;
    }
    Ok(())
}

fn make_vm(
    db: &mut Db,
    profile: crate::config::Profile,
    given: &Record,
    restore: bool,
    force: bool,
    task: &str,
) -> String {
    let mut record = given.clone();
    let dropped = [
        "VBDs",
        "VIFs",
        "VTPMs",
        "VUSBs",
        "VGPUs",
        "attached_PCIs",
        "consoles",
        "crash_dumps",
        "snapshots",
        "children",
        "metrics",
        "guest_metrics",
        "resident_on",
        "affinity",
        "appliance",
        "suspend_VDI",
        "parent",
        "snapshot_of",
        "domid",
        "current_operations",
        "allowed_operations",
        "blocked_operations",
        "blobs",
    ];
    dropped.iter().for_each(|field| drop(record.remove(*field)));
    let version = if restore { given.get("version").map_or(0, Value::as_int) + 1 } else { 0 };
    record.insert("version".to_owned(), Value::Int(version));
    if !force {
        record.insert("is_default_template".to_owned(), Value::Bool(false));
    }
    if !given.get("is_a_template").is_some_and(Value::as_bool)
        && given.get("generation_id").is_some_and(|g| !g.as_str().is_empty())
    {
        record.insert(
            "generation_id".to_owned(),
            Value::str(format!("{}:{}", rand::random::<i64>(), rand::random::<i64>())),
        );
    }
    let mut other_config = record.get("other_config").map(Value::as_map).unwrap_or_default();
    if !restore {
        record.remove("uuid");
        other_config.insert("mac_seed".to_owned(), Value::str(uuid::Uuid::new_v4().to_string()));
    }
    other_config.insert("import_task".to_owned(), Value::str(task));
    record.insert("other_config".to_owned(), Value::Map(other_config));
    let made = vm::insert(db, profile, record);
    db.put("VM", &made, "current_operations", task, "import");
    refresh_vm(db, profile, &made);
    made
}

/// VBDs, VIFs and VTPMs of the imported VM.
fn attach(db: &mut Db, objects: &Objects, vm: &str, vm_name: &str, disks: &BTreeMap<String, String>, restore: bool) {
    let text = |record: &Record, key: &str| record.get(key).map(|v| v.as_str().to_owned()).unwrap_or_default();
    let reset = ["uuid", "current_operations", "allowed_operations", "metrics"];
    let suspended = db.text("VM", vm, "power_state") == "Suspended";
    for (_, mut record) in objects.of(db, "VBD").into_iter().filter(|(_, r)| text(r, "VM") == vm_name) {
        reset.iter().for_each(|field| drop(record.remove(*field)));
        let cd = text(&record, "type") == "CD";
        let vdi =
            if cd { find_iso(db, objects, &text(&record, "VDI")) } else { disks.get(&text(&record, "VDI")).cloned() };
        let attached = suspended && record.get("currently_attached").is_some_and(Value::as_bool);
        record.insert("VM".to_owned(), Value::str(vm));
        record.insert("empty".to_owned(), Value::Bool(vdi.is_none()));
        record.insert("VDI".to_owned(), vdi.map_or_else(Value::null, Value::Str));
        record.insert("currently_attached".to_owned(), Value::Bool(attached));
        db.create("VBD", record);
    }
    let seed = db.entry("VM", vm, "other_config", "mac_seed").unwrap_or_default();
    let networks = objects.of(db, "network");
    for (_, mut record) in objects.of(db, "VIF").into_iter().filter(|(_, r)| text(r, "VM") == vm_name) {
        reset.iter().for_each(|field| drop(record.remove(*field)));
        let wanted = networks.iter().find(|(name, _)| *name == text(&record, "network")).map(|(_, n)| n.clone());
        let network = wanted.map(|wanted| find_network(db, &wanted));
        if !restore {
            record.insert("MAC".to_owned(), Value::str(derive_mac(&seed, &text(&record, "device"))));
            record.insert("MAC_autogenerated".to_owned(), Value::Bool(true));
        }
        record.insert("VM".to_owned(), Value::str(vm));
        record.insert("network".to_owned(), network.map_or_else(Value::null, Value::Str));
        record.insert("currently_attached".to_owned(), Value::Bool(false));
        db.create("VIF", record);
    }
    for (name, record) in objects.of(db, "VTPM").into_iter().filter(|(_, r)| text(r, "VM") == vm_name) {
        let unique = record.get("is_unique").is_some_and(Value::as_bool);
        create_vtpm(db, vm, unique, &objects.text("VTPM", &name, "contents"));
    }
}

/// The disc of the same place in any ISO SR.
fn find_iso(db: &Db, objects: &Objects, name: &str) -> Option<String> {
    let (_, wanted) = objects.of(db, "VDI").into_iter().find(|(n, _)| n == name)?;
    let location = wanted.get("location")?.as_str().to_owned();
    let iso = |sr: &str| db.text("SR", sr, "content_type") == "iso";
    let same = |record: &Record| record.get("location").is_some_and(|l| l.as_str() == location);
    let found = db.rows("VDI").find(|(_, r)| same(r) && r.get("SR").is_some_and(|sr| iso(sr.as_str())));
    found.map(|(reference, _)| reference.to_owned())
}

/// By name, then by bridge, else a new one.
fn find_network(db: &mut Db, wanted: &Record) -> String {
    for key in ["name_label", "bridge"] {
        let text = wanted.get(key).map(|v| v.as_str().to_owned()).filter(|t| is_set(t));
        let found = text.and_then(|text| {
            db.rows("network").find(|(_, r)| r.get(key).is_some_and(|v| v.as_str() == text)).map(|(r, _)| r.to_owned())
        });
        if let Some(found) = found {
            return found;
        }
    }
    let mut record = wanted.clone();
    ["uuid", "VIFs", "PIFs", "purpose", "assigned_ips", "current_operations"]
        .iter()
        .for_each(|f| drop(record.remove(*f)));
    db.create("network", record)
}
