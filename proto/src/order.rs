//! Several controllers serve one state, each as it has seen it last. Whoever goes from one to another must not go back
//! in time: not miss what was just made, and above all not take an agent for unknown, or a task for lost, because of an
//! older picture.
//!
//! So each answer says in a header which revision of the state it knows, and each request which is the newest that its
//! caller has been told of. A controller that has not come so far waits, or refuses with `UNAVAILABLE`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};

/// The header, in requests and answers: a decimal number.
pub const REVISION: HeaderName = HeaderName::from_static("coffer-revision");

/// The revision in the headers of a request or an answer.
#[must_use]
pub fn revision(headers: &HeaderMap) -> Option<u64> {
    headers.get(REVISION)?.to_str().ok()?.parse().ok()
}

/// The newest revision that a caller has been told of. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<AtomicU64>);

impl Seen {
    fn newest(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn note(&self, headers: &HeaderMap) {
        if let Some(revision) = revision(headers) {
            self.0.fetch_max(revision, Ordering::Relaxed);
        }
    }
}

/// A connection to a controller that sends and notes revisions. Connections to several controllers share one [`Seen`].
#[derive(Debug, Clone)]
pub struct InOrder<S> {
    inner: S,
    seen: Seen,
}

impl<S> InOrder<S> {
    /// Puts it on a connection.
    pub fn new(inner: S, seen: Seen) -> Self {
        Self { inner, seen }
    }
}

impl<S, B, R> Service<Request<B>> for InOrder<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let seen = self.seen.clone();
        if seen.newest() > 0 {
            request.headers_mut().insert(REVISION, HeaderValue::from(seen.newest()));
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            seen.note(answer.headers());
            Ok(answer)
        })
    }
}
