//! Starting, stopping, suspending and resuming VMs.

use std::sync::Arc;
use std::time::Duration;

use super::gate::{begin_vm, is_set, refresh_vm};
use super::{disks, vbd};
use crate::db::Db;
use crate::guest;
use crate::rpc::{Args, Cx, Methods};
use crate::value::{Failure, NULL, Outcome, Record, Value};
use crate::world::{World, blocking};

const START: Duration = Duration::from_secs(5);
const SHUTDOWN: Duration = Duration::from_secs(8);
const HARD: Duration = Duration::from_secs(2);
/// A guest that ignores a clean shutdown is waited for this long.
const IGNORED: Duration = Duration::from_secs(60);
/// Bytes written into a suspend image for each VM, whatever its memory.
const IMAGE: usize = 4 * 1024 * 1024;

pub(super) fn enter(table: &mut Methods) {
    table.add("VM.start", "vm:ref(VM) start_paused:bool force:bool", |cx, args| async move {
        start(&cx, &args.text(0), "start", None, args.flag(1)).await
    });
    table.add("VM.start_on", "vm:ref(VM) host:ref(host) start_paused:bool force:bool", |cx, args| async move {
        start(&cx, &args.text(0), "start_on", Some(args.text(1)), args.flag(2)).await
    });
    table.add("VM.resume", "vm:ref(VM) start_paused:bool force:bool", |cx, args| async move {
        start(&cx, &args.text(0), "resume", None, args.flag(1)).await
    });
    table.add("VM.resume_on", "vm:ref(VM) host:ref(host) start_paused:bool force:bool", |cx, args| async move {
        start(&cx, &args.text(0), "resume_on", Some(args.text(1)), args.flag(2)).await
    });
    table.add("VM.suspend", "vm:ref(VM)", suspend);
    table.add("VM.pause", "vm:ref(VM)", |cx, args| set_state(cx, args, "pause", "Paused"));
    table.add("VM.unpause", "vm:ref(VM)", |cx, args| set_state(cx, args, "unpause", "Running"));
    table.add("VM.clean_shutdown", "vm:ref(VM)", |cx, args| shut_down(cx, args, "clean_shutdown"));
    table.add("VM.hard_shutdown", "vm:ref(VM)", |cx, args| shut_down(cx, args, "hard_shutdown"));
    table.add("VM.shutdown", "vm:ref(VM)", |cx, args| shut_down(cx, args, "shutdown"));
    table.add("VM.clean_reboot", "vm:ref(VM)", |cx, args| reboot(cx, args, "clean_reboot"));
    table.add("VM.hard_reboot", "vm:ref(VM)", |cx, args| reboot(cx, args, "hard_reboot"));
    table.add("VM.power_state_reset", "vm:ref(VM)", |cx, args| async move {
        halt(&cx.world, &args.text(0));
        Ok(Value::Void)
    });
    table.add("VM.pool_migrate", "vm:ref(VM) host:ref(host) options:map", |cx, args| async move {
        let (vm, host) = (args.text(0), args.text(1));
        let _running = begin_vm(&cx, &vm, "pool_migrate").await?;
        cx.world.read(|db| assert_can_boot(db, &vm, &host))?;
        cx.world.latency(SHUTDOWN).await;
        cx.world.write(|db| db.set("VM", &vm, "resident_on", Value::str(host)));
        Ok(Value::Void)
    });
}

/// Whether a host sees every SR and has the memory.
pub(crate) fn assert_can_boot(db: &Db, vm: &str, host: &str) -> Outcome<()> {
    let metrics = db.text("host", host, "metrics");
    if !db.flag("host_metrics", &metrics, "live") {
        return Err(Failure::new("HOST_NOT_LIVE", &[]));
    }
    if !db.flag("host", host, "enabled") {
        return Err(Failure::new("HOST_DISABLED", &[host]));
    }
    for (_, vdi) in disks::of_vm(db, vm) {
        let sr = db.text("VDI", &vdi, "SR");
        if !sees(db, host, &sr) {
            return Err(Failure::new("VM_REQUIRES_SR", &[vm, &sr]));
        }
    }
    let (needed, free) = (db.int("VM", vm, "memory_dynamic_max"), db.int("host_metrics", &metrics, "memory_free"));
    if needed > free {
        return Err(Failure::new("HOST_NOT_ENOUGH_FREE_MEMORY", &[&needed.to_string(), &free.to_string()]));
    }
    Ok(())
}

