//! The control interface: how a test prepares the pool, plays the guest, looks behind the scenes and switches faults
//! on.
//!
//! HTTP and JSON on a loopback port of its own, apart from XAPI: nothing here exists on a real host.

mod api;
mod client;
mod server;

pub use api::*;
pub use client::{Client, ControlError};
pub(crate) use server::serve;
