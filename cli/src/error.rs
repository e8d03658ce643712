//! What can go wrong, how it is said (one line, and one of advice) and with which exit code the program ends.

use coffer_runtime::exit::Exit;
use coffer_runtime::secret_file;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a command did not do what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that makes no sense.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        advice: Option<String>,
    },
    /// What was named cannot be used: not there, not clear, or not in the right state.
    #[error("{message}")]
    Rejected {
        /// What is wrong.
        message: String,
        /// What to do.
        advice: Option<String>,
    },
    /// Something was waited for and did not come, or came out badly.
    #[error("{message}")]
    Unavailable {
        /// What is wrong.
        message: String,
        /// What to do.
        advice: Option<String>,
    },
    /// The token cannot be read.
    #[error("no access to the API")]
    Token(#[source] secret_file::Error),
    /// A password cannot be read.
    #[error("cannot read a password")]
    Secret(#[source] secret_file::Error),
    /// The controller cannot be reached.
    #[error("no controller answers at {server}")]
    Connect {
        /// Its address.
        server: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The controller said no.
    #[error("{}", .0.message())]
    Api(Box<Status>),
    /// The operating system said no.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A part of `coffer up` cannot start, or had to stop.
    #[error("{part} cannot {what}")]
    Part {
        /// Which.
        part: &'static str,
        /// Start, or go on.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Everything has been said; only the exit code is left.
    #[error("ended")]
    Ended(Exit),
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Api(Box::new(status))
    }
}

/// An error as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) message: String,
    pub(crate) advice: Option<String>,
    pub(crate) exit: Exit,
}

impl Error {
    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>, advice: Option<&str>) -> Self {
        Self::Usage { message: message.into(), advice: advice.map(str::to_owned) }
    }

    pub(crate) fn rejected(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Rejected { message: message.into(), advice: Some(advice.into()) }
    }

    pub(crate) fn unavailable(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Unavailable { message: message.into(), advice: Some(advice.into()) }
    }

    /// How it is shown.
    pub(crate) fn report(&self) -> Report {
        let (advice, exit) = match self {
            Self::Usage { advice, .. } => (advice.clone(), Exit::Usage),
            Self::Rejected { advice, .. } => (advice.clone(), Exit::Rejected),
            Self::Unavailable { advice, .. } => (advice.clone(), Exit::Unavailable),
            Self::Token(_) => (
                Some("start one with `coffer up`, or name the controller's token file with --token-file".to_owned()),
                Exit::Permission,
            ),
            Self::Secret(_) => (None, Exit::Usage),
            Self::Connect { .. } => (
                Some("start one with `coffer up`, or say where it is with --server HOST:PORT".to_owned()),
                Exit::Unavailable,
            ),
            Self::Api(status) => return report_status(status),
            Self::System { .. } => (None, Exit::System),
            Self::Part { .. } => (None, Exit::Unavailable),
            Self::Ended(exit) => (None, *exit),
        };
        Report { message: one_line(&chain(self)), advice: advice.as_deref().map(one_line), exit }
    }
}

fn report_status(status: &Status) -> Report {
    let details = status.get_error_details();
    let advice = details
        .error_info()
        .and_then(|info| info.metadata.get("advice").cloned())
        .or_else(|| details.localized_message().map(|message| message.message.clone()))
        .or_else(|| details.help()?.links.first().map(|link| link.description.clone()))
        .filter(|advice| !advice.is_empty());
    let mut message =
        if status.message().is_empty() { format!("{:?}", status.code()) } else { status.message().to_owned() };
    for violation in details.bad_request().iter().flat_map(|request| &request.field_violations) {
        if !message.contains(&violation.description) {
            message.push_str(&format!("; {}: {}", violation.field, violation.description));
        }
    }
    if let Some(info) = details.error_info().filter(|info| !info.reason.is_empty()) {
        message.push_str(&format!(" ({})", info.reason));
    }
    let exit = exit_of(status.code());
    // What the controller says about tokens is meant for programs.
    let advice = advice.filter(|_| exit != Exit::Permission).or_else(|| default_advice(exit).map(str::to_owned));
    Report { message: one_line(&message), advice: advice.as_deref().map(one_line), exit }
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Ok,
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Exit::Rejected,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Permission,
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => Exit::Unavailable,
        Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => Exit::Internal,
    }
}

fn default_advice(exit: Exit) -> Option<&'static str> {
    match exit {
        Exit::Permission => {
            Some("name the token file of this controller with --token-file; it is `api-token` in its state folder")
        }
        Exit::Unavailable => Some("is the controller running? See `coffer up --help`, or try again"),
        _ => None,
    }
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    fn check(error: &Error, expected: (&str, Option<&str>, Exit)) {
        let report = error.report();
        assert_eq!((report.message.as_str(), report.advice.as_deref(), report.exit), expected);
    }

    #[test]
    fn an_answer_of_the_controller_is_one_line_with_its_reason_and_one_of_advice() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "ETAG_MISMATCH",
            "coffer",
            HashMap::from([("subject".to_owned(), "jobs/nightly".to_owned())]),
        );
        details.set_localized_message("en", "Read the job again,\nthen decide again.");
        let status = Status::with_error_details(Code::Aborted, "jobs/nightly was changed\nmeanwhile", details);
        check(
            &status.into(),
            (
                "jobs/nightly was changed meanwhile (ETAG_MISMATCH)",
                Some("Read the job again, then decide again."),
                Exit::Rejected,
            ),
        );
    }

    #[test]
    fn fields_that_are_wrong_are_named() {
        let details = ErrorDetails::with_bad_request_violation("schedule.cron", "it has 4 fields");
        let status = Status::with_error_details(Code::InvalidArgument, "the schedule is not valid", details);
        check(&status.into(), ("the schedule is not valid; schedule.cron: it has 4 fields", None, Exit::Usage));
    }

    #[test]
    fn every_kind_of_failure_has_its_exit_code() {
        for (code, exit) in [
            (Code::NotFound, Exit::Rejected),
            (Code::Unauthenticated, Exit::Permission),
            (Code::Unavailable, Exit::Unavailable),
            (Code::Internal, Exit::Internal),
        ] {
            assert_eq!(Error::from(Status::new(code, "no")).report().exit, exit);
        }
        check(&Error::from(Status::new(Code::NotFound, "")), ("NotFound", None, Exit::Rejected));
        let source = std::io::Error::other("disk on fire");
        check(
            &Error::System { action: "write x".to_owned(), source },
            ("cannot write x: disk on fire", None, Exit::System),
        );
    }
}
