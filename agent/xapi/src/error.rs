//! Everything that can go wrong between here and a pool, each with its subject and what to do next.

use std::io;
use std::time::Duration;

use crate::{Endpoint, Failure, FailureClass, Fingerprint};

/// A failed operation against a pool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address could not be read.
    #[error("'{given}' is not the address of a host: {reason}")]
    Address {
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A fingerprint could not be read.
    #[error("'{given}' is not the SHA-256 fingerprint of a certificate (64 hexadecimal digits)")]
    Fingerprint {
        /// What was given.
        given: String,
    },
    /// No connection.
    #[error("cannot connect to {host}")]
    Connect {
        /// The host asked.
        host: Endpoint,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection was made but TLS was not.
    #[error("cannot speak TLS with {host}")]
    Tls {
        /// The host asked.
        host: Endpoint,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The host shows another certificate than the pinned one. Nothing was sent to it.
    #[error("{host} shows the certificate {seen}, expected was {expected}")]
    CertificateChanged {
        /// The host asked.
        host: Endpoint,
        /// The pinned fingerprint.
        expected: Fingerprint,
        /// The fingerprint that it shows now.
        seen: Fingerprint,
    },
    /// A host that neither was given nor belongs to the pool, as far as is known.
    #[error("{host} is not known to be a host of this pool")]
    UnknownHost {
        /// The host that was named.
        host: Endpoint,
    },
    /// A supporter named a coordinator whose certificate nobody vouches for.
    #[error(
        "{supporter} is not the coordinator of its pool, {coordinator} is, and nobody knows which certificate that has"
    )]
    UnknownCoordinator {
        /// The host that was asked.
        supporter: Endpoint,
        /// The host that it named.
        coordinator: Endpoint,
    },
    /// No answer in time.
    #[error("{host} did not answer in time: {what} took longer than {after:?}")]
    Timeout {
        /// The host asked.
        host: Endpoint,
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// The connection broke during an exchange.
    #[error("the connection to {host} broke during {what}")]
    Transport {
        /// The host asked.
        host: Endpoint,
        /// The call or transfer.
        what: String,
        /// Whether the request may have been carried out.
        maybe_done: bool,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// An HTTP status that says no.
    #[error("{host} answered {what} with HTTP status {status}")]
    Status {
        /// The host asked.
        host: Endpoint,
        /// The call or transfer.
        what: String,
        /// The HTTP status.
        status: u16,
    },
    /// A request that the server would refuse for its size.
    #[error("the request {what} has {bytes} bytes, XAPI takes at most {limit}")]
    RequestTooLarge {
        /// The call or transfer.
        what: String,
        /// Its size.
        bytes: usize,
        /// The server's limit.
        limit: usize,
    },
    /// An answer above the limit; nothing of it was kept.
    #[error("the answer of {host} to {what} is longer than {limit} bytes")]
    AnswerTooLarge {
        /// The host asked.
        host: Endpoint,
        /// The call.
        what: String,
        /// The limit of this client.
        limit: usize,
    },
    /// An answer that is not what the protocol promises.
    #[error("the answer to {what} cannot be understood")]
    Answer {
        /// The call or transfer.
        what: String,
        /// What is wrong with it.
        #[source]
        source: crate::wire::Malformed,
    },
    /// XAPI refused or failed the call, or a task ended as failed.
    #[error(transparent)]
    Xapi(#[from] Failure),
    /// A task was cancelled.
    #[error("the task '{label}' was cancelled on the pool")]
    TaskCancelled {
        /// The task's label.
        label: String,
    },
    /// A task disappeared before its end was seen: it may have succeeded or failed.
    #[error("the task '{label}' vanished from the pool, its outcome is unknown")]
    TaskVanished {
        /// The task's label.
        label: String,
    },
    /// A task did not end in time.
    #[error("the task '{label}' did not end within {after:?}")]
    TaskTimeout {
        /// The task's label.
        label: String,
        /// For how long it was watched.
        after: Duration,
    },
    /// No data moved for too long.
    #[error("the transfer {what} with {host} stood still for {after:?} after {bytes} bytes")]
    Stalled {
        /// The host of the transfer.
        host: Endpoint,
        /// The transfer.
        what: String,
        /// For how long nothing moved.
        after: Duration,
        /// What had moved before.
        bytes: u64,
    },
    /// The body of a download ended without TLS being closed properly, or broke.
    #[error("the transfer {what} from {host} was cut after {bytes} bytes")]
    Cut {
        /// The host of the transfer.
        host: Endpoint,
        /// The transfer.
        what: String,
        /// What had arrived.
        bytes: u64,
        /// Why, where it is known.
        #[source]
        source: Option<hyper::Error>,
    },
    /// The body of a download is not data but an HTTP error.
    #[error("{host} sent an HTTP error {status} in place of the data of {what}")]
    ErrorInBody {
        /// The host of the transfer.
        host: Endpoint,
        /// The transfer.
        what: String,
        /// The status inside the body.
        status: u16,
    },
    /// Data went on after the reader was done.
    #[error("{host} went on sending more than {limit} bytes after the end of {what}")]
    TrailingData {
        /// The host of the transfer.
        host: Endpoint,
        /// The transfer.
        what: String,
        /// How much was tolerated.
        limit: u64,
    },
    /// An upload with more or fewer bytes than were announced.
    #[error("{what} was announced with {announced} bytes but has {written}")]
    Length {
        /// The transfer.
        what: String,
        /// The announced length.
        announced: u64,
        /// What was written.
        written: u64,
    },
    /// The host of an upload stopped reading.
    #[error("{host} stopped taking the data of {what} after {bytes} bytes")]
    UploadRefused {
        /// The host of the transfer.
        host: Endpoint,
        /// The transfer.
        what: String,
        /// What had been handed over.
        bytes: u64,
    },
    /// A redirect that cannot be followed.
    #[error("{host} redirects {what} in a way that cannot be followed: {reason}")]
    Redirect {
        /// The host that redirected.
        host: Endpoint,
        /// The transfer.
        what: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No host can serve the disks of a storage repository.
    #[error("no running host has the storage repository {sr} attached")]
    NoHostForSr {
        /// Its reference.
        sr: String,
    },
    /// The work was cancelled here.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was under way.
        what: String,
    },
    /// The cache of events stopped.
    #[error("the pool's events are no longer followed")]
    EventsStopped,
}

impl Error {
    /// Whether the same may succeed later without anybody doing anything. For calls that create something, the caller
    /// must first look whether the lost answer left it behind: see [`Error::maybe_done`].
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Transport { .. }
            | Self::TaskVanished { .. }
            | Self::TaskTimeout { .. }
            | Self::Stalled { .. }
            | Self::Cut { .. }
            | Self::ErrorInBody { .. }
            | Self::UploadRefused { .. }
            | Self::NoHostForSr { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 500 | 502 | 503 | 504),
            Self::Xapi(failure) => failure.is_retryable(),
            Self::Tls { source, .. } => source.kind() != io::ErrorKind::InvalidData,
            Self::Address { .. }
            | Self::Fingerprint { .. }
            | Self::CertificateChanged { .. }
            | Self::UnknownHost { .. }
            | Self::UnknownCoordinator { .. }
            | Self::RequestTooLarge { .. }
            | Self::AnswerTooLarge { .. }
            | Self::Answer { .. }
            | Self::TaskCancelled { .. }
            | Self::TrailingData { .. }
            | Self::Length { .. }
            | Self::Redirect { .. }
            | Self::Cancelled { .. }
            | Self::EventsStopped => false,
        }
    }

    /// Whether the pool may have carried out (or may still be carrying out) what failed here.
    #[must_use]
    pub fn maybe_done(&self) -> bool {
        match self {
            Self::Transport { maybe_done, .. } => *maybe_done,
            Self::Timeout { .. }
            | Self::AnswerTooLarge { .. }
            | Self::Answer { .. }
            | Self::TaskVanished { .. }
            | Self::TaskTimeout { .. }
            | Self::Cancelled { .. } => true,
            _ => false,
        }
    }

    /// What XAPI said, when it was XAPI that said no.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Xapi(failure) => Some(failure),
            _ => None,
        }
    }

    /// The class of what XAPI said.
    #[must_use]
    pub fn class(&self) -> Option<FailureClass> {
        self.failure().map(Failure::class)
    }

    /// Whether XAPI answered with this code.
    #[must_use]
    pub fn is(&self, code: &str) -> bool {
        self.failure().is_some_and(|failure| failure.is(code))
    }

    /// What to do next, in plain words.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::Xapi(failure) => return failure.advice(),
            Self::Address { .. } => "write an address or a name, with :port when it is not 443",
            Self::Fingerprint { .. } => "copy the SHA-256 fingerprint as the host's console shows it",
            Self::Connect { .. } => "look whether the host is up and whether a firewall lets port 443 through",
            Self::Tls { .. } => {
                "look whether the address is that of a host, and whether something in between changes TLS"
            }
            Self::CertificateChanged { .. } => {
                "if the host's certificate was renewed, compare the new fingerprint on its console and confirm it for this pool; if not, somebody may be in between"
            }
            Self::UnknownHost { .. } => {
                "look whether this host belongs to the pool and whether the pool lists its certificate"
            }
            Self::UnknownCoordinator { .. } => {
                "put the coordinator first among the hosts of the pool and confirm its certificate"
            }
            Self::Timeout { .. } | Self::Stalled { .. } => "look at the load of the host and the network in between",
            Self::Transport { .. } | Self::Cut { .. } | Self::UploadRefused { .. } => {
                "the toolstack may have restarted or the network broke: try again"
            }
            Self::Status { status: 401 | 403, .. } => {
                "the user of this pool may not transfer disks: give it the role vm-admin or higher"
            }
            Self::Status { .. } | Self::ErrorInBody { .. } => "look at the host's log around this time",
            Self::RequestTooLarge { .. } => "report this as a fault of the program",
            Self::AnswerTooLarge { .. } => "raise the limit of answers for this pool",
            Self::Answer { .. } | Self::Redirect { .. } | Self::TrailingData { .. } => {
                "look whether the address is that of a host of XCP-ng or XenServer and report its version with this message"
            }
            Self::TaskCancelled { .. } => "somebody cancelled the task on the pool: start it again",
            Self::TaskVanished { .. } => "the toolstack restarted or cleaned its tasks: try again",
            Self::TaskTimeout { .. } => "look at the pool's running tasks and the load of its storage",
            Self::Length { .. } => "the data is damaged: verify the restore point",
            Self::NoHostForSr { .. } => "attach the storage repository to a running host",
            Self::Cancelled { .. } => return None,
            Self::EventsStopped => "connect to the pool again",
        })
    }
}
