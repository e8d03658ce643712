//! The data plane: carries leased tasks out, step by step.
//!
//! [`Agent::run`] keeps one session with the controllers, one connection to each pool and one open repository on each
//! remote, and works on the tasks that it is given. It owns the order of side effects (what is written down before what
//! is done) and their undoing. It never decides what is backed up, when, or how long it is kept: controllers do; and it
//! holds no state that matters: everything needed to resume is with the controllers, in the pool or on the remote.

mod agent;
mod error;
mod options;
mod state_dir;

pub use agent::Agent;
pub use error::Error;
pub use options::AgentOptions;
