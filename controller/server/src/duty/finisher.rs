//! Ends runs whose tasks have all ended.

use coffer_core::decide::finish;
use coffer_core::record::RunState;

use super::Duty;
use crate::fault::Fault;
use crate::plane::Plane;

pub(super) struct Finisher;

impl Duty for Finisher {
    const NAME: &'static str = "finisher";

    async fn round(&mut self, plane: &Plane) -> Result<(), Fault> {
        let (over, held) = plane.read(|state| {
            let active = state.runs.iter().filter(|(_, run)| run.record.state == RunState::Active);
            let over: Vec<_> = active
                .filter_map(|((run,), _)| Some((run.clone(), finish::finish(state, run, plane.now())?)))
                .collect();
            let held: std::collections::BTreeSet<_> = state.open.keys().cloned().collect();
            (over, held)
        });
        // Progress of what has ended is in the store.
        plane.board.retain(|task| held.contains(task));
        for (run, change) in over {
            if plane.commit(change).await? {
                tracing::info!(%run, "the run has ended");
            }
        }
        Ok(())
    }
}
