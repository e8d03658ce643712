//! The loops: each looks at the mirror, lets the core decide, and commits. Every round may be cut off or done twice, by
//! this controller or another one; what lost a race is decided anew at the next wake.

mod archiver;
mod canceller;
mod dispatcher;
mod expander;
mod finisher;
mod scheduler;
mod upkeep;
mod watcher;

use std::future::Future;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::Error;
use crate::fault::Fault;
use crate::plane::Plane;

/// Something that has to be done again and again.
trait Duty: Send + 'static {
    /// For logs.
    const NAME: &'static str;

    /// Does what there is to do now. Errors are the store's; the next round tries again.
    fn round(&mut self, plane: &Plane) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Starts every loop; each ends when the plane stops.
pub(crate) fn spawn_all(plane: &Arc<Plane>, parts: &mut JoinSet<Result<(), Error>>) {
    parts.spawn(run(scheduler::Scheduler::default(), Arc::clone(plane)));
    parts.spawn(run(expander::Expander, Arc::clone(plane)));
    parts.spawn(run(dispatcher::Dispatcher::default(), Arc::clone(plane)));
    parts.spawn(run(watcher::Watcher::default(), Arc::clone(plane)));
    parts.spawn(run(canceller::Canceller, Arc::clone(plane)));
    parts.spawn(run(finisher::Finisher, Arc::clone(plane)));
    parts.spawn(run(upkeep::Upkeep, Arc::clone(plane)));
    parts.spawn(run(archiver::Archiver::default(), Arc::clone(plane)));
}

/// Runs a duty at every change of the mirror, and after the period without one.
async fn run<D: Duty>(mut duty: D, plane: Arc<Plane>) -> Result<(), Error> {
    let mut changes = plane.changes();
    let period = plane.timings.loop_period;
    while !plane.stop.is_cancelled() {
        changes.borrow_and_update();
        let failed = duty.round(&plane).await.inspect_err(|fault| {
            let error: &dyn std::error::Error = fault;
            tracing::warn!(duty = D::NAME, error, "a round failed; it is tried again");
        });
        tokio::select! {
            // After a failure changes do not hurry it: they are probably its own.
            changed = changes.changed(), if failed.is_ok() => {
                if changed.is_err() {
                    break;
                }
            }
            () = tokio::time::sleep(period) => {}
            () = plane.stop.cancelled() => {}
        }
    }
    Ok(())
}
