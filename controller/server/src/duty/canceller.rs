//! Ends the tasks of cancelled runs that nobody holds; who holds one is told by Sync.

use coffer_core::decide::cancel;

use super::Duty;
use crate::fault::Fault;
use crate::plane::Plane;

pub(super) struct Canceller;

impl Duty for Canceller {
    const NAME: &'static str = "canceller";

    async fn round(&mut self, plane: &Plane) -> Result<(), Fault> {
        for (_, change) in plane.read(|state| cancel::sweep(state, plane.now())) {
            plane.commit(change).await?;
        }
        Ok(())
    }
}
