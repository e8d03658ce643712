//! VDI calls, changed block tracking and NBD addresses among them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::disks::{self, sync_sr};
use super::gate::{begin_vdi, check_vdi, is_set};
use crate::rpc::{Args, Cx, Methods};
use crate::value::{Failure, Outcome, Record, Value};
use crate::world::{blocking, uuid_of};

/// How long `data_destroy` waits for the disk to be detached.
const DETACH: Duration = Duration::from_secs(4);

pub(super) fn enter(table: &mut Methods) {
    table.add("VDI.create", "record:rec(VDI)", create);
    table.add("VDI.destroy", "self:ref(VDI)", destroy);
    table.add("VDI.forget", "vdi:ref(VDI)", forget);
    table.add("VDI.snapshot", "vdi:ref(VDI) driver_params:map={}", snapshot);
    table.add("VDI.clone", "vdi:ref(VDI) driver_params:map={}", clone);
    table.add_cancellable(
        "VDI.copy",
        "vdi:ref(VDI) sr:ref(SR) base_vdi:ref(VDI)=OpaqueRef:NULL into_vdi:ref(VDI)=OpaqueRef:NULL",
        copy,
    );
    table.add("VDI.resize", "vdi:ref(VDI) size:int", resize);
    table.add("VDI.update", "vdi:ref(VDI)", update);
    table.add("VDI.enable_cbt", "self:ref(VDI)", |cx, args| set_cbt(cx, args, true));
    table.add("VDI.disable_cbt", "self:ref(VDI)", |cx, args| set_cbt(cx, args, false));
    table.add("VDI.data_destroy", "self:ref(VDI)", data_destroy);
    table.add("VDI.list_changed_blocks", "vdi_from:ref(VDI) vdi_to:ref(VDI)", list_changed_blocks);
    table.add("VDI.get_nbd_info", "self:ref(VDI)", get_nbd_info);
}

/// The first of these keys that a constructor's record lacks is the error.
pub(super) fn mandatory(record: &Record, keys: &[&str]) -> Outcome<()> {
    match keys.iter().find(|key| !record.contains_key(**key)) {
        None => Ok(()),
        Some(key) => Err(Failure::internal(format!("Dispatcher_FieldNotFound(\"{key}\")"))),
    }
}

/// Only what a constructor may set.
pub(super) fn only(record: Record, keys: &[&str]) -> Record {
    record.into_iter().filter(|(key, _)| keys.contains(&key.as_str())).collect()
}

async fn create(cx: Cx, args: Args) -> Outcome {
    let record = args.record(0);
    mandatory(&record, &["SR", "virtual_size", "type", "sharable", "read_only", "other_config"])?;
    let sr = record.get("SR").map(|v| v.as_str().to_owned()).unwrap_or_default();
    cx.world.read(|db| db.record("SR", &sr).map(|_| ()))?;
    let size = record.get("virtual_size").map_or(0, Value::as_int);
    if size < 0 {
        return Err(pool_disks::XapiFailure::backend(79, "VDI Invalid size").into());
    }
    let keys = [
        "name_label",
        "name_description",
        "SR",
        "virtual_size",
        "type",
        "sharable",
        "read_only",
        "other_config",
        "xenstore_data",
        "sm_config",
        "tags",
    ];
    disks::create(&cx, only(record, &keys)).await.map(Value::Str)
}

async fn destroy(cx: Cx, args: Args) -> Outcome {
    let vdi = args.text(0);
    let running = begin_vdi(&cx, &vdi, "destroy").await?;
    let done = disks::destroy(&cx, &vdi).await;
    drop(running);
    done.map(|()| Value::Void)
}

async fn forget(cx: Cx, args: Args) -> Outcome {
    let vdi = args.text(0);
    cx.world.read(|db| check_vdi(db, cx.world.profile(), &vdi, "forget"))?;
    cx.world.write(|db| {
        for vbd in db.list("VDI", &vdi, "VBDs") {
            db.delete("VBD", &vbd);
        }
        db.delete("VDI", &vdi);
    });
    Ok(Value::Void)
}

async fn snapshot(cx: Cx, args: Args) -> Outcome {
    disks::snapshot(&cx, &args.text(0)).await.map(Value::Str)
}

async fn clone(cx: Cx, args: Args) -> Outcome {
    disks::clone(&cx, &args.text(0)).await.map(Value::Str)
}

async fn copy(cx: Cx, args: Args) -> Outcome {
    let (vdi, sr, base, into) = (args.text(0), args.text(1), args.text(2), args.text(3));
    if !is_set(&sr) && !is_set(&into) {
        return Err(Failure::handle_invalid("SR", &sr));
    }
    cx.world.read(|db| check_vdi(db, cx.world.profile(), &vdi, "copy"))?;
    let running = begin_vdi(&cx, &vdi, "copy").await?;
    let copied = disks::copy(&cx, &vdi, &sr, &base, &into).await;
    drop(running);
    copied.map(Value::Str)
}

async fn resize(cx: Cx, args: Args) -> Outcome {
    let (vdi, size) = (args.text(0), args.int(1));
    let running = begin_vdi(&cx, &vdi, "resize").await?;
    let disk = cx.world.disk(&vdi)?;
    let sr = cx.world.read(|db| db.text("VDI", &vdi, "SR"));
    cx.world.needs_room(&sr)?;
    let size =
        u64::try_from(size).map_err(|_| Failure::from(pool_disks::XapiFailure::backend(79, "VDI Invalid size")))?;
    blocking(move || Ok(disk.store().resize(disk.id(), size)?)).await?;
    sync_sr(&cx.world, &sr);
    drop(running);
    Ok(Value::Void)
}

