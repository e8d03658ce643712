//! A simulated pool of XCP-ng hosts, over the true wire protocols.
//!
//! A product of its own: whoever speaks XAPI, its HTTP handlers and its NBD finds a pool; [`control`] is how a test
//! prepares it, plays the guests and switches faults on. [`Builder`] starts one inside the calling program, the program
//! `simpool` starts one by itself.
//!
//! From the wire inwards: `http` and `wire` (bytes), `rpc` (calls), `ops` (operations), `transfer` and `nbd` (data),
//! `db` and `world` (state). Storage and stream formats are the crate `pool-disks`.

pub mod control;

mod builder;
mod config;
mod content;
mod counters;
mod db;
mod dom0;
mod error;
mod events;
mod faults;
mod gc;
mod guest;
mod http;
mod nbd;
mod ops;
mod rpc;
mod running;
mod saved;
mod session;
mod setup;
mod tasks;
mod tls;
mod transfer;
mod value;
mod wire;
mod world;

pub use builder::{Builder, SimPool};
pub use config::{Config, NbdMode, Profile};
pub use error::Error;
