//! What guests do once their VM runs: drivers report, the tools' daemon reports, xenstore is written, or nothing comes.

use std::sync::Arc;
use std::time::Duration;

use pool_disks::ReadAt;
use sha2::{Digest, Sha256};

use crate::control::GuestBehaviour;
use crate::ops::disks::boot_disk;
use crate::value::{NULL, Record, Value};
use crate::world::{World, blocking, lock};

/// From start to the first driver that connects.
const DRIVERS: Duration = Duration::from_secs(15);
/// From there to the daemon's first report.
const AGENT: Duration = Duration::from_secs(30);
/// What is read of a boot disk to see whether there is anything to boot.
const BOOT_AREA: usize = 1 << 20;
/// What tells one operating system from another.
const SIGNATURE: usize = 64 * 1024;

/// Sets how a VM's guest behaves, and with it every copy that boots from the same content.
pub(crate) async fn set_behaviour(world: &Arc<World>, vm: &str, behaviour: GuestBehaviour) {
    let uuid = world.read(|db| db.uuid("VM", vm));
    let signature = boot_area(world, vm).await.map(|area| signature(&area));
    let mut guests = lock(&world.guests);
    guests.insert(uuid, behaviour.clone());
    if let Some(Some(signature)) = signature {
        guests.insert(signature, behaviour);
    }
}

/// How a VM's guest behaves by its own name only.
pub(crate) fn behaviour(world: &World, vm: &str) -> GuestBehaviour {
    let uuid = world.read(|db| db.uuid("VM", vm));
    lock(&world.guests).get(&uuid).cloned().unwrap_or_default()
}

async fn boot_area(world: &Arc<World>, vm: &str) -> Option<Vec<u8>> {
    let disk = boot_disk(world, vm)?;
    let read = blocking(move || {
        let length = usize::try_from(disk.size()?).unwrap_or(usize::MAX).min(BOOT_AREA);
        let mut area = vec![0; length];
        disk.read_at(0, &mut area)?;
        Ok(area)
    });
    read.await.ok()
}

/// The digest of a boot area; none when there is nothing in it.
fn signature(area: &[u8]) -> Option<String> {
    let start = area.get(..SIGNATURE).unwrap_or(area);
    start.iter().any(|b| *b != 0).then(|| format!("disk:{}", hex::encode(Sha256::digest(start))))
}

/// The guest of a VM that was just started (or resumed, when not `fresh`) comes up in the background.
pub(crate) fn boot(world: &Arc<World>, vm: &str, fresh: bool) {
    let (world, vm) = (Arc::clone(world), vm.to_owned());
    let domid = world.read(|db| db.int("VM", &vm, "domid"));
    tokio::spawn(async move {
        let stop = world.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = come_up(&world, &vm, domid, fresh) => {}
        }
    });
}

async fn come_up(world: &Arc<World>, vm: &str, domid: i64, fresh: bool) {
    let uuid = world.read(|db| db.uuid("VM", vm));
    let area = boot_area(world, vm).await.unwrap_or_default();
    let own = lock(&world.guests).get(&uuid).cloned();
    let inherited = signature(&area).and_then(|s| lock(&world.guests).get(&s).cloned());
    // Nothing on the boot disk, nobody said otherwise: nothing boots.
    let boots = own.is_some() || area.iter().any(|b| *b != 0);
    let behaviour = own.or(inherited).unwrap_or_default();
    if fresh {
        world.latency(DRIVERS).await;
    }
    if behaviour.crashes {
        if is_up(world, vm, domid) {
            crate::ops::power::halt(world, vm);
        }
        return;
    }
    if !boots || !behaviour.reports || !is_up(world, vm, domid) {
        return;
    }
    report_drivers(world, vm);
    if fresh {
        world.latency(AGENT).await;
    }
    if !is_up(world, vm, domid) {
        return;
    }
    if behaviour.agent {
        report_agent(world, vm);
    }
    for (key, value) in &behaviour.xenstore {
        world.write(|db| db.put("VM", vm, "xenstore_data", key, value.as_str()));
    }
}

fn is_up(world: &World, vm: &str, domid: i64) -> bool {
    world.read(|db| db.int("VM", vm, "domid") == domid && db.text("VM", vm, "power_state") == "Running")
}

/// The first PV frontend is connected.
fn report_drivers(world: &World, vm: &str) {
    world.write(|db| {
        let old = db.text("VM", vm, "guest_metrics");
        if old != NULL {
            db.delete("VM_guest_metrics", &old);
        }
        let record = Record::from([
            ("PV_drivers_detected".to_owned(), Value::Bool(true)),
            ("PV_drivers_up_to_date".to_owned(), Value::Bool(true)),
            ("live".to_owned(), Value::Bool(true)),
            ("last_updated".to_owned(), Value::now()),
        ]);
        let metrics = db.create("VM_guest_metrics", record);
        db.set("VM", vm, "guest_metrics", Value::str(metrics));
    });
}

/// The tools' daemon speaks.
fn report_agent(world: &World, vm: &str) {
    world.write(|db| {
        let metrics = db.text("VM", vm, "guest_metrics");
        let mut set = |field: &str, value: Value| db.set("VM_guest_metrics", &metrics, field, value);
        set("PV_drivers_version", Value::map([("major", "7"), ("minor", "30"), ("micro", "0"), ("build", "1")]));
        let system = [
            ("name", "Debian GNU/Linux 12"),
            ("uname", "6.1.0"),
            ("distro", "debian"),
            ("major", "12"),
            ("minor", "0"),
        ];
        set("os_version", Value::map(system));
        set("other", Value::map([("feature-suspend", "1"), ("feature-shutdown", "1"), ("feature-balloon", "1")]));
        set("last_updated", Value::now());
        let domid = db.int("VM", vm, "domid");
        let vifs = db.list("VM", vm, "VIFs");
        let addresses: Vec<(String, String)> = vifs
            .iter()
            .enumerate()
            .flat_map(|(n, _)| {
                let ip = format!("10.0.{n}.{}", domid.rem_euclid(250) + 1);
                [(format!("{n}/ip"), ip.clone()), (format!("{n}/ipv4/0"), ip)]
            })
            .collect();
        db.set("VM_guest_metrics", &metrics, "networks", Value::map(addresses));
    });
}

/// Guest metrics at once, for VMs that the control interface makes running.
pub(crate) fn report_at_once(world: &World, vm: &str, behaviour: &GuestBehaviour) {
    if behaviour.reports && !behaviour.crashes {
        report_drivers(world, vm);
        if behaviour.agent {
            report_agent(world, vm);
        }
    }
}
