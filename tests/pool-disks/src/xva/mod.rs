//! XVA archives as `/export` sends and `/import` takes them.
#![allow(clippy::todo, unused_variables, clippy::unused_async, reason = "skeleton, filled in within the hour")]
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::disk::Disk;
use crate::error::{Result, XapiFailure};
use crate::pump::Progress;

/// What is wrong with an XVA; each is one of XAPI's `IMPORT_ERROR`s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XvaFault {
    /// Another member was expected.
    #[error("found member {found} where {expected} was expected")]
    UnexpectedFile {
        /// What was expected.
        expected: String,
        /// What came.
        found: String,
    },
}

impl XvaFault {
    /// What XAPI reports.
    pub fn xapi(&self) -> XapiFailure {
        todo!()
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

/// Sends a VM: `ova.xml`, then each disk under its reference name (`Ref:12`), in lexicographic order. Returns the
/// bytes sent.
///
/// # Errors
/// When a disk cannot be read or the peer is gone.
pub async fn export<W: AsyncWrite + Send + Unpin>(
    ova_xml: &[u8],
    disks: &BTreeMap<String, Disk>,
    options: ExportOptions,
    writer: &mut W,
    progress: Progress<'_>,
) -> Result<u64> {
    todo!()
}

/// Sends one disk as `export_raw_vdi?format=tar` does: the members of a disk under `vdi/`.
///
/// # Errors
/// When the disk cannot be read or the peer is gone.
pub async fn export_vdi_tar<W: AsyncWrite + Send + Unpin>(
    disk: &Disk,
    writer: &mut W,
    progress: Progress<'_>,
) -> Result<u64> {
    todo!()
}

/// An archive being read: its `ova.xml` first, then, when the program has created the disks, their content.
#[derive(Debug)]
pub struct Import<R> {
    reader: R,
}

impl<R: AsyncRead + Send + Unpin> Import<R> {
    /// Reads up to and including `ova.xml`; gzip and zstd are told by their magic.
    ///
    /// # Errors
    /// When the stream is no archive, or its first member is not `ova.xml`.
    pub async fn open(reader: R) -> Result<Self> {
        todo!()
    }

    /// The bytes of `ova.xml`.
    pub fn ova_xml(&self) -> &[u8] {
        todo!()
    }

    /// Reads the disks' content onto the disks named by their references. `force` ignores checksum failures.
    ///
    /// # Errors
    /// When a member is out of place, a checksum does not match, the stream ends early, or a disk cannot be written.
    pub async fn read_disks(
        &mut self,
        disks: &BTreeMap<String, Disk>,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<()> {
        todo!()
    }
}
