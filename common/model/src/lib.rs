//! The domain model: ids, jobs, selections, schedules, retention. Pure: no clock, no input or output.

pub mod counted;
pub mod fence;
pub mod ids;
pub mod inventory;
pub mod job;
pub mod names;
pub mod retention;
pub mod schedule;
pub mod selection;
pub mod size;

pub use counted::counted;
pub use fence::{Epoch, Fence, Incarnation};
pub use ids::{
    AgentId, HostUuid, IdError, IntentId, JobId, PoolId, RemoteId, RestoreId, RestorePointId, RunId, ScheduleId,
    SrUuid, TaskId, VdiUuid, VmUuid,
};
pub use inventory::{InventoryDisk, InventorySr, InventoryVm, PoolInventory, PowerState, is_excluded_disk};
pub use job::Job;
pub use names::{NameError, ScheduleName, SrName, TaskName, VmName};
pub use retention::{Label, Point, Verdict};
pub use schedule::{Cron, Due, Schedule, Tick};
pub use selection::{Resolution, Selection};
pub use size::ByteSize;
