//! The control plane: gRPC services, and the loops that carry decisions out.
//!
//! This crate talks to the store, to clients and to agents; it decides nothing. Decisions are pure functions in
//! [`coffer_core`]; what they decide becomes true in one transaction of the store, or not at all. It never talks to a
//! pool or a remote, and holds no state that is not rebuilt from the store (but progress, which may be lost).

mod auth;
mod board;
mod convert;
mod duty;
mod error;
mod fault;
#[doc(hidden)]
pub mod fuzz;
mod heard;
mod history;
mod options;
mod order;
mod page;
mod plane;
mod ready;
mod request;
mod sealing;
mod secret;
mod server;
mod service;

pub use error::Error;
pub use options::{Clock, Limits, ServeOptions, SystemClock, Timings};
pub use ready::READY;
pub use server::{ADDRESS_FILE, API_TOKEN_FILE, Controller, Handle, SEALING_KEY_FILE};
