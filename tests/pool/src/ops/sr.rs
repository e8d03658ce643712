//! SR, PBD and SM: making storage repositories and plugging them.

use std::time::Duration;

use pool_disks::{Provisioning, SrParams, SrStore};

use super::disks::sync_sr;
use super::vdi::{mandatory, only};
use crate::control::SrKind;
use crate::rpc::{Args, Cx, Methods};
use crate::value::{Failure, NULL, Outcome, Record, Value};
use crate::world::{World, blocking};

/// A scan on a real host.
const SCAN: Duration = Duration::from_millis(1500);
/// Size when none is given: one tebibyte.
const DEFAULT_SIZE: u64 = 1 << 40;

pub(super) fn enter(table: &mut Methods) {
    table.add("SR.scan", "sr:ref(SR)", scan);
    table.add("SR.update", "sr:ref(SR)", scan);
    table.add(
        "SR.create",
        "host:ref(host) device_config:map physical_size:int name_label:string name_description:string type:string \
         content_type:string shared:bool sm_config:map={}",
        create,
    );
    table.add("SR.destroy", "sr:ref(SR)", |cx, args| remove(cx, args, true));
    table.add("SR.forget", "sr:ref(SR)", |cx, args| remove(cx, args, false));
    table
        .add("SR.get_supported_types", "", |_, _| async { Ok(Value::set(KINDS.iter().map(|kind| facts(*kind).name))) });
    table.add("PBD.create", "record:rec(PBD)", create_pbd);
    table.add("PBD.plug", "self:ref(PBD)", |cx, args| set_plugged(cx, args, true));
    table.add("PBD.unplug", "self:ref(PBD)", |cx, args| set_plugged(cx, args, false));
    table.add("PBD.destroy", "self:ref(PBD)", destroy_pbd);
}

/// What distinguishes the kinds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) name: &'static str,
    pub(crate) shared: bool,
    thick: bool,
    pub(crate) cbt: bool,
    vhd: bool,
}

pub(crate) const KINDS: [SrKind; 7] =
    [SrKind::Ext, SrKind::Lvm, SrKind::Nfs, SrKind::Smb, SrKind::LvmoIscsi, SrKind::Linstor, SrKind::Iso];

pub(crate) const fn facts(kind: SrKind) -> Facts {
    match kind {
        SrKind::Ext => Facts { name: "ext", shared: false, thick: false, cbt: true, vhd: true },
        SrKind::Lvm => Facts { name: "lvm", shared: false, thick: true, cbt: true, vhd: true },
        SrKind::Nfs => Facts { name: "nfs", shared: true, thick: false, cbt: true, vhd: true },
        SrKind::Smb => Facts { name: "smb", shared: true, thick: false, cbt: true, vhd: true },
        SrKind::LvmoIscsi => Facts { name: "lvmoiscsi", shared: true, thick: true, cbt: true, vhd: true },
        SrKind::Linstor => Facts { name: "linstor", shared: true, thick: false, cbt: false, vhd: true },
        SrKind::Iso => Facts { name: "iso", shared: true, thick: false, cbt: false, vhd: false },
    }
}

/// The driver's record.
pub(crate) fn driver_record(kind: SrKind) -> Record {
    let facts = facts(kind);
    let mut features =
        vec!["SR_PROBE", "SR_UPDATE", "VDI_CREATE", "VDI_DELETE", "VDI_ATTACH", "VDI_DETACH", "VDI_UPDATE"];
    if facts.vhd {
        features.extend([
            "VDI_SNAPSHOT",
            "VDI_CLONE",
            "VDI_RESIZE",
            "VDI_GENERATE_CONFIG",
            "VDI_MIRROR",
            "VDI_RESET_ON_BOOT",
        ]);
    }
    if facts.cbt {
        features.push("VDI_CONFIG_CBT");
    }
    let numbered = features.iter().map(|f| ((*f).to_owned(), Value::Int(1))).collect();
    Record::from([
        ("name_label".to_owned(), Value::str(facts.name)),
        ("name_description".to_owned(), Value::str("simulated storage driver")),
        ("type".to_owned(), Value::str(facts.name)),
        ("vendor".to_owned(), Value::str("simulated")),
        ("version".to_owned(), Value::str("1.0")),
        ("required_api_version".to_owned(), Value::str("1.0")),
        ("capabilities".to_owned(), Value::set(features)),
        ("features".to_owned(), Value::Map(numbered)),
        ("driver_filename".to_owned(), Value::str(format!("/opt/xensource/sm/{}SR", facts.name))),
    ])
}

/// Makes an SR: storage, record, and a plugged PBD on each of `hosts`.
pub(crate) async fn make(
    world: &World,
    kind: SrKind,
    mut record: Record,
    size: u64,
    hosts: &[String],
    device_config: &Value,
) -> Outcome<String> {
    let facts = facts(kind);
    let size = if size == 0 { DEFAULT_SIZE } else { size };
    let uuid = uuid::Uuid::new_v4().to_string();
    let params = SrParams {
        provisioning: if facts.thick { Provisioning::Thick } else { Provisioning::Thin },
        physical_size: size,
        vhd: facts.vhd,
        cbt: facts.cbt,
        max_chain: 30,
    };
    let folder = world.folder.join("sr").join(&uuid);
    let store = blocking(move || Ok(SrStore::create(&folder, params)?)).await?;
    record.insert("uuid".to_owned(), Value::str(uuid));
    record.insert("type".to_owned(), Value::str(facts.name));
    record.insert("shared".to_owned(), Value::Bool(facts.shared));
    record
        .entry("content_type".to_owned())
        .or_insert_with(|| Value::str(if kind == SrKind::Iso { "iso" } else { "user" }));
    let operations = [
        "scan",
        "destroy",
        "forget",
        "plug",
        "unplug",
        "update",
        "vdi_create",
        "vdi_destroy",
        "vdi_snapshot",
        "vdi_clone",
        "vdi_resize",
    ];
    record.insert("allowed_operations".to_owned(), Value::set(operations));
    let sr = world.write(|db| {
        let sr = db.create("SR", record);
        for host in hosts {
            let pbd = Record::from([
                ("host".to_owned(), Value::str(host.clone())),
                ("SR".to_owned(), Value::str(sr.clone())),
                ("device_config".to_owned(), device_config.clone()),
                ("currently_attached".to_owned(), Value::Bool(true)),
            ]);
            db.create("PBD", pbd);
        }
        sr
    });
    world.add_store(&sr, store);
    sync_sr(world, &sr);
    Ok(sr)
}

