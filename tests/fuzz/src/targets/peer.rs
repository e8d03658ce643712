//! The other end of a connection.

use std::io::{Cursor, Result};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Says what it was given and swallows what it is told.
pub(super) struct Peer {
    says: Cursor<Vec<u8>>,
    /// It says nothing before it was asked.
    is_silent: bool,
    reader: Option<Waker>,
}

impl Peer {
    /// One that speaks first.
    pub(super) fn new(says: &[u8]) -> Self {
        Self { says: Cursor::new(says.to_vec()), is_silent: false, reader: None }
    }

    /// One that answers.
    pub(super) fn asked(says: &[u8]) -> Self {
        Self { is_silent: true, ..Self::new(says) }
    }
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if self.is_silent {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.says).poll_read(context, buffer)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.is_silent = false;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}
