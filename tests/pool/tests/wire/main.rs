//! The simulated pool from outside: raw HTTP, calls, events, gates, transfers, NBD, faults, restarts.

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
