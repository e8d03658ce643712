//! What a failed request to etcd means: may it have been done, may another member do it, what should the operator do?

use std::error::Error as StdError;

use etcd_client::Error as ClientError;
use tonic::{Code, ConnectError, Status};

/// How a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It did not reach the member, or the member said that it did nothing of it. Another member may do it.
    NotDone(String),
    /// The same; and the connection was refused for reasons that only an operator can mend.
    Refused(String),
    /// It may have been done, or may yet be.
    Lost(String),
    /// The cluster answered; nothing was done, and another member would say the same.
    Answer(Answer),
}

/// What the cluster says when it does not do as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Compacted,
    Future,
    LeaseNotFound,
    LeaseExists,
    KeyNotFound,
    TooLarge,
    /// Said by the library: the answer is larger than it was told to take.
    Oversized,
    Full,
    Denied(String),
    Other(String),
}

/// The messages that tell an answer; they are part of etcd's interface, its own clients compare them too.
const ANSWERS: [(&str, Answer); 7] = [
    ("etcdserver: mvcc: required revision has been compacted", Answer::Compacted),
    ("etcdserver: mvcc: required revision is a future revision", Answer::Future),
    ("etcdserver: requested lease not found", Answer::LeaseNotFound),
    ("etcdserver: lease already exists", Answer::LeaseExists),
    ("etcdserver: key not found", Answer::KeyNotFound),
    ("etcdserver: request is too large", Answer::TooLarge),
    ("etcdserver: mvcc: database space exceeded", Answer::Full),
];

/// Said by a member before it begins with a request.
const UNWILLING: [&str; 4] = [
    "etcdserver: no leader",
    "etcdserver: too many requests",
    "etcdserver: rpc not supported for learner",
    "etcdserver: not capable",
];

impl Failure {
    /// No answer came in time.
    pub(super) fn silence(patience: std::time::Duration) -> Self {
        Self::Lost(format!("no answer within {patience:?}"))
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::NotDone(text) | Self::Refused(text) | Self::Lost(text) => text,
            Self::Answer(Answer::Denied(text) | Answer::Other(text)) => text,
            Self::Answer(_) => "it refused",
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::GRpcStatus(status) => of_status(&status),
            ClientError::TransportError(error) => of_connection(&error, error.to_string()),
            // The library says so when the first answer of a keep-alive has no time to live.
            ClientError::LeaseKeepAliveError(text) if text == "lease not found" => Self::Answer(Answer::LeaseNotFound),
            ClientError::InvalidArgs(text) => Self::Answer(Answer::Other(text)),
            error => Self::Lost(error.to_string()),
        }
    }
}

fn of_status(status: &Status) -> Failure {
    let message = status.message();
    if let Some((_, answer)) = ANSWERS.iter().find(|(text, _)| *text == message) {
        return Failure::Answer(answer.clone());
    }
    if UNWILLING.contains(&message) {
        return Failure::NotDone(message.to_owned());
    }
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => Failure::Answer(Answer::Denied(message.to_owned())),
        Code::OutOfRange if message.contains("message length too large") => Failure::Answer(Answer::Oversized),
        Code::ResourceExhausted if message.contains("message larger than max") => Failure::Answer(Answer::TooLarge),
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::Unimplemented => Failure::Answer(Answer::Other(message.to_owned())),
        _ => of_connection(status, format!("{:?}: {message}", status.code())),
    }
}

/// A failure that did not come from the cluster as an answer: what in its causes tells whether the request was sent?
pub(super) fn of_connection(error: &(dyn StdError + 'static), text: String) -> Failure {
    let mut connecting = false;
    let mut root = String::new();
    let mut cause = Some(error);
    while let Some(current) = cause {
        connecting |= current.is::<ConnectError>();
        let inner = current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = current.downcast_ref::<rustls::Error>().or_else(|| inner.and_then(|inner| inner.downcast_ref()));
        root = current.to_string();
        if let Some(refusal) = tls.and_then(of_tls) {
            return Failure::Refused(refusal);
        }
        cause = current.source();
    }
    if let Some(refusal) = of_alert(&root) {
        return Failure::Refused(refusal);
    }
    let text = if root.is_empty() || text.contains(&root) { text } else { format!("{text}: {root}") };
    if connecting { Failure::NotDone(text) } else { Failure::Lost(text) }
}

/// What is wrong with the certificates, and what to do, if that is what went wrong.
fn of_tls(error: &rustls::Error) -> Option<String> {
    use rustls::CertificateError as Certificate;
    let advice = match error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => {
            "its certificate is not signed by the authority given here; give the one that signed the certificates of \
             etcd (its --cert-file)"
        }
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => {
            "its certificate is for other names; use the name or address in the certificate as endpoint, or issue it \
             anew with this one"
        }
        rustls::Error::InvalidCertificate(_) => {
            "its certificate is not valid; issue a new one for etcd (its --cert-file)"
        }
        rustls::Error::InvalidMessage(_) => "it does not speak TLS; is the endpoint http, not https?",
        error => return of_alert(&error.to_string()),
    };
    Some(format!("{advice} ({error})"))
}

