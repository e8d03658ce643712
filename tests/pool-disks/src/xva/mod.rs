//! XVA archives as `/export` sends and `/import` takes them. What `ova.xml` says is the program's business.

mod export;
mod import;
mod pack;
mod tar;
mod unpack;

use std::time::Duration;

use sha1::{Digest, Sha1};

pub use self::export::{export, export_vdi_tar};
pub use self::import::{Import, import_vdi_tar};
use crate::error::XapiFailure;

/// Bytes of a chunk; the last of a disk may be shorter.
const CHUNK: u64 = 1024 * 1024;

/// What is wrong with an XVA; each is one of XAPI's `IMPORT_ERROR`s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XvaFault {
    /// Another member was expected.
    #[error("found member {found:?} where {expected:?} was expected")]
    UnexpectedFile {
        /// What was expected.
        expected: String,
        /// What came.
        found: String,
    },
    /// A chunk is not what its checksum member says.
    #[error("the checksum of member {member:?} does not match")]
    BadChecksum {
        /// The chunk.
        member: String,
    },
    /// A tar header is damaged.
    #[error("a tar header is damaged: {why}")]
    BadHeader {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A member is larger than any host writes.
    #[error("member {member:?} has {size} bytes, too many")]
    MemberTooLarge {
        /// The member.
        member: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A chunk lies beyond the end of its disk.
    #[error("member {member:?} lies beyond the end of its disk")]
    OutsideDisk {
        /// The chunk.
        member: String,
    },
    /// The outer compression is damaged.
    #[error("the compressed stream is damaged")]
    BadCompression,
}

impl XvaFault {
    /// What XAPI reports.
    pub fn xapi(&self) -> XapiFailure {
        match self {
            Self::UnexpectedFile { expected, found } => {
                XapiFailure::new("IMPORT_ERROR_UNEXPECTED_FILE", &[expected, found])
            }
            Self::BadChecksum { .. } => XapiFailure::new("IMPORT_ERROR_SOME_CHECKSUMS_FAILED", &[]),
            Self::BadHeader { .. } | Self::MemberTooLarge { .. } | Self::OutsideDisk { .. } | Self::BadCompression => {
                XapiFailure::new("IMPORT_ERROR", &[&self.to_string()])
            }
        }
    }
}

/// Outer compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// None.
    #[default]
    None,
    /// `use_compression=true|gzip`.
    Gzip,
    /// `use_compression=zstd`.
    Zstd,
}

/// The checksum member after each chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// `.xxhash`, since 8.1.
    #[default]
    Xxhash,
    /// `.checksum`, SHA-1, before.
    Sha1,
}

/// When zero-length members are written into long runs of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// When nothing could be written for this long (hosts: 5 s).
    Idle(Duration),
    /// After every so many chunks left out, for tests.
    OmittedChunks(u32),
}

/// How an archive is written.
#[derive(Debug, Clone, Copy)]
pub struct ExportOptions {
    /// Outer compression.
    pub compression: Compression,
    /// Checksum members.
    pub checksum: Checksum,
    /// Zero-length members.
    pub keep_alive: KeepAlive,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            compression: Compression::None,
            checksum: Checksum::Xxhash,
            keep_alive: KeepAlive::Idle(Duration::from_secs(5)),
        }
    }
}

impl Checksum {
    fn suffix(self) -> &'static str {
        match self {
            Self::Xxhash => ".xxhash",
            Self::Sha1 => ".checksum",
        }
    }

    /// The text of the checksum member of a chunk.
    fn of(self, chunk: &[u8]) -> String {
        match self {
            Self::Xxhash => format!("{:016X}", xxhash_rust::xxh64::xxh64(chunk, 0)),
            Self::Sha1 => Sha1::digest(chunk).iter().fold(String::with_capacity(40), |mut text, byte| {
                text.push_str(&format!("{byte:02x}"));
                text
            }),
        }
    }
}
