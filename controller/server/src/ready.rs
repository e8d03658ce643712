//! Readiness that is true: a controller is ready while its store answers and its picture of it is followed, not merely
//! because its process lives. Served as health of the service [`READY`]; the health of the process is that of the empty
//! name.

use std::sync::Arc;
use std::time::Duration;

use coffer_store::RangeRequest;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::Error;
use crate::plane::Plane;

/// The service that is asked for.
pub const READY: &str = "coffer.v1";

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// A store that takes longer is not there.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks until the controller stops. Says in the log when it changes.
pub(crate) async fn watch(plane: Arc<Plane>, reporter: HealthReporter) -> Result<(), Error> {
    let mut was_ready = None;
    loop {
        let is_ready = is_ready(&plane).await;
        if was_ready.replace(is_ready) != Some(is_ready) {
            let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status(READY, status).await;
            if is_ready {
                tracing::info!("ready");
            } else {
                tracing::warn!("not ready: the store does not answer; agents and clients turn to another controller");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = plane.stop.cancelled() => break,
        }
    }
    for service in [READY, ""] {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
    }
    Ok(())
}

async fn is_ready(plane: &Plane) -> bool {
    let asked = plane.store.range(RangeRequest::prefix(coffer_core::state::ROOT, 1));
    matches!(tokio::time::timeout(PATIENCE, asked).await, Ok(Ok(_)))
}
