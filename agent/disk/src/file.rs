//! Disks in files: raw (read and written), VHD and qcow2 (written).
//!
//! A file under construction is called `NAME.partial` and gets its name, which must be free, only when it is complete
//! and durable. Everything is written in the order of the disk with bounded memory, on the blocking threads of the
//! runtime.

mod partial;
mod qcow2;
mod raw;
mod vhd;

pub use qcow2::Qcow2FileSink;
pub use raw::{RawFile, RawFileSink, RawFileSource};
pub use vhd::VhdFileSink;