/// Whether an SR is plugged on a host.
pub(crate) fn sees(db: &Db, host: &str, sr: &str) -> bool {
    db.list("SR", sr, "PBDs")
        .iter()
        .any(|pbd| db.text("PBD", pbd, "host") == host && db.flag("PBD", pbd, "currently_attached"))
}

pub(crate) fn possible_hosts(world: &World, db: &Db, vm: &str) -> Vec<String> {
    world.hosts.iter().map(|h| h.reference.clone()).filter(|host| assert_can_boot(db, vm, host).is_ok()).collect()
}

async fn start(cx: &Cx, vm: &str, operation: &str, host: Option<String>, paused: bool) -> Outcome {
    let running = begin_vm(cx, vm, operation).await?;
    let resumes = operation.starts_with("resume");
    let host = cx.world.read(|db| {
        if let Some(host) = host {
            return assert_can_boot(db, vm, &host).map(|()| host);
        }
        let affinity = db.text("VM", vm, "affinity");
        let possible = possible_hosts(&cx.world, db, vm);
        match possible.iter().find(|h| **h == affinity).or(possible.first()) {
            Some(host) => Ok(host.clone()),
            None => Err(assert_can_boot(db, vm, &cx.here().reference)
                .err()
                .unwrap_or_else(|| Failure::new("NO_HOSTS_AVAILABLE", &[]))),
        }
    })?;
    cx.world.read(|db| db.list("VM", vm, "VBDs").iter().try_for_each(|each| vbd::check_attach(db, each)))?;
    cx.world.latency(START).await;
    cx.checkpoint()?;
    run(&cx.world, vm, &host, paused);
    if resumes {
        drop_suspend_image(cx, vm).await;
    }
    drop(running);
    guest::boot(&cx.world, vm, !resumes);
    Ok(Value::Void)
}

/// The records of a VM that runs on a host.
pub(crate) fn run(world: &World, vm: &str, host: &str, paused: bool) {
    let profile = world.profile();
    world.write(|db| {
        let state = if paused { "Paused" } else { "Running" };
        for each in db.list("VM", vm, "VBDs") {
            if is_set(&db.text("VBD", &each, "VDI")) || db.text("VBD", &each, "type") == "CD" {
                vbd::set_attached(db, &each, true);
            }
        }
        for vif in db.list("VM", vm, "VIFs") {
            db.set("VIF", &vif, "currently_attached", Value::Bool(true));
        }
        let metrics = db.text("VM", vm, "metrics");
        db.set("VM_metrics", &metrics, "start_time", Value::now());
        db.set("VM_metrics", &metrics, "last_updated", Value::now());
        if db.text("VM", vm, "last_booted_record").is_empty() {
            let record = format!("('struct' ('uuid' '{}'))", db.uuid("VM", vm));
            db.set("VM", vm, "last_booted_record", Value::str(record));
        }
        db.set("VM", vm, "last_boot_CPU_flags", Value::map([("vendor", "GenuineIntel"), ("features", "1fcbfbff")]));
        let domid =
            1 + db.rows("VM").map(|(_, record)| record.get("domid").map_or(0, Value::as_int)).max().unwrap_or(0);
        db.set("VM", vm, "domid", Value::Int(domid));
        db.set("VM", vm, "resident_on", Value::str(host));
        db.set("VM", vm, "power_state", Value::str(state));
        let console = Record::from([("protocol".to_owned(), Value::str("rfb")), ("VM".to_owned(), Value::str(vm))]);
        db.create("console", console);
        refresh_vm(db, profile, vm);
    });
}

/// The records of a VM that does not run.
fn stopped(world: &World, vm: &str, state: &str) {
    let profile = world.profile();
    world.write(|db| {
        let suspended = state == "Suspended";
        for each in db.list("VM", vm, "VBDs").iter().filter(|_| !suspended) {
            vbd::set_attached(db, each, false);
        }
        for vif in db.list("VM", vm, "VIFs").iter().filter(|_| !suspended) {
            db.set("VIF", vif, "currently_attached", Value::Bool(false));
        }
        db.list("VM", vm, "consoles").iter().for_each(|console| db.delete("console", console));
        if !suspended {
            let guest = db.text("VM", vm, "guest_metrics");
            db.delete("VM_guest_metrics", &guest);
            db.set("VM", vm, "guest_metrics", Value::null());
        }
        db.set("VM", vm, "domid", Value::Int(-1));
        db.set("VM", vm, "resident_on", Value::null());
        db.set("VM", vm, "power_state", Value::str(state));
        refresh_vm(db, profile, vm);
    });
}

/// Halts a VM without a word.
pub(crate) fn halt(world: &World, vm: &str) {
    stopped(world, vm, "Halted");
}

