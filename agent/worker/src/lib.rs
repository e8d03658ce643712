//! The data plane: carries leased tasks out, step by step.
//!
//! [`Agent::run`] keeps one session with the controllers, one connection to each pool and one open repository on each
//! remote, and works on the tasks that it is given. It owns the order of side effects (what is written down before what
//! is done) and their undoing. It never decides what is backed up, when, or how long it is kept: controllers do; and it
//! holds no state that matters: everything needed to resume is with the controllers, in the pool or on the remote.

mod agent;
mod authority;
mod backup;
mod control;
mod document;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod halt;
mod hypervisor;
mod journal;
mod options;
mod places;
mod point;
mod progress;
mod restore;
mod stamps;
mod state_dir;
mod sync;
mod task;

pub use agent::Agent;
pub use error::Error;
pub use options::AgentOptions;
