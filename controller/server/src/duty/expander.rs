//! Turns runs into tasks.

use coffer_core::decide::plan;
use coffer_core::record::RunState;
use coffer_model::RunId;

use super::Duty;
use crate::fault::Fault;
use crate::plane::Plane;

pub(super) struct Expander;

impl Duty for Expander {
    const NAME: &'static str = "expander";

    async fn round(&mut self, plane: &Plane) -> Result<(), Fault> {
        let planning: Vec<RunId> = plane.read(|state| {
            let planning = |run: &RunState| matches!(run, RunState::Planning { .. });
            state.runs.iter().filter(|(_, run)| planning(&run.record.state)).map(|((run,), _)| run.clone()).collect()
        });
        for run in planning {
            // Until all of it is written down, or somebody else does the same.
            while let Some(change) = plane.read(|state| plan::expand(state, &run, plane.now())) {
                if plane.stop.is_cancelled() || !plane.commit(change).await? {
                    break;
                }
            }
        }
        Ok(())
    }
}
