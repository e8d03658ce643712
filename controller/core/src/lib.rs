//! The control plane's decisions as pure functions of state and time.
//!
//! [`state::State`] is what the store holds, decoded; [`decide`] has the decisions, which return
//! [`change::Change`]s; whoever has a store makes them transactions. No clock, no input or output, no randomness, no
//! waiting in here; nothing in here can fail but by refusing.

pub mod change;
pub mod decide;
pub mod record;
pub mod slot;
pub mod state;
pub mod task_state;

pub use change::{Change, Guard, Write};
pub use record::RecordError;
pub use state::{Entry, Key, State, Versioned};
