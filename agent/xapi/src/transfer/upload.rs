//! Data going to a host.

use std::convert::Infallible;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use tokio_util::task::AbortOnDropHandle;

use super::download::Patience;
use super::open::{Ticket, accepted, not_again, put_head};
use crate::transport::{Body, Connection, transport, within};
use crate::wire::XmlValue;
use crate::{Endpoint, Error, Ref};

/// Pieces on their way to the connection.
const PIECES: usize = 2;

/// A disk or a VM being written. That all bytes were taken proves nothing: [`Upload::finish`] does.
///
/// When it is dropped, the connection is cut and the host gives up; a disk is then partly written.
#[derive(Debug)]
pub struct Upload {
    ticket: Ticket,
    pieces: PollSender<Bytes>,
    announced: u64,
    written: u64,
    patience: Patience,
    exchange: AbortOnDropHandle<Result<(), Error>>,
}

impl Upload {
    pub(super) fn start(
        ticket: Ticket,
        connection: Connection,
        path_and_query: &str,
        announced: u64,
    ) -> Result<Self, Error> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let request = put_head(path_and_query, announced, &ticket.what).with(&ticket.host, streamed(receiver))?;
        let exchange = tokio::spawn(exchange(ticket.host.clone(), ticket.what.clone(), connection, request));
        let patience = Patience::new(ticket.client.timeouts().idle);
        Ok(Self {
            ticket,
            pieces: PollSender::new(sender),
            announced,
            written: 0,
            patience,
            exchange: AbortOnDropHandle::new(exchange),
        })
    }

    /// The host that it goes to.
    #[must_use]
    pub fn host(&self) -> &Endpoint {
        &self.ticket.host
    }

    /// The task of the transfer.
    #[must_use]
    pub fn task(&self) -> &Ref<crate::records::Task> {
        &self.ticket.task
    }

    /// Bytes handed over so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Hands over a piece without copying it; waits while the host is behind. Cancellation-safe: a piece goes whole or
    /// not at all.
    ///
    /// # Errors
    /// [`Error::UploadRefused`], [`Error::Stalled`], [`Error::Length`]. [`Upload::finish`] then tells the pool's own
    /// reason.
    pub async fn send(&mut self, piece: Bytes) -> Result<(), Error> {
        if piece.is_empty() {
            return Ok(());
        }
        self.check_length(piece.len())?;
        std::future::poll_fn(|context| self.poll_room(context)).await?;
        self.hand_over(piece)
    }

    /// To be called when all was written: waits for the host and for the task, and returns the task's result. After an
    /// error of writing it returns the reason, the task's rather than the connection's.
    ///
    /// # Errors
    /// Whatever the task says; [`Error::TaskVanished`] when it cannot say any more; [`Error::Length`] when bytes are
    /// missing.
    pub async fn finish(self) -> Result<XmlValue, Error> {
        let Self { ticket, mut pieces, announced, written, exchange, .. } = self;
        let refused = pieces.is_closed();
        pieces.close();
        drop(pieces);
        if written != announced && !refused {
            drop(exchange);
            ticket.cancelled_or_logged().await;
            return Err(Error::Length { what: ticket.what, announced, written });
        }
        let settle = ticket.client.timeouts().settle;
        let answered = within(&ticket.host, &ticket.what, settle, async {
            exchange.await.unwrap_or_else(|_| Err(refusal(&ticket, written)))
        })
        .await;
        let complete = written == announced;
        match answered {
            // All was handed over: how the connection then closed does not matter, the task knows.
            Ok(()) | Err(Error::Transport { .. }) if complete => ticket.verdict().await,
            Ok(()) => Err(ticket.reason(refusal(&ticket, written)).await),
            Err(broken) => Err(ticket.reason(broken).await),
        }
    }

    /// Gives up: cuts the connection, cancels the task and waits until it has ended. The disk may stay in
    /// use for seconds: see [`crate::BUSY`].
    ///
    /// # Errors
    /// When the task's end cannot be seen.
    pub async fn abort(self) -> Result<(), Error> {
        let Self { ticket, pieces, exchange, .. } = self;
        drop((exchange, pieces));
        ticket.cancelled().await
    }

    fn check_length(&self, more: usize) -> Result<(), Error> {
        let written = self.written.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
        if written > self.announced {
            return Err(Error::Length { what: self.ticket.what.clone(), announced: self.announced, written });
        }
        Ok(())
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self.pieces.poll_reserve(context) {
            Poll::Ready(Ok(())) => {
                self.patience.moved(self.ticket.client.timeouts().idle);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(refusal(&self.ticket, self.written))),
            Poll::Pending => {
                let after = ready!(self.patience.poll_exhausted(context));
                Poll::Ready(Err(Error::Stalled {
                    host: self.ticket.host.clone(),
                    what: self.ticket.what.clone(),
                    after,
                    bytes: self.written,
                }))
            }
        }
    }

    /// Only after [`Upload::poll_room`] was ready.
    fn hand_over(&mut self, piece: Bytes) -> Result<(), Error> {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.pieces.send_item(piece).map_err(|_| refusal(&self.ticket, self.written))?;
        self.written += length;
        Ok(())
    }
}

fn refusal(ticket: &Ticket, bytes: u64) -> Error {
    Error::UploadRefused { host: ticket.host.clone(), what: ticket.what.clone(), bytes }
}

fn streamed(receiver: mpsc::Receiver<Bytes>) -> Body {
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), receiver))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Sends the request and reads the answer to its end. The answer's head comes early; its end comes when the host has
/// read the body, or has given up.
async fn exchange(
    host: Endpoint,
    what: String,
    mut connection: Connection,
    request: Request<Body>,
) -> Result<(), Error> {
    let response = connection.send(request, &what).await?;
    accepted(&host, &what, &response)?;
    not_again(&host, &what, &response)?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(|source| transport(&host, &what, true, source))?;
    }
    Ok(())
}
