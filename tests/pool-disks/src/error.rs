//! The crate's error, and what XAPI would say for it.

use std::io;
use std::path::PathBuf;

use uuid::Uuid;

use crate::vhd::VhdFault;
use crate::xva::XvaFault;

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure as XAPI reports it: a code and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XapiFailure {
    /// For example `SR_BACKEND_FAILURE_44`.
    pub code: String,
    /// The parameters, in XAPI's order.
    pub params: Vec<String>,
}

impl XapiFailure {
    /// Builds a failure from its parts.
    pub fn new(code: &str, params: &[&str]) -> Self {
        Self { code: code.to_owned(), params: params.iter().map(|p| (*p).to_owned()).collect() }
    }

    /// `SR_BACKEND_FAILURE_<number>` with the three parameters of a storage driver.
    pub fn backend(number: u16, text: &str) -> Self {
        Self::new(&format!("SR_BACKEND_FAILURE_{number}"), &["", text, ""])
    }
}

/// Everything that can go wrong below XAPI.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk or node does not exist in this SR.
    #[error("disk {disk} does not exist in this SR")]
    UnknownDisk {
        /// The disk asked for.
        disk: Uuid,
    },
    /// A new disk was given an id that is taken.
    #[error("disk {disk} exists already in this SR")]
    DiskExists {
        /// The id that is taken.
        disk: Uuid,
    },
    /// The operation does not apply to this kind of node.
    #[error("disk {disk} is {found}; {operation} needs {needed}")]
    WrongKind {
        /// The disk asked for.
        disk: Uuid,
        /// What was tried.
        operation: &'static str,
        /// What the disk is.
        found: &'static str,
        /// What the operation needs.
        needed: &'static str,
    },
    /// The disk's data were destroyed; only its changed-block metadata is left.
    #[error("disk {disk} has no data any more, only changed-block metadata")]
    NoData {
        /// The disk asked for.
        disk: Uuid,
    },
    /// The range lies outside the disk.
    #[error("range {offset}+{len} lies outside disk {disk} of {size} bytes")]
    OutOfRange {
        /// The disk asked for.
        disk: Uuid,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// A size that a VHD cannot have, or that would shrink a disk.
    #[error("size {size} is not possible for disk {disk}: {why}")]
    BadSize {
        /// The disk asked for.
        disk: Uuid,
        /// The size asked for, in bytes.
        size: u64,
        /// What rules it out.
        why: &'static str,
    },
    /// The SR has too little free space.
    #[error("the SR has {free} bytes free, {needed} are needed: free space or let garbage collection run")]
    NoSpace {
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The chain of nodes beneath the disk is at its limit.
    #[error("the chain of disk {disk} has {depth} nodes, the limit: remove snapshots and let garbage collection run")]
    ChainTooLong {
        /// The disk asked for.
        disk: Uuid,
        /// Nodes in its chain.
        depth: usize,
    },
    /// The SR's type cannot do this at all.
    #[error("this SR does not support {operation}")]
    Unsupported {
        /// What was tried.
        operation: &'static str,
    },
    /// Changed blocks between the two disks cannot be told.
    #[error("changed blocks from {from} to {to} are unknown: {why}")]
    CbtUnrelated {
        /// The older disk.
        from: Uuid,
        /// The newer disk.
        to: Uuid,
        /// Why not.
        why: &'static str,
    },
    /// The changed-block log contradicts itself.
    #[error("the changed-block log of disk {disk} is inconsistent")]
    CbtInconsistent {
        /// The disk whose log it is.
        disk: Uuid,
    },
    /// Changed blocks are not tracked on this disk.
    #[error("changed blocks are not tracked on disk {disk}")]
    NotTracked {
        /// The disk asked for.
        disk: Uuid,
    },
    /// A failure that a test asked for.
    #[error("injected failure {} on {operation:?}", failure.code)]
    Injected {
        /// The operation that was made to fail.
        operation: crate::Operation,
        /// What XAPI is to report.
        failure: XapiFailure,
    },
    /// A file of the store could not be read or written.
    #[error("{action} {} failed", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The saved state of an SR does not make sense.
    #[error("the saved state {} is damaged: {why}", path.display())]
    BadState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The peer's side of a stream failed.
    #[error("the {stream} stream failed")]
    Stream {
        /// Which stream.
        stream: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A raw stream is longer than the disk it is written to.
    #[error("the stream holds more than the disk's {size} bytes")]
    StreamTooLong {
        /// Size of the disk in bytes.
        size: u64,
    },
    /// A stream ended before it was complete.
    #[error("the {stream} stream ended early: {missing}")]
    StreamTooShort {
        /// Which stream.
        stream: &'static str,
        /// What was still to come.
        missing: &'static str,
    },
    /// A VHD stream is not one that a host accepts.
    #[error("the VHD stream is not valid")]
    Vhd(#[source] VhdFault),
    /// An XVA is not one that a host accepts.
    #[error("the XVA is not valid")]
    Xva(#[source] XvaFault),
    /// A background read or write was lost; the program is shutting down.
    #[error("the program is shutting down")]
    ShuttingDown,
}

impl From<VhdFault> for Error {
    fn from(fault: VhdFault) -> Self {
        Self::Vhd(fault)
    }
}

impl From<XvaFault> for Error {
    fn from(fault: XvaFault) -> Self {
        Self::Xva(fault)
    }
}

impl Error {
    /// Whether the same call may succeed later without anything being changed by hand.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::ChainTooLong { .. } | Self::Stream { .. } | Self::ShuttingDown)
    }

    /// What XAPI reports for this failure. Codes whose parameters are object references carry the disk's UUID or
    /// nothing: the program puts its references there.
    pub fn xapi(&self) -> XapiFailure {
        match self {
            Self::UnknownDisk { disk } => {
                XapiFailure::backend(46, &format!("The VDI is not available [opterr={disk}]"))
            }
            Self::DiskExists { .. } => XapiFailure::backend(78, "VDI Creation failed [opterr=exists]"),
            Self::WrongKind { operation, .. } => XapiFailure::new("OPERATION_NOT_ALLOWED", &[operation]),
            Self::NoData { disk } => XapiFailure::new("VDI_INCOMPATIBLE_TYPE", &[&disk.to_string(), "cbt_metadata"]),
            Self::BadSize { .. } => XapiFailure::backend(79, "VDI Invalid size"),
            Self::NoSpace { .. } => XapiFailure::backend(44, "There is insufficient space"),
            Self::ChainTooLong { .. } => XapiFailure::backend(109, "The snapshot chain is too long"),
            Self::Unsupported { .. } => XapiFailure::new("SR_OPERATION_NOT_SUPPORTED", &[]),
            Self::CbtUnrelated { .. } => {
                XapiFailure::backend(460, "Failed to calculate changed blocks for given VDIs.")
            }
            Self::CbtInconsistent { .. } => {
                XapiFailure::backend(459, "Changed block tracking log is in an inconsistent state.")
            }
            Self::NotTracked { disk } => XapiFailure::new("VDI_NO_CBT_METADATA", &[&disk.to_string()]),
            Self::Injected { failure, .. } => failure.clone(),
            Self::Xva(fault) => fault.xapi(),
            Self::StreamTooShort { stream: "XVA", .. } => XapiFailure::new("IMPORT_ERROR_PREMATURE_EOF", &[]),
            Self::BadState { .. } => XapiFailure::backend(40, "The SR scan failed"),
            Self::OutOfRange { .. }
            | Self::File { .. }
            | Self::Stream { .. }
            | Self::StreamTooLong { .. }
            | Self::StreamTooShort { .. }
            | Self::Vhd(_)
            | Self::ShuttingDown => XapiFailure::new("VDI_IO_ERROR", &["Device I/O errors"]),
        }
    }
}
