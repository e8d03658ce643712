//! Data coming from a host.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body as _, Incoming};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::head::{ErrorStatus, Pieces};
use super::open::Ticket;
use crate::transport::Connection;
use crate::{Endpoint, Error, Ref};

/// What may follow the end of the data that a reader knows of: padding of archives.
const MAX_TRAILING: u64 = 16 << 20;

/// A disk or a VM being read. The end of the stream proves nothing: [`Download::finish`] does.
///
/// When it is dropped, the connection is cut and the host gives up; [`Download::abort`] also waits for the task's end.
#[derive(Debug)]
pub struct Download {
    ticket: Ticket,
    _connection: Connection,
    body: Incoming,
    pieces: Pieces,
    received: u64,
    ended: bool,
    broken: bool,
    patience: Patience,
}

impl Download {
    pub(super) fn new(ticket: Ticket, connection: Connection, body: Incoming) -> Self {
        let patience = Patience::new(ticket.client.timeouts().first_byte);
        Self {
            ticket,
            _connection: connection,
            body,
            pieces: Pieces::new(),
            received: 0,
            ended: false,
            broken: false,
            patience,
        }
    }

    /// The host that it comes from.
    #[must_use]
    pub fn host(&self) -> &Endpoint {
        &self.ticket.host
    }

    /// The task of the transfer.
    #[must_use]
    pub fn task(&self) -> &Ref<crate::records::Task> {
        &self.ticket.task
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next piece, of any size but empty; `None` at the end. Cancellation-safe.
    ///
    /// # Errors
    /// [`Error::Cut`], [`Error::Stalled`], [`Error::ErrorInBody`]. [`Download::finish`] then tells the pool's own
    /// reason.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// To be called when all data that belongs to the stream was read: waits for its end and for the task, and returns
    /// the bytes received. After an error of reading it returns the reason, the task's rather than the connection's.
    ///
    /// # Errors
    /// Whatever the task says; [`Error::TaskVanished`] when it cannot say any more; [`Error::Cut`] when reading broke.
    pub async fn finish(mut self) -> Result<u64, Error> {
        let end = self.received;
        while !self.ended && !self.broken {
            match self.next().await {
                Ok(Some(_)) if self.received - end > MAX_TRAILING => {
                    let Self { ticket, _connection, body, .. } = self;
                    drop((body, _connection));
                    ticket.cancelled_or_logged().await;
                    return Err(Error::TrailingData { host: ticket.host, what: ticket.what, limit: MAX_TRAILING });
                }
                Ok(_) => {}
                // All was read that the reader wanted; that the connection then closed uncleanly is the task's to
                // judge.
                Err(Error::Cut { .. }) => {
                    self.broken = false;
                    self.ended = true;
                }
                Err(error) => return Err(self.into_reason(error).await),
            }
        }
        if self.broken {
            let error = self.cut(None);
            return Err(self.into_reason(error).await);
        }
        let Self { ticket, _connection, body, received, .. } = self;
        drop((body, _connection));
        ticket.verdict().await?;
        Ok(received)
    }

    /// Gives up: cuts the connection, cancels the task and waits until it has ended. The disk may stay in
    /// use for seconds: see [`crate::BUSY`].
    ///
    /// # Errors
    /// When the task's end cannot be seen.
    pub async fn abort(self) -> Result<(), Error> {
        let Self { ticket, _connection, body, .. } = self;
        drop((body, _connection));
        ticket.cancelled().await
    }

    async fn into_reason(self, error: Error) -> Error {
        let Self { ticket, _connection, body, .. } = self;
        drop((body, _connection));
        ticket.reason(error).await
    }

    fn cut(&self, source: Option<hyper::Error>) -> Error {
        Error::Cut { host: self.ticket.host.clone(), what: self.ticket.what.clone(), bytes: self.received, source }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        if self.broken {
            return Poll::Ready(Err(self.cut(None)));
        }
        let outcome = ready!(self.poll_body(context));
        self.broken = outcome.is_err();
        Poll::Ready(outcome)
    }

    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        loop {
            let ready = self.pieces.ready();
            if !ready.is_empty() {
                return Poll::Ready(Ok(Some(ready)));
            }
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    self.received += u64::try_from(data.len()).unwrap_or(u64::MAX);
                    self.patience.moved(self.ticket.client.timeouts().idle);
                    self.pieces.take(data).map_err(|status| self.error_in_body(status))?;
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    self.pieces.end().map_err(|status| self.error_in_body(status))?;
                }
                Poll::Ready(Some(Err(source))) => return Poll::Ready(Err(self.cut(Some(source)))),
                Poll::Pending => {
                    let after = ready!(self.patience.poll_exhausted(context));
                    return Poll::Ready(Err(Error::Stalled {
                        host: self.ticket.host.clone(),
                        what: self.ticket.what.clone(),
                        after,
                        bytes: self.received,
                    }));
                }
            }
        }
    }

    fn error_in_body(&self, ErrorStatus(status): ErrorStatus) -> Error {
        Error::ErrorInBody { host: self.ticket.host.clone(), what: self.ticket.what.clone(), status }
    }
}

impl AsyncRead for Download {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match ready!(this.poll_next(context)) {
            Ok(None) => Poll::Ready(Ok(())),
            Ok(Some(mut data)) => {
                let taken = data.len().min(buffer.remaining());
                buffer.put_slice(&data[..taken]);
                data.advance(taken);
                this.pieces.put_back(data);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(into_io(error))),
        }
    }
}

/// An error of a transfer where only one of input and output can be returned; it stays inside.
fn into_io(error: Error) -> io::Error {
    let kind = match &error {
        Error::Cut { .. } => io::ErrorKind::UnexpectedEof,
        Error::Stalled { .. } => io::ErrorKind::TimedOut,
        Error::UploadRefused { .. } => io::ErrorKind::BrokenPipe,
        Error::Length { .. } => io::ErrorKind::InvalidInput,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// How long nothing may move while somebody waits. A slow consumer is not a standing transfer: time counts only while
/// the transfer is asked and has nothing to give.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, waiting: None }
    }

    /// Something moved; from now on it may stand still for `limit`.
    pub(super) fn moved(&mut self, limit: Duration) {
        self.limit = limit;
        self.waiting = None;
    }

    /// Ready, with the limit, when nothing has moved for so long.
    pub(super) fn poll_exhausted(&mut self, context: &mut Context<'_>) -> Poll<Duration> {
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waiting.as_mut().poll(context));
        waiting.as_mut().reset(Instant::now() + limit);
        Poll::Ready(limit)
    }
}
