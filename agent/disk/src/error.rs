//! What goes wrong with disks: [`Error`] names the operation and its subject; [`NbdError`] and [`VhdError`] say what
//! the protocol or format code found, which does not know whose disk it is looking at.

use coffer_extent::ExtentError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A failed operation on a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection to the export could be made.
    #[error("cannot open NBD export {export}")]
    NbdOpen {
        /// Export and address, without the session.
        export: String,
        /// What was found.
        #[source]
        source: Arc<NbdError>,
    },
    /// A range could not be read, all retries included.
    #[error("cannot read {len} bytes at byte {offset} of NBD export {export}")]
    NbdRead {
        /// Export and address, without the session.
        export: String,
        /// First byte of the range.
        offset: u64,
        /// Length of the range in bytes.
        len: u64,
        /// What was found.
        #[source]
        source: Arc<NbdError>,
    },
    /// The allocation of a range could not be asked for.
    #[error("cannot get the allocation map at byte {offset} of NBD export {export}")]
    NbdStatus {
        /// Export and address, without the session.
        export: String,
        /// First byte of the range.
        offset: u64,
        /// What was found.
        #[source]
        source: Arc<NbdError>,
    },
    /// A VHD stream could not be read.
    #[error("cannot read the VHD stream of {stream}")]
    VhdRead {
        /// Whose stream it is, as the caller said.
        stream: String,
        /// What was found.
        #[source]
        source: VhdError,
    },
    /// A VHD stream could not be written.
    #[error("cannot write the VHD stream of {stream}")]
    VhdWrite {
        /// Whose stream it is, as the caller said.
        stream: String,
        /// What was found.
        #[source]
        source: VhdError,
    },
    /// An operation on a file failed.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process is writing the same file.
    #[error("{} is being written by somebody else: wait for it, or choose another name", path.display())]
    FileBusy {
        /// The file.
        path: PathBuf,
    },
    /// The disk does not fit the format of the file.
    #[error("a disk of {size} bytes does not fit into {format} file {}: at most {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// Size of the disk in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

impl Error {
    /// What the operation was about.
    pub fn subject(&self) -> String {
        match self {
            Error::NbdOpen { export, .. } | Error::NbdRead { export, .. } | Error::NbdStatus { export, .. } => {
                export.clone()
            }
            Error::VhdRead { stream, .. } | Error::VhdWrite { stream, .. } => stream.clone(),
            Error::File { path, .. } | Error::FileBusy { path } | Error::TooLarge { path, .. } => {
                path.display().to_string()
            }
        }
    }

    /// True when the same operation may succeed if it is tried again from the start.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::NbdOpen { source, .. } | Error::NbdRead { source, .. } | Error::NbdStatus { source, .. } => {
                source.is_retryable()
            }
            Error::VhdRead { source, .. } | Error::VhdWrite { source, .. } => source.is_retryable(),
            Error::FileBusy { .. } => true,
            Error::File { .. } | Error::TooLarge { .. } => false,
        }
    }
}

impl From<Error> for ExtentError {
    fn from(error: Error) -> ExtentError {
        ExtentError::new(error.subject(), error.is_retryable(), error)
    }
}