/// The same for what a server says of our certificate. In TLS 1.3 it does so after the client believes itself
/// connected, and then only the words of it come through the HTTP/2 library; but it has read no request by then.
fn of_alert(text: &str) -> Option<String> {
    let (_, alert) = text.split_once("received fatal alert: ")?;
    let advice = match alert {
        "CertificateRequired" => {
            "it wants a client certificate; give one that its authority (its --trusted-ca-file) has signed"
        }
        "BadCertificate"
        | "UnknownCA"
        | "CertificateExpired"
        | "CertificateRevoked"
        | "CertificateUnknown"
        | "UnsupportedCertificate"
        | "AccessDenied"
        | "DecryptError" => {
            "it accepts no client certificate but a valid one that its authority (its --trusted-ca-file) has signed for \
             client authentication; give such a one"
        }
        _ => return None,
    };
    Some(format!("{advice} ({text})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: Code, message: &str, expected: &Failure) {
        let failure = Failure::from(ClientError::GRpcStatus(Status::new(code, message)));
        assert_eq!(
            std::mem::discriminant(&failure),
            std::mem::discriminant(expected),
            "{code:?} {message}: {failure:?}"
        );
        if let Failure::Answer(_) = expected {
            assert_eq!(&failure, expected, "{code:?} {message}");
        }
    }

    #[test]
    fn only_what_was_certainly_not_done_counts_as_not_done() {
        let lost = Failure::Lost(String::new());
        let not_done = Failure::NotDone(String::new());
        for (code, message, expected) in [
            (Code::Unavailable, "etcdserver: request timed out", &lost),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure", &lost),
            (Code::Unavailable, "etcdserver: leader changed", &lost),
            (Code::Unavailable, "etcdserver: server stopped", &lost),
            (Code::Unavailable, "etcdserver: no leader", &not_done),
            (Code::ResourceExhausted, "etcdserver: too many requests", &not_done),
            (Code::Unknown, "transport error", &lost),
            (Code::Cancelled, "Timeout expired", &lost),
            (Code::DeadlineExceeded, "context deadline exceeded", &lost),
            (Code::Internal, "h2 protocol error", &lost),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                &Failure::Answer(Answer::Compacted),
            ),
            (Code::NotFound, "etcdserver: requested lease not found", &Failure::Answer(Answer::LeaseNotFound)),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", &Failure::Answer(Answer::Full)),
            (Code::ResourceExhausted, "grpc: received message larger than max", &Failure::Answer(Answer::TooLarge)),
            (Code::PermissionDenied, "no", &Failure::Answer(Answer::Denied("no".to_owned()))),
            (Code::InvalidArgument, "no", &Failure::Answer(Answer::Other("no".to_owned()))),
        ] {
            check(code, message, expected);
        }
    }

    #[test]
    fn a_connection_that_was_never_made_carried_nothing_and_certificates_are_explained() {
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let connect = ConnectError(Box::new(refused()));
        assert!(matches!(of_connection(&connect, "transport error".to_owned()), Failure::NotDone(_)));
        assert!(matches!(of_connection(&refused(), "transport error".to_owned()), Failure::Lost(_)));
        for (error, advice) in [
            (rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer), "the authority given here"),
            (rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName), "other names"),
            (rustls::Error::InvalidCertificate(rustls::CertificateError::Expired), "issue a new one"),
            (rustls::Error::AlertReceived(rustls::AlertDescription::BadCertificate), "accepts no client certificate"),
            (rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired), "wants a client certificate"),
        ] {
            let failure = of_connection(&std::io::Error::other(error.clone()), "transport error".to_owned());
            assert!(matches!(&failure, Failure::Refused(text) if text.contains(advice)), "{error:?}: {failure:?}");
        }
    }
}
