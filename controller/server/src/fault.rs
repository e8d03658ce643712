//! Why a call is refused: one enum, and how it becomes a gRPC status with details that programs can read.

use std::collections::HashMap;

use coffer_core::decide::work::Refusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// Domain of the reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "coffer.v1";

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{name} does not exist")]
    NotFound { name: String },
    #[error("{name} exists already")]
    AlreadyExists { name: String },
    #[error("{field}: {expected}")]
    Invalid { field: String, expected: String },
    #[error("{message}")]
    Precondition { reason: &'static str, message: String, advice: String },
    #[error("{name} was changed meanwhile: its etag is not {etag:?} any more")]
    Etag { name: String, etag: String },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("too many others changed the same thing at the same moment")]
    Contended,
    #[error("the controller is stopping")]
    Stopping,
    #[error("the client reads too slowly")]
    SlowClient,
    #[error("the state store failed")]
    Store(#[source] coffer_store::Error),
    #[error("{what} in the state store cannot be read")]
    Broken {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Fault {
    /// A field that is not as it should be.
    pub(crate) fn invalid(field: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), expected: expected.into() }
    }

    fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::Invalid { .. } | Self::Refused(Refusal::NotOfTask { .. } | Refusal::TooMany { .. }) => {
                Code::InvalidArgument
            }
            Self::Precondition { .. } => Code::FailedPrecondition,
            Self::Refused(Refusal::UnknownSession) => Code::Unauthenticated,
            Self::Etag { .. } | Self::Refused(_) | Self::Contended => Code::Aborted,
            Self::Stopping => Code::Unavailable,
            Self::SlowClient => Code::ResourceExhausted,
            Self::Store(source) if source.is_retryable() => Code::Unavailable,
            Self::Store(_) | Self::Broken { .. } => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NOT_FOUND",
            Self::AlreadyExists { .. } => "ALREADY_EXISTS",
            Self::Invalid { .. } => "INVALID_FIELD",
            Self::Precondition { reason, .. } => reason,
            Self::Etag { .. } => "ETAG_MISMATCH",
            Self::Refused(refusal) => match refusal {
                Refusal::UnknownSession => "SESSION_UNKNOWN",
                Refusal::Fenced { .. } => "FENCED",
                Refusal::OutOfOrder { .. } => "OPERATION_OUT_OF_ORDER",
                Refusal::NumberReused { .. } => "OPERATION_NUMBER_REUSED",
                Refusal::Cancelled { .. } => "CANCELLED",
                Refusal::AlreadyGranted { .. } => "ALREADY_GRANTED",
                Refusal::NotOfTask { .. } => "NOT_OF_TASK",
                Refusal::TooMany { .. } => "TOO_MANY",
                Refusal::Illegal(_) => "ILLEGAL_MOVE",
            },
            Self::Contended => "CONTENDED",
            Self::Stopping => "STOPPING",
            Self::SlowClient => "SLOW_CLIENT",
            Self::Store(_) => "STORE_FAILED",
            Self::Broken { .. } => "STORE_DAMAGED",
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Precondition { advice, .. } => advice.clone(),
            Self::NotFound { .. } => "list what there is, and look at the spelling".into(),
            Self::AlreadyExists { .. } => "choose another id, or change the one that is there".into(),
            // The message says what is expected.
            Self::Invalid { .. } => String::new(),
            Self::Etag { .. } => "read it again, then change that".into(),
            Self::Refused(Refusal::UnknownSession) => "register again".into(),
            Self::Refused(_) => "drop the task and wait for the next Sync".into(),
            Self::Contended | Self::Stopping => "try again".into(),
            Self::SlowClient => "follow again; the full picture comes first".into(),
            Self::Store(_) | Self::Broken { .. } => "look at the controller's log".into(),
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        if matches!(fault, Fault::Store(_) | Fault::Broken { .. }) {
            tracing::error!(error = &fault as &dyn std::error::Error, "a call failed");
        }
        let mut details = ErrorDetails::new();
        let mut metadata = HashMap::new();
        if let Fault::Invalid { field, expected } = &fault {
            details.set_bad_request(vec![FieldViolation::new(field.clone(), expected.clone())]);
        }
        if let Fault::NotFound { name } | Fault::AlreadyExists { name } | Fault::Etag { name, .. } = &fault {
            metadata.insert("subject".to_owned(), name.clone());
        }
        if let Fault::Precondition { message, reason, .. } = &fault {
            details.set_precondition_failure(vec![tonic_types::PreconditionViolation::new(
                *reason,
                "",
                message.clone(),
            )]);
        }
        details.set_error_info(fault.reason(), DOMAIN, metadata);
        details.set_localized_message("en", fault.advice());
        Status::with_error_details(fault.code(), fault.to_string(), details)
    }
}
