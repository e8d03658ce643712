//! Disks attached to a host's own domain while a transfer works on them.
//!
//! As on real hosts the VBD is visible, makes the VDI busy, blocks its garbage collection, and is left behind when the
//! toolstack goes down in the middle.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ops::vbd::{check_attach, device_name, free_devices};
use crate::value::{Failure, Outcome, Record, Value};
use crate::world::World;

/// A disk that is attached to dom0; detached when dropped, unless its host has gone down.
#[derive(Debug)]
pub(crate) struct Attached {
    world: Arc<World>,
    vbd: Option<String>,
    life: CancellationToken,
}

/// Attaches a VDI to a host's dom0; takes about as long as `real`.
pub(crate) async fn attach(
    world: &Arc<World>,
    host: usize,
    vdi: &str,
    writable: bool,
    real: Duration,
) -> Outcome<Attached> {
    let host = world.hosts.get(host).ok_or_else(|| Failure::internal("no such host"))?;
    let mode = if writable { "RW" } else { "RO" };
    let vbd = world.write(|db| {
        let kind = db.text("VDI", vdi, "type");
        if kind == "cbt_metadata" {
            return Err(Failure::new("VDI_INCOMPATIBLE_TYPE", &[vdi, &kind]));
        }
        let dom0 = db.text("host", &host.reference, "control_domain");
        let device =
            free_devices(db, &dom0).first().cloned().ok_or_else(|| Failure::new("INVALID_DEVICE", &["autodetect"]))?;
        let record = Record::from([
            ("VM".to_owned(), Value::str(dom0)),
            ("VDI".to_owned(), Value::str(vdi)),
            ("device".to_owned(), Value::str(device_name(&device))),
            ("userdevice".to_owned(), Value::str(device)),
            ("mode".to_owned(), Value::str(mode)),
            ("type".to_owned(), Value::str("Disk")),
        ]);
        let vbd = db.create("VBD", record);
        if let Err(failure) = check_attach(db, &vbd) {
            db.delete("VBD", &vbd);
            return Err(failure);
        }
        db.set("VBD", &vbd, "currently_attached", Value::Bool(true));
        Ok(vbd)
    })?;
    let attached = Attached { world: Arc::clone(world), vbd: Some(vbd), life: host.life() };
    world.latency(real).await;
    Ok(attached)
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(vbd) = self.vbd.take()
            && !self.life.is_cancelled()
            && !self.world.stop.is_cancelled()
        {
            self.world.write(|db| db.delete("VBD", &vbd));
        }
    }
}
