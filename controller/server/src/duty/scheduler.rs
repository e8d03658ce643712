//! Fires the ticks of schedules.

use std::collections::BTreeSet;

use coffer_core::decide::tick;
use coffer_model::{JobId, ScheduleId};

use super::Duty;
use crate::fault::Fault;
use crate::plane::Plane;

/// Remembers which rules it has complained of, with their revision.
#[derive(Default)]
pub(super) struct Scheduler {
    unreadable: BTreeSet<(JobId, ScheduleId, u64)>,
}

impl Duty for Scheduler {
    const NAME: &'static str = "scheduler";

    async fn round(&mut self, plane: &Plane) -> Result<(), Fault> {
        let now = plane.now();
        let looked_at = plane.read(|state| {
            let fire = |((job, schedule), rule): (&(JobId, ScheduleId), &coffer_core::Versioned<_>)| {
                (job.clone(), schedule.clone(), rule.modified, tick::fire(state, job, schedule, now))
            };
            state.schedules.iter().map(fire).collect::<Vec<_>>()
        });
        self.unreadable.retain(|known| {
            looked_at
                .iter()
                .any(|(job, schedule, modified, _)| (job, schedule, modified) == (&known.0, &known.1, &known.2))
        });
        for (job, schedule, modified, fired) in looked_at {
            match fired {
                Ok(None) => {}
                Ok(Some(change)) => {
                    if plane.commit(change).await? {
                        tracing::debug!(%job, %schedule, "the schedule moved on");
                    }
                }
                Err(error) => {
                    if self.unreadable.insert((job.clone(), schedule.clone(), modified)) {
                        let error: &dyn std::error::Error = &error;
                        tracing::error!(%job, %schedule, error, "the schedule cannot be read and starts nothing");
                    }
                }
            }
        }
        Ok(())
    }
}
