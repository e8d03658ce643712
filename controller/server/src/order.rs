//! Callers that come from another controller are answered from a picture that is as new as the one they know: see
//! [`coffer_proto::order`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use coffer_proto::order::{REVISION, revision};
use tonic::Status;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tower_layer::Layer;

use crate::plane::Plane;

/// Makes every service of a server wait for what its callers have seen elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct InOrder(pub(crate) Arc<Plane>);

impl<S> Layer<S> for InOrder {
    type Service = Ordered<S>;

    fn layer(&self, inner: S) -> Ordered<S> {
        Ordered { inner, plane: Arc::clone(&self.0) }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Ordered<S> {
    inner: S,
    plane: Arc<Plane>,
}

impl<S, B, R> Service<Request<B>> for Ordered<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that was polled ready is the one to call.
        let waiting = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, waiting);
        let plane = Arc::clone(&self.plane);
        Box::pin(async move {
            if let Some(seen) = revision(request.headers())
                && !plane.catches_up(seen).await
            {
                let behind =
                    "this controller has not seen yet what another one told the caller; ask again, or another one";
                return Ok(Status::unavailable(behind).into_http());
            }
            let mut answer = inner.call(request).await?;
            answer.headers_mut().insert(REVISION, HeaderValue::from(plane.shown()));
            Ok(answer)
        })
    }
}