/// What an NBD client finds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NbdError {
    /// No TCP connection.
    #[error("cannot connect to {address}: check that the host is up and its network has the NBD purpose")]
    Connect {
        /// Address and port.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection failed in the middle.
    #[error("connection failed")]
    Io(#[source] io::Error),
    /// The server closed the connection right after accepting it.
    #[error(
        "server closed the connection without a greeting: it may serve its limit of 16 connections already, \
         or offer no NBD on this network"
    )]
    ClosedAtAccept,
    /// The server closed the connection where a reply was due.
    #[error("server closed the connection")]
    Closed,
    /// The server closed the connection instead of opening the export.
    #[error(
        "server closed the connection instead of opening the export: session expired, disk unknown or not attachable"
    )]
    ExportRefused,
    /// The server says that it has no such export.
    #[error("server has no such export")]
    UnknownExport,
    /// Nothing came for too long.
    #[error("no answer within {} s while {waiting_for}", after.as_secs_f32())]
    Timeout {
        /// What was waited for.
        waiting_for: &'static str,
        /// How long.
        after: Duration,
    },
    /// The server wants TLS and none was asked for.
    #[error("server requires TLS: give its certificate")]
    TlsRequired,
    /// The server does not do TLS on this network.
    #[error("server refuses TLS (reply {reply:#x}): the network allows insecure NBD only")]
    TlsRefused {
        /// The reply to the option.
        reply: u32,
    },
    /// The TLS handshake failed.
    #[error("TLS handshake failed: the certificate of the host may have been replaced")]
    Tls(#[source] io::Error),
    /// A certificate or key given to us cannot be used.
    #[error("the {what} cannot be used: {reason}")]
    BadCertificate {
        /// Which one.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// No address to connect to.
    #[error("no address was given to connect to")]
    NoTarget,
    /// The server refuses an option that we cannot do without.
    #[error("server refuses option {option} with reply {reply:#x}")]
    OptionRefused {
        /// Number of the option.
        option: u32,
        /// The reply.
        reply: u32,
    },
    /// The server answers a command with an error.
    #[error("server answers with error {errno}")]
    Server {
        /// Error number of the protocol (those of Linux).
        errno: u32,
    },
    /// The server breaks the protocol.
    #[error("server breaks the NBD protocol: {0}")]
    Protocol(&'static str),
    /// Two connections of one disk see different disks.
    #[error("export has {found} bytes, was {expected} before")]
    SizeChanged {
        /// Size at the first connection.
        expected: u64,
        /// Size now.
        found: u64,
    },
    /// The disk was closed while the request was waiting.
    #[error("disk was closed")]
    Stopped,
}

impl NbdError {
    /// True when another attempt, maybe on a new connection, may succeed.
    pub fn is_retryable(&self) -> bool {
        const EIO: u32 = 5;
        const ENOMEM: u32 = 12;
        const ESHUTDOWN: u32 = 108;
        match self {
            NbdError::Connect { .. }
            | NbdError::Io(_)
            | NbdError::ClosedAtAccept
            | NbdError::Closed
            | NbdError::ExportRefused
            | NbdError::Timeout { .. }
            | NbdError::Protocol(_) => true,
            NbdError::Tls(source) => source.kind() != io::ErrorKind::InvalidData,
            NbdError::Server { errno } => matches!(*errno, EIO | ENOMEM | ESHUTDOWN),
            NbdError::UnknownExport
            | NbdError::TlsRequired
            | NbdError::TlsRefused { .. }
            | NbdError::BadCertificate { .. }
            | NbdError::NoTarget
            | NbdError::OptionRefused { .. }
            | NbdError::SizeChanged { .. }
            | NbdError::Stopped => false,
        }
    }
}

/// What a VHD reader or writer finds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VhdError {
    /// Reading or writing the stream failed.
    #[error("stream failed at byte {position}")]
    Io {
        /// Where in the stream.
        position: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stream ends too early.
    #[error("stream ends at byte {position}, inside the {part}: the transfer was cut")]
    Truncated {
        /// Where in the stream.
        position: u64,
        /// What should stand there.
        part: &'static str,
    },
    /// The host answers with an HTTP error where the disk should be.
    #[error("the host sends an HTTP answer in place of the {part}: {line:?}")]
    HttpText {
        /// What should stand there.
        part: &'static str,
        /// Its first line.
        line: String,
    },
    /// A structure does not start with its cookie.
    #[error("no VHD {part} at byte {position} of the stream")]
    NoCookie {
        /// Which structure.
        part: &'static str,
        /// Where in the stream.
        position: u64,
    },
    /// A structure fails its checksum.
    #[error("VHD {part} fails its checksum")]
    Checksum {
        /// Which structure.
        part: &'static str,
    },
    /// A field has a value that cannot be.
    #[error("VHD {field} has the impossible value {value}")]
    BadField {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The block table points to a wrong place.
    #[error("VHD block {block} at sector {sector} overlaps what stands before it, or is out of order")]
    BadBlock {
        /// Number of the block.
        block: u64,
        /// Its sector in the stream.
        sector: u32,
    },
    /// The footers at both ends differ.
    #[error("the VHD footers at both ends differ")]
    FootersDiffer,
    /// A call was given up in the middle, so the place in the stream is lost.
    #[error("an earlier call was interrupted: the stream cannot be continued, start again")]
    Interrupted,
    /// The disk does not fit into a VHD.
    #[error("a disk of {size} bytes does not fit into a VHD: at most {limit} bytes")]
    TooLarge {
        /// Size of the disk in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// An extent arrived for a block that the plan leaves out.
    #[error("{len} bytes at byte {offset} are not in the plan of the stream")]
    OutsidePlan {
        /// Where the extent starts.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// An extent that does not continue the last one.
    #[error("extent of {len} bytes at byte {found}, expected byte {expected} of {size}")]
    OutOfOrder {
        /// Where the extent should start.
        expected: u64,
        /// Where it starts.
        found: u64,
        /// Its length in bytes.
        len: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// An unchanged range in a stream that holds a complete disk.
    #[error("unchanged range at byte {offset} in a stream of a complete disk")]
    UnexpectedUnchanged {
        /// Where it starts.
        offset: u64,
    },
}

impl VhdError {
    /// True when the transfer may succeed if it is tried again from the start.
    pub fn is_retryable(&self) -> bool {
        matches!(self, VhdError::Io { .. } | VhdError::Truncated { .. } | VhdError::HttpText { .. })
    }
}
