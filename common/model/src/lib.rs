//! The domain model: ids, jobs, selections, schedules, retention. Pure: no clock, no input or output.