async fn update(cx: Cx, args: Args) -> Outcome {
    let sr = cx.world.read(|db| db.text("VDI", &args.text(0), "SR"));
    sync_sr(&cx.world, &sr);
    Ok(Value::Void)
}

async fn set_cbt(cx: Cx, args: Args, on: bool) -> Outcome {
    let vdi = args.text(0);
    let running = begin_vdi(&cx, &vdi, if on { "enable_cbt" } else { "disable_cbt" }).await?;
    let disk = cx.world.disk(&vdi)?;
    let sr = cx.world.read(|db| db.text("VDI", &vdi, "SR"));
    blocking(move || {
        let store = disk.store();
        let done = if on { store.enable_cbt(disk.id()) } else { store.disable_cbt(disk.id()) };
        Ok(done?)
    })
    .await?;
    sync_sr(&cx.world, &sr);
    drop(running);
    Ok(Value::Void)
}

async fn data_destroy(cx: Cx, args: Args) -> Outcome {
    let vdi = args.text(0);
    let running = begin_vdi(&cx, &vdi, "data_destroy").await?;
    let deadline = tokio::time::Instant::now() + cx.world.config.scaled(DETACH);
    let mut changes = cx.world.changes();
    loop {
        changes.mark_unchanged();
        let attached = cx
            .world
            .read(|db| db.list("VDI", &vdi, "VBDs").iter().any(|vbd| db.flag("VBD", vbd, "currently_attached")));
        if !attached {
            break;
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Failure::new("VDI_IN_USE", &[&vdi, "data_destroy"]));
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
    let disk = cx.world.disk(&vdi)?;
    blocking(move || Ok(disk.store().data_destroy(disk.id())?)).await?;
    let sr = cx.world.write(|db| {
        for vbd in db.list("VDI", &vdi, "VBDs") {
            db.delete("VBD", &vbd);
        }
        db.set("VDI", &vdi, "type", Value::str("cbt_metadata"));
        db.text("VDI", &vdi, "SR")
    });
    drop(running);
    sync_sr(&cx.world, &sr);
    cx.world.garbage.due(&cx.world, &sr);
    Ok(Value::Void)
}

async fn list_changed_blocks(cx: Cx, args: Args) -> Outcome {
    let (from, to) = (args.text(0), args.text(1));
    let (from_id, to_id, same_sr) = cx.world.read(|db| -> Outcome<_> {
        check_vdi(db, cx.world.profile(), &to, "list_changed_blocks")?;
        db.record("VDI", &from)?;
        let same_sr = db.text("VDI", &from, "SR") == db.text("VDI", &to, "SR");
        Ok((uuid_of(&db.uuid("VDI", &from))?, uuid_of(&db.uuid("VDI", &to))?, same_sr))
    })?;
    if !same_sr {
        return Err(pool_disks::XapiFailure::backend(460, "Failed to calculate changed blocks for given VDIs.").into());
    }
    let sr = cx.world.read(|db| db.text("VDI", &to, "SR"));
    let store = cx.world.store(&sr)?;
    let bitmap = blocking(move || Ok(store.changed_blocks(from_id, to_id)?)).await?;
    Ok(Value::str(STANDARD.encode(bitmap)))
}

async fn get_nbd_info(cx: Cx, args: Args) -> Outcome {
    let vdi = args.text(0);
    let world = &cx.world;
    let name = world.read(|db| -> Outcome<_> {
        let kind = db.text("VDI", &vdi, "type");
        if kind == "cbt_metadata" {
            return Err(Failure::new("VDI_INCOMPATIBLE_TYPE", &[&vdi, &kind]));
        }
        Ok(format!("/{}?session_id={}", db.uuid("VDI", &vdi), cx.session))
    })?;
    let mut answers = Vec::new();
    for host in &world.hosts {
        let addresses = world.read(|db| {
            let sr = db.text("VDI", &vdi, "SR");
            let plugged = db
                .list("SR", &sr, "PBDs")
                .iter()
                .any(|pbd| db.text("PBD", pbd, "host") == host.reference && db.flag("PBD", pbd, "currently_attached"));
            let live = db.flag("host_metrics", &db.text("host", &host.reference, "metrics"), "live");
            if plugged && live { nbd_addresses(db, &host.reference) } else { Vec::new() }
        });
        for address in addresses {
            let entry = [
                ("exportname", Value::str(name.clone())),
                ("address", Value::str(address)),
                ("port", Value::Int(i64::from(host.nbd_port()))),
                ("cert", Value::str(host.identity().pem)),
                ("subject", Value::str(host.address.clone())),
            ];
            answers.push(Value::Map(entry.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()));
        }
    }
    Ok(Value::Set(answers))
}

/// Addresses of a host on networks with an NBD purpose.
fn nbd_addresses(db: &crate::db::Db, host: &str) -> Vec<String> {
    let offers = |pif: &String| {
        let purposes = db.list("network", &db.text("PIF", pif, "network"), "purpose");
        db.flag("PIF", pif, "currently_attached") && purposes.iter().any(|p| p == "nbd" || p == "insecure_nbd")
    };
    let pifs = db.list("host", host, "PIFs").into_iter().filter(offers);
    pifs.map(|pif| db.text("PIF", &pif, "IP")).filter(|ip| !ip.is_empty()).collect()
}
