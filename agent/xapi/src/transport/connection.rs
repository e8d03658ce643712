//! One connection to one host, closed when dropped.

use std::io;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::request::Body;
use crate::hosts::Hosts;
use crate::link::Timeouts;
use crate::{Endpoint, Error};

/// An idle connection older than this is not trusted: firewalls forget connections without telling.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// An HTTP/1.1 connection. Dropping it cuts it.
#[derive(Debug)]
pub(crate) struct Connection {
    endpoint: Endpoint,
    sender: SendRequest<Body>,
    used: Instant,
    /// Moves the bytes; aborted with the connection.
    _driver: AbortOnDropHandle<()>,
}

/// Connects, verifies the certificate, starts HTTP.
pub(crate) async fn dial(host: &Endpoint, hosts: &Hosts, timeouts: &Timeouts) -> Result<Connection, Error> {
    let accepted = hosts.accepted(host)?;
    connecting(host, timeouts.connect, async {
        let tcp = open(host).await?;
        let tls = hosts.pins().secure(host, tcp, &accepted).await?;
        Connection::over(host, tls).await
    })
    .await
}

impl Connection {
    /// Starts HTTP on a stream that is as secure as it will get.
    pub(crate) async fn over(
        host: &Endpoint,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self, Error> {
        let (sender, connection) = http1::Builder::new()
            .title_case_headers(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| transport(host, "opening HTTP", false, source))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "connection ended");
            }
        });
        Ok(Self { endpoint: host.clone(), sender, used: Instant::now(), _driver: AbortOnDropHandle::new(driver) })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether another request may be tried on it.
    pub(crate) fn is_fresh(&self) -> bool {
        !self.sender.is_closed() && self.used.elapsed() < MAX_IDLE
    }

    /// Sends one request and waits for the head of the answer.
    pub(crate) async fn send(&mut self, request: Request<Body>, what: &str) -> Result<Response<Incoming>, Error> {
        self.sender.ready().await.map_err(|source| transport(&self.endpoint, what, false, source))?;
        let sent = self.sender.try_send_request(request).await;
        self.used = Instant::now();
        sent.map_err(|mut error| {
            let maybe_done = error.take_message().is_none();
            transport(&self.endpoint, what, maybe_done, error.into_error())
        })
    }
}

pub(crate) async fn open(host: &Endpoint) -> Result<TcpStream, Error> {
    let connect = |source: io::Error| Error::Connect { host: host.clone(), source };
    let tcp = TcpStream::connect((host.host(), host.port())).await.map_err(connect)?;
    tcp.set_nodelay(true).map_err(connect)?;
    Ok(tcp)
}

pub(crate) fn transport(host: &Endpoint, what: &str, maybe_done: bool, source: hyper::Error) -> Error {
    Error::Transport { host: host.clone(), what: what.to_owned(), maybe_done, source }
}

/// Bounds the time of making a connection; nothing was asked yet, which an error here says.
pub(crate) async fn connecting<T>(
    host: &Endpoint,
    after: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(after, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Connect { host: host.clone(), source: io::ErrorKind::TimedOut.into() }),
    }
}

/// Bounds the time of something that a host was asked to do.
pub(crate) async fn within<T>(
    host: &Endpoint,
    what: &str,
    after: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(after, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Timeout { host: host.clone(), what: what.to_owned(), after }),
    }
}
