//! One call over one connection: what is sent, what is read at most, and what an error means for trying again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::hosts::Hosts;
use crate::transport::{Connection, Method, RequestHead, coordinator_certificate, dial, full_body, transport, within};
use crate::wire::{Answer, decode_answer, encode_call};
use crate::{Endpoint, Error, Failure, FailureClass};

/// XAPI takes no larger body of a call.
const MAX_CALL: usize = 300 * 1024;

/// How long each kind of waiting may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// TCP and TLS.
    pub connect: Duration,
    /// A call that answers at once.
    pub call: Duration,
    /// How long `event.from` may wait for something to happen.
    pub poll: Duration,
    /// An operation of the pool that runs as a task: snapshot, copy, start… The toolstack itself waits up to two hours
    /// for a busy object.
    pub operation: Duration,
    /// How often a task is asked directly when events say nothing about it.
    pub task_poll: Duration,
    /// The first byte of a download.
    pub first_byte: Duration,
    /// A transfer without a byte moving.
    pub idle: Duration,
    /// The task of a transfer, after its last byte: the host detaches the disk and records the result.
    pub settle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            call: Duration::from_secs(120),
            poll: Duration::from_secs(60),
            operation: Duration::from_secs(2 * 60 * 60 + 10 * 60),
            task_poll: Duration::from_secs(5),
            first_byte: Duration::from_secs(30 * 60),
            idle: Duration::from_secs(5 * 60),
            settle: Duration::from_secs(10 * 60),
        }
    }
}

/// Whether a call may be sent again when it is unknown whether the first one was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Reading, or setting what is then the same: twice is as good as once.
    Safe,
    /// Starts a task (`Async.…`): a refused session proves that it did not start, a broken connection proves nothing.
    IfRefused,
    /// Twice is not once.
    Never,
}

/// A call to be made. Without `Debug`: its parameters may be secret.
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) params: Vec<Value>,
    pub(crate) repeat: Repeat,
    pub(crate) timeout: Duration,
    /// Asks a host that is not the coordinator which certificate the coordinator has.
    pub(crate) asks_for_coordinator: bool,
}

/// What to do about a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// The session, or the host it lives on, is no longer good.
    pub(crate) new_session: bool,
    /// The call may be sent again.
    pub(crate) again: bool,
}

/// Decides what a failed call means for the session and for the call itself.
pub(crate) fn recovery(error: &Error, repeat: Repeat) -> Recovery {
    let (new_session, again) = match error {
        Error::Xapi(failure) => match failure.class() {
            FailureClass::Session => (true, repeat != Repeat::Never),
            FailureClass::NotCoordinator => (true, true),
            _ => (false, false),
        },
        Error::Connect { .. } | Error::Tls { .. } | Error::CertificateChanged { .. } => (true, true),
        Error::Transport { maybe_done, .. } => (false, !maybe_done || repeat == Repeat::Safe),
        _ => (false, false),
    };
    Recovery { new_session, again }
}

/// The place of one kept connection. Whoever sends takes it out and puts it back only after a whole answer, so that
/// a dropped or failed call never leaves a half-read connection to the next one.
#[derive(Debug, Default)]
pub(crate) struct Slot(Mutex<Option<Connection>>);

#[derive(Debug)]
pub(crate) struct Link<'a> {
    pub(crate) hosts: &'a Hosts,
    pub(crate) timeouts: &'a Timeouts,
    pub(crate) max_answer: usize,
    pub(crate) ids: &'a AtomicU64,
}

impl Slot {
    /// A place that holds a connection already.
    pub(crate) fn with(connection: Connection) -> Self {
        Self(Mutex::new(Some(connection)))
    }
}

impl Link<'_> {
    /// Sends a call, whose first parameter is `session` if there is one, and reads its answer.
    pub(crate) async fn exchange(
        &self,
        slot: &Slot,
        host: &Endpoint,
        session: Option<&str>,
        call: &Call,
    ) -> Result<Value, Error> {
        let what = call.method.as_str();
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let params: Vec<Value> = session.map(Value::from).into_iter().chain(call.params.iter().cloned()).collect();
        let body = encode_call(what, &params, id);
        if body.len() > MAX_CALL {
            return Err(Error::RequestTooLarge { what: what.to_owned(), bytes: body.len(), limit: MAX_CALL });
        }
        let head = RequestHead {
            method: Method::POST,
            path_and_query: "/jsonrpc",
            content_type: Some("application/json"),
            content_length: Some(u64::try_from(body.len()).unwrap_or(u64::MAX)),
            keep_alive: true,
            asks_for_coordinator: call.asks_for_coordinator,
            what,
        };
        let request = head.with(host, full_body(Bytes::from(body)))?;

        let mut kept = slot.0.lock().await;
        let mut connection = match kept.take() {
            Some(connection) if connection.endpoint() == host && connection.is_fresh() => connection,
            _ => dial(host, self.hosts, self.timeouts).await?,
        };
        let (answer, coordinator) = within(host, what, call.timeout, async {
            let response = connection.send(request, what).await?;
            if !response.status().is_success() {
                let status = response.status().as_u16();
                return Err(Error::Status { host: host.clone(), what: what.to_owned(), status });
            }
            let coordinator = coordinator_certificate(response.headers());
            Ok((self.read_answer(host, what, response.into_body()).await?, coordinator))
        })
        .await?;
        *kept = Some(connection);
        drop(kept);

        match decode_answer(&answer, Some(id)).map_err(|source| Error::Answer { what: what.to_owned(), source })? {
            Answer::Result(value) => Ok(value),
            Answer::Failure { code, params } => {
                let failure = Failure::new(what, &code, params).without(session.unwrap_or_default());
                Err(Failure { coordinator, ..failure }.into())
            }
        }
    }

    async fn read_answer(&self, host: &Endpoint, what: &str, mut body: Incoming) -> Result<Vec<u8>, Error> {
        let mut answer = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| transport(host, what, true, source))?;
            if let Ok(data) = frame.into_data() {
                if answer.len() + data.len() > self.max_answer {
                    let limit = self.max_answer;
                    return Err(Error::AnswerTooLarge { host: host.clone(), what: what.to_owned(), limit });
                }
                answer.extend_from_slice(&data);
            }
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xapi(code: &str) -> Error {
        Failure::new("VM.create", code, Vec::new()).into()
    }

    #[test]
    fn a_call_is_sent_again_only_when_that_cannot_do_it_twice() {
        let again = |error: &Error, repeat| recovery(error, repeat).again;
        for (error, safe, if_refused, never) in [
            (xapi("SESSION_INVALID"), true, true, false),
            (xapi("HOST_IS_SLAVE"), true, true, true),
            (xapi("VDI_IN_USE"), false, false, false),
            (
                Error::Connect { host: Endpoint::parse("h").unwrap(), source: std::io::ErrorKind::TimedOut.into() },
                true,
                true,
                true,
            ),
        ] {
            assert_eq!(again(&error, Repeat::Safe), safe, "{error}");
            assert_eq!(again(&error, Repeat::IfRefused), if_refused, "{error}");
            assert_eq!(again(&error, Repeat::Never), never, "{error}");
        }
        assert!(recovery(&xapi("SESSION_INVALID"), Repeat::Never).new_session);
    }
}
