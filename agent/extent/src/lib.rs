//! A disk as a stream of extents: the types and traits that every source and sink of the data plane shares.
//!
//! This crate owns the words (`Extent`, `ExtentSource`, `ExtentSink`, `BlockReader`), the agent's byte budget
//! ([`BufferPool`]), sets of ranges ([`RangeSet`]) and the pump between a source and a sink ([`copy()`]). It never
//! opens a file or a connection and knows no format: crates that do depend on it, not the other way round.

mod copy;
mod error;
mod extent;
mod memory;
mod pool;
mod ranges;
mod traits;
mod validated;
mod zero;

pub use copy::{Progress, Transferred, copy};
pub use error::{ExtentError, StreamError};
pub use extent::Extent;
pub use memory::{MemorySink, MemorySource};
pub use pool::{Buffer, BufferPool};
pub use ranges::{CBT_BLOCK, RangeSet};
pub use traits::{BlockReader, ExtentSink, ExtentSource};
pub use validated::Validated;
pub use zero::is_zero;

/// Sources align data extents to this many bytes where the disk allows it; only the last one may be shorter.
pub const ALIGNMENT: u64 = 64 * 1024;

/// Size of a pool buffer unless configured otherwise, hence the most that one data extent holds: 1 MiB.
pub const DEFAULT_BUFFER_BYTES: usize = 1024 * 1024;
