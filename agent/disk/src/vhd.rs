//! VHD as it goes over the wire between a pool and us: read ([`VhdSource`], [`VhdHead`]) and written ([`VhdPlan`],
//! [`VhdSink`]).
//!
//! Nothing here seeks. Files that are VHDs are written by [`crate::file`].

mod format;
mod head;
mod plan;
mod sink;
mod source;

pub use format::{BLOCK_BYTES, MAX_SIZE, VhdKind};
pub use head::VhdHead;
pub use plan::VhdPlan;
pub use sink::{PIECES_HELD_BACK, PieceWriter, VhdSink};
pub use source::VhdSource;

pub(crate) use format::{FOOTER_BYTES, Footer, HEADER_BYTES, Header, UNUSED, bat_bytes};
