//! Garbage collection of SRs: late, slow, and blocked by what dom0 has attached, as on real hosts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pool_disks::GcOptions;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ops::disks::sync_sr;
use crate::value::{Failure, Outcome};
use crate::world::{World, blocking, lock, uuid_of};

/// Quiet that is waited for after a deletion.
const QUIET: Duration = Duration::from_secs(300);
/// One step of coalescing.
const STEP: Duration = Duration::from_secs(2);

/// Which SRs are due when.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    due: Mutex<HashMap<String, Instant>>,
    wake: Notify,
}

impl Garbage {
    /// Something was deleted or scanned: the quiet begins anew.
    pub(crate) fn due(&self, world: &World, sr: &str) {
        lock(&self.due).insert(sr.to_owned(), Instant::now() + world.config.scaled(QUIET));
        self.wake.notify_one();
    }

    fn next(&self) -> Option<(String, Instant)> {
        lock(&self.due).iter().min_by_key(|(_, at)| **at).map(|(sr, at)| (sr.clone(), *at))
    }

    fn forget(&self, sr: &str, at: Instant) {
        let mut due = lock(&self.due);
        if due.get(sr) == Some(&at) {
            due.remove(sr);
        }
    }
}

/// Collects garbage until the program stops.
pub(crate) async fn run(world: Arc<World>) {
    loop {
        let next = world.garbage.next();
        let until = next.as_ref().map(|(_, at)| *at);
        let timer = async {
            match until {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = world.stop.cancelled() => return,
            () = world.garbage.wake.notified() => {}
            () = timer => {
                if let Some((sr, at)) = next {
                    world.garbage.forget(&sr, at);
                    if let Err(failure) = collect(&world, &sr, true).await {
                        tracing::warn!(sr, %failure, "garbage collection of an SR stopped");
                    }
                }
            }
        }
    }
}

/// Collects an SR's garbage to the end.
pub(crate) async fn collect(world: &Arc<World>, sr: &str, slowly: bool) -> Outcome<()> {
    loop {
        let store = world.store(sr)?;
        let Some(options) = options(world, sr)? else { return Ok(()) };
        let done = blocking(move || Ok(store.garbage_collect_step(&options)?)).await?;
        let Some(event) = done else { return Ok(()) };
        tracing::debug!(sr, ?event, "garbage collection");
        sync_sr(world, sr);
        if slowly {
            world.latency(STEP).await;
        }
        if world.stop.is_cancelled() {
            return Err(Failure::internal("the pool stops"));
        }
    }
}

/// What the SR allows; `None`: nothing.
fn options(world: &World, sr: &str) -> Outcome<Option<GcOptions>> {
    world.read(|db| {
        let off = |key: &str| db.entry("SR", sr, "other_config", key).as_deref() == Some("false");
        if off("gc") {
            return Ok(None);
        }
        let in_dom0 = |vdi: &String| {
            db.list("VDI", vdi, "VBDs").iter().any(|vbd| {
                db.flag("VBD", vbd, "currently_attached")
                    && db.flag("VM", &db.text("VBD", vbd, "VM"), "is_control_domain")
            })
        };
        let busy = db.list("SR", sr, "VDIs").into_iter().filter(in_dom0);
        let busy = busy.map(|vdi| uuid_of(&db.uuid("VDI", &vdi))).collect::<Outcome<_>>()?;
        Ok(Some(GcOptions { coalesce: !off("coalesce"), leaf_coalesce: !off("leaf-coalesce"), busy }))
    })
}
