//! The simulated pool's storage: copy-on-write disks, VHD trees, changed blocks, the streams and NBD.
//!
//! Owns everything beneath XAPI's objects: [`SrStore`] keeps the disks of one storage repository, [`vhd`], [`raw`] and
//! [`xva`] speak the stream formats of the HTTP handlers, [`nbd`] is the host's NBD service. Never knows sessions,
//! tasks or records: those belong to the program built on top of it.
//!
//! Every blocking call of [`SrStore`] and [`Disk`] is meant for `spawn_blocking`; the stream functions do that
//! themselves and never hold more than a few pieces of a disk in memory.

mod cbt;
mod disk;
mod error;
mod map;
pub mod nbd;
mod pump;
pub mod raw;
mod source;
mod store;
pub mod vhd;
pub mod xva;

pub use disk::{Disk, ReadAt};
pub use error::{Error, Result, XapiFailure};
pub use pump::Progress;
pub use store::{
    Fault, Forked, GcEvent, GcOptions, NodeInfo, NodeKind, Operation, Provisioning, SrParams, SrStore, Usage,
};

/// Bytes of one VHD block, the unit in which space is allocated.
pub const BLOCK: u64 = 2 * 1024 * 1024;
/// Bytes of one sector, the unit in which a block knows what is present.
pub const SECTOR: u64 = 512;
/// Bytes covered by one bit of a changed-block bitmap.
pub const CBT_BLOCK: u64 = 64 * 1024;
