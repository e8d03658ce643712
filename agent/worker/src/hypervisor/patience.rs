//! Waits for what an agent that is gone may have set going: a call goes on in the pool when nobody waits for its
//! answer.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::Hypervisor;
use crate::halt::{Outcome, Trouble};

/// How long.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Returns once every operation of a kind (`VDI.create`) that is under way now has ended: what it makes is there then.
/// Those of others are waited for too, because tasks do not say whose they are.
pub(crate) async fn nothing_pending(pool: &dyn Hypervisor, method: &str) -> Outcome<()> {
    let begin = Instant::now();
    let mut waited_for = pool.under_way(method).await?;
    while !waited_for.is_empty() {
        patient(begin, || format!("{method} has been under way in the pool"))?;
        tokio::time::sleep(LOOK_AGAIN).await;
        let under_way = pool.under_way(method).await?;
        waited_for.retain(|task| under_way.contains(task));
    }
    Ok(())
}

/// Returns once no snapshot of a VM is being taken.
pub(crate) async fn snapshot_not_pending(pool: &dyn Hypervisor, vm: Uuid) -> Outcome<()> {
    let Some(reference) = pool.find_vm(vm).await? else { return Ok(()) };
    let begin = Instant::now();
    while let Some(record) = pool.vm(&reference).await? {
        if !record.current_operations.values().any(|operation| operation == "snapshot") {
            break;
        }
        patient(begin, || format!("a snapshot of {} has been under way", record.name_label))?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

fn patient(since: Instant, what: impl Fn() -> String) -> Result<(), Trouble> {
    if since.elapsed() < PATIENCE {
        return Ok(());
    }
    let message = format!("{} for {} s", what(), PATIENCE.as_secs());
    Err(Trouble::new("POOL_BUSY", message, "look at the pool's running tasks").passing())
}
