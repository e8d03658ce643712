//! The simulated pool from outside: raw HTTP, calls, events, gates, transfers, NBD, faults, restarts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod calls;
mod events;
mod faults;
mod gates;
mod guests;
mod hosts;
mod http;
mod nbd;
mod restart;
mod storage;
mod support;
mod transfers;