async fn shut_down(cx: Cx, args: Args, operation: &'static str) -> Outcome {
    let vm = args.text(0);
    let running = begin_vm(&cx, &vm, operation).await?;
    let behaviour = guest::behaviour(&cx.world, &vm);
    if operation == "clean_shutdown" && behaviour.ignores_shutdown {
        cx.world.latency(IGNORED).await;
        return Err(Failure::new("VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT", &[&vm]));
    }
    cx.world.latency(if operation == "hard_shutdown" { HARD } else { SHUTDOWN }).await;
    if is_set(&cx.world.read(|db| db.text("VM", &vm, "suspend_VDI"))) {
        drop_suspend_image(&cx, &vm).await;
    }
    halt(&cx.world, &vm);
    drop(running);
    Ok(Value::Void)
}

async fn reboot(cx: Cx, args: Args, operation: &'static str) -> Outcome {
    let vm = args.text(0);
    let running = begin_vm(&cx, &vm, operation).await?;
    cx.world.latency(SHUTDOWN).await;
    let host = cx.world.read(|db| db.text("VM", &vm, "resident_on"));
    halt(&cx.world, &vm);
    run(&cx.world, &vm, &host, false);
    drop(running);
    guest::boot(&cx.world, &vm, true);
    Ok(Value::Void)
}

async fn set_state(cx: Cx, args: Args, operation: &'static str, state: &'static str) -> Outcome {
    let vm = args.text(0);
    let running = begin_vm(&cx, &vm, operation).await?;
    cx.world.write(|db| db.set("VM", &vm, "power_state", Value::str(state)));
    drop(running);
    Ok(Value::Void)
}

async fn suspend(cx: Cx, args: Args) -> Outcome {
    let vm = args.text(0);
    let running = begin_vm(&cx, &vm, "suspend").await?;
    write_suspend_image(&cx, &vm).await?;
    stopped(&cx.world, &vm, "Suspended");
    drop(running);
    Ok(Value::Void)
}

/// Writes a VM's memory to a new VDI of type `suspend` on the SR meant for it.
pub(crate) async fn write_suspend_image(cx: &Cx, vm: &str) -> Outcome<()> {
    let (sr, memory) = cx.world.read(|db| {
        let pool = db.references("pool").pop().unwrap_or_default();
        let host = db.text("VM", vm, "resident_on");
        let wishes = [
            db.text("VM", vm, "suspend_SR"),
            db.text("pool", &pool, "suspend_image_SR"),
            db.text("host", &host, "suspend_image_sr"),
        ];
        (wishes.into_iter().find(|sr| is_set(sr) && db.exists("SR", sr)), db.int("VM", vm, "memory_dynamic_max"))
    });
    let sr = sr.ok_or_else(|| Failure::new("VM_NO_SUSPEND_SR", &[vm]))?;
    let size = u64::try_from(memory).unwrap_or(0).saturating_add(64 * 1024 * 1024);
    let record = Record::from([
        ("SR".to_owned(), Value::str(sr)),
        ("name_label".to_owned(), Value::str("Suspend image")),
        ("type".to_owned(), Value::str("suspend")),
        ("virtual_size".to_owned(), Value::bytes(size)),
    ]);
    let vdi = disks::create(cx, record).await?;
    let disk = cx.world.disk(&vdi)?;
    let seed = rand::random::<u64>();
    blocking(move || {
        let mut memory = vec![0; IMAGE];
        crate::content::fill(&mut memory, seed, 0);
        Ok(disk.write_at(0, &memory)?)
    })
    .await?;
    cx.world.latency(SHUTDOWN).await;
    cx.world.write(|db| db.set("VM", vm, "suspend_VDI", Value::str(vdi)));
    Ok(())
}

/// Removes a VM's suspend image.
pub(crate) async fn drop_suspend_image(cx: &Cx, vm: &str) {
    let image = cx.world.read(|db| db.text("VM", vm, "suspend_VDI"));
    cx.world.write(|db| db.set("VM", vm, "suspend_VDI", Value::str(NULL)));
    if is_set(&image)
        && let Err(failure) = disks::destroy(cx, &image).await
    {
        tracing::warn!(vm, %failure, "a suspend image is left behind");
    }
}

/// A host is gone: its VMs are halted.
pub(crate) fn host_lost(world: &Arc<World>, host: &str) {
    for vm in world.read(|db| db.list("host", host, "resident_VMs")) {
        if !world.read(|db| db.flag("VM", &vm, "is_control_domain")) {
            halt(world, &vm);
        }
    }
}
