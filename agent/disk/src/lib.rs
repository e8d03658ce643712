//! Disks as streams of extents: NBD exports, VHD streams, and raw, VHD and qcow2 files.
//!
//! This crate owns the formats and protocols in which a disk of a pool reaches us and leaves us again, as sources and
//! sinks of [`coffer_extent`]. It never decides what to copy, knows nothing of XAPI or of backups, and never asks for
//! a whole disk in memory: payload lives in the [`BufferPool`](coffer_extent::BufferPool).
//!
//! | from | to |
//! | --- | --- |
//! | [`nbd::NbdDisk`] (random access), [`nbd::NbdSource`] | |
//! | [`vhd::VhdSource`], [`vhd::VhdHead`] (which blocks exist, then cut the stream) | [`vhd::VhdSink`] |
//! | [`file::RawFileSource`], [`file::RawFile`] (random access) | [`file::RawFileSink`], [`file::VhdFileSink`], [`file::Qcow2FileSink`] |

mod error;
pub mod file;
pub mod nbd;
pub mod vhd;

pub use error::{Error, NbdError, VhdError};
