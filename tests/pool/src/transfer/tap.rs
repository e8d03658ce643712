//! A stream's tap: counts what passes and carries out the faults of a transfer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::faults::StreamFaults;

/// The text of the second answer that stands in a broken body.
const IN_BODY: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\nconnection: close\r\ncache-control: no-cache, no-store\r\n\
content-type: text/html\r\n\r\n<html><body><h1>HTTP 500 internal server error</h1></body></html>";

/// Wraps a reader or writer.
pub(super) struct Tap<S> {
    inner: S,
    faults: StreamFaults,
    passed: Arc<AtomicU64>,
    started: Instant,
    wait: Option<BoxFuture<'static, ()>>,
    /// Of the text in the body, what is still to be written.
    text: Option<&'static [u8]>,
}

impl<S> Tap<S> {
    pub(super) fn new(inner: S, faults: StreamFaults) -> Self {
        let passed = Arc::default();
        Self { inner, faults, passed, started: Instant::now(), wait: None, text: None }
    }

    /// Bytes that passed; stays true after the tap is gone.
    pub(super) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.passed)
    }

    fn count(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Waits for what must come before the next byte.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            let passed = self.count();
            if let Some((after, cleared)) = &self.faults.stall
                && passed >= *after
            {
                let cleared = cleared.clone();
                self.faults.stall = None;
                self.wait = Some(Box::pin(async move { cleared.cancelled().await }));
                continue;
            }
            if let Some(rate) = self.faults.bytes_per_second {
                #[expect(clippy::cast_precision_loss, reason = "a point in time")]
                let due = self.started + Duration::from_secs_f64(passed as f64 / rate as f64);
                if due > Instant::now() {
                    self.wait = Some(Box::pin(tokio::time::sleep_until(due)));
                    continue;
                }
            }
            return Poll::Ready(());
        }
    }

    /// How many bytes may pass at once: up to the next fault, and in small steps when slow.
    fn room(&self, wanted: usize) -> usize {
        let passed = self.count();
        let stall = self.faults.stall.as_ref().map(|(after, _)| *after);
        let marks = [self.faults.cut_after, self.faults.error_in_body, stall];
        let mark = marks.into_iter().flatten().map(|m| m.saturating_sub(passed)).min().unwrap_or(u64::MAX);
        let step = self.faults.bytes_per_second.map_or(u64::MAX, |rate| (rate / 50).max(1));
        wanted.min(usize::try_from(mark.min(step)).unwrap_or(usize::MAX))
    }

    fn is_cut(&self) -> bool {
        self.faults.cut_after.is_some_and(|after| self.count() >= after)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let me = &mut *self;
        ready!(me.poll_turn(cx));
        if me.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if me.text.is_none() && me.faults.error_in_body.is_some_and(|after| me.count() >= after) {
            me.text = Some(IN_BODY);
        }
        while let Some(rest) = me.text.filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut me.inner).poll_write(cx, rest))?;
            me.text = rest.get(written..);
        }
        if me.text.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = me.room(buffer.len());
        let piece = buffer.get(..room).unwrap_or_default();
        let flip = me.faults.corrupt_at.and_then(|at| usize::try_from(at.checked_sub(me.count())?).ok());
        let written = match flip.filter(|at| *at < piece.len()) {
            Some(at) => {
                let mut flipped = piece.to_vec();
                flipped.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
                ready!(Pin::new(&mut me.inner).poll_write(cx, &flipped))?
            }
            None => ready!(Pin::new(&mut me.inner).poll_write(cx, piece))?,
        };
        me.passed.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    /// A connection that the client cut ends the body, as it does for a host behind its TLS proxy.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        ready!(me.poll_turn(cx));
        if me.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let room = me.room(buffer.remaining());
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(room));
        match ready!(Pin::new(&mut me.inner).poll_read(cx, &mut piece)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(())),
            other => other?,
        }
        let read = piece.filled().len();
        buffer.advance(read);
        me.passed.fetch_add(read as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn written(faults: StreamFaults, bytes: &[u8]) -> (Vec<u8>, bool, u64) {
        let mut out = Vec::new();
        let mut tap = Tap::new(&mut out, faults);
        let counter = tap.counter();
        let ok = tap.write_all(bytes).await.is_ok();
        (out, ok, counter.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_cut_stream_lets_so_many_bytes_through() {
        let faults = StreamFaults { cut_after: Some(5), ..StreamFaults::default() };
        assert_eq!(written(faults, b"0123456789").await, (b"01234".to_vec(), false, 5));
    }

    #[tokio::test]
    async fn one_bit_is_flipped_and_no_other() {
        let faults = StreamFaults { corrupt_at: Some(3), ..StreamFaults::default() };
        assert_eq!(written(faults, b"0000000").await.0, b"0001000");
    }

    #[tokio::test]
    async fn the_text_of_an_error_stands_in_the_body() {
        let faults = StreamFaults { error_in_body: Some(2), ..StreamFaults::default() };
        let (out, ok, _) = written(faults, b"0123456789").await;
        assert!(!ok && out.starts_with(b"01HTTP/1.1 500 "));
    }

    #[tokio::test]
    async fn a_slow_stream_takes_its_time_and_loses_nothing() {
        let started = Instant::now();
        let faults = StreamFaults { bytes_per_second: Some(5000), ..StreamFaults::default() };
        let bytes = vec![7; 1000];
        let (out, ok, _) = written(faults, &bytes).await;
        assert!(ok && out == bytes);
        assert!(started.elapsed() >= Duration::from_millis(150), "a fifth of a second's bytes, the last step at once");
    }

    #[tokio::test]
    async fn what_is_read_is_what_was_sent() {
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let mut tap = Tap::new(bytes.as_slice(), StreamFaults::default());
        let mut read = Vec::new();
        tap.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, bytes);
        assert_eq!(tap.count(), 100_000);
    }
}