async fn scan(cx: Cx, args: Args) -> Outcome {
    let sr = args.text(0);
    cx.world.read(|db| super::gate::check_attached_sr(db, &sr))?;
    cx.world.latency(SCAN).await;
    sync_sr(&cx.world, &sr);
    cx.world.garbage.due(&cx.world, &sr);
    Ok(Value::Void)
}

async fn create(cx: Cx, args: Args) -> Outcome {
    let kind = args.text(5).to_ascii_lowercase();
    let kind = KINDS.iter().copied().find(|k| facts(*k).name == kind);
    let kind = kind.ok_or_else(|| Failure::new("SR_UNKNOWN_DRIVER", &[&args.text(5)]))?;
    let host = args.text(0);
    let hosts: Vec<String> =
        if facts(kind).shared { cx.world.hosts.iter().map(|h| h.reference.clone()).collect() } else { vec![host] };
    let record = Record::from([
        ("name_label".to_owned(), args.value(3)),
        ("name_description".to_owned(), args.value(4)),
        ("content_type".to_owned(), args.value(6)),
        ("sm_config".to_owned(), args.value(8)),
    ]);
    let size = u64::try_from(args.int(2)).unwrap_or(0);
    make(&cx.world, kind, record, size, &hosts, &args.value(1)).await.map(Value::Str)
}

async fn remove(cx: Cx, args: Args, destroy: bool) -> Outcome {
    let sr = args.text(0);
    cx.world.write(|db| {
        let pbds = db.list("SR", &sr, "PBDs");
        if pbds.iter().any(|pbd| db.flag("PBD", pbd, "currently_attached")) && !destroy {
            return Err(Failure::new("SR_HAS_PBD", &[&sr]));
        }
        if destroy && !db.list("SR", &sr, "VDIs").is_empty() {
            return Err(Failure::new("SR_NOT_EMPTY", &[]));
        }
        for vdi in db.list("SR", &sr, "VDIs") {
            db.delete("VDI", &vdi);
        }
        pbds.iter().for_each(|pbd| db.delete("PBD", pbd));
        db.delete("SR", &sr);
        Ok(())
    })?;
    cx.world.drop_store(&sr);
    Ok(Value::Void)
}

async fn create_pbd(cx: Cx, args: Args) -> Outcome {
    let record = args.record(0);
    mandatory(&record, &["host", "SR", "device_config"])?;
    let record = only(record, &["host", "SR", "device_config", "other_config"]);
    Ok(Value::str(cx.world.write(|db| db.create("PBD", record))))
}

async fn set_plugged(cx: Cx, args: Args, plugged: bool) -> Outcome {
    let pbd = args.text(0);
    cx.world.write(|db| {
        let (sr, host) = (db.text("PBD", &pbd, "SR"), db.text("PBD", &pbd, "host"));
        let used = |vdi: &String| {
            db.list("VDI", vdi, "VBDs").into_iter().find(|vbd| {
                let vm = db.text("VBD", vbd, "VM");
                db.flag("VBD", vbd, "currently_attached") && db.text("VM", &vm, "resident_on") == host
            })
        };
        if !plugged && let Some(vdi) = db.list("SR", &sr, "VDIs").iter().find(|vdi| used(vdi).is_some()) {
            return Err(Failure::new("VDI_IN_USE", &[vdi, "detach"]));
        }
        db.set("PBD", &pbd, "currently_attached", Value::Bool(plugged));
        Ok(Value::Void)
    })
}

async fn destroy_pbd(cx: Cx, args: Args) -> Outcome {
    let pbd = args.text(0);
    cx.world.write(|db| {
        if db.flag("PBD", &pbd, "currently_attached") {
            return Err(Failure::new("PBD_STILL_PLUGGED", &[&pbd]));
        }
        db.delete("PBD", &pbd);
        Ok(Value::Void)
    })
}

/// The SR of this name, UUID or reference; empty means the pool's default.
pub(crate) fn find(world: &World, id: &str) -> Outcome<String> {
    world.read(|db| {
        if id.is_empty() {
            let default =
                db.rows("pool").next().and_then(|(_, pool)| pool.get("default_SR")).map(|v| v.as_str().to_owned());
            return default.filter(|sr| sr != NULL).ok_or_else(|| Failure::new("DEFAULT_SR_NOT_FOUND", &[NULL]));
        }
        let named =
            |record: &Record| ["uuid", "name_label"].iter().any(|f| record.get(*f).is_some_and(|v| v.as_str() == id));
        let found = db.rows("SR").find(|(reference, record)| *reference == id || named(record));
        found.map(|(reference, _)| reference.to_owned()).ok_or_else(|| Failure::new("UUID_INVALID", &["SR", id]))
    })
}
