//! An incoming stream of known structure: exact reads, skips to a position, typed errors when it ends early.

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::disk::usize_of;
use crate::error::{Error, Result};

/// A stream with a position.
pub(crate) struct Source<'a, R> {
    reader: &'a mut R,
    stream: &'static str,
    at: u64,
    end: Option<u64>,
}

impl<'a, R: AsyncRead + Unpin> Source<'a, R> {
    /// `end` is where the stream ends, when that was announced; else its end of file.
    pub(crate) fn new(reader: &'a mut R, stream: &'static str, end: Option<u64>) -> Self {
        Self { reader, stream, at: 0, end }
    }

    /// Bytes consumed.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Reads up to the buffer's length; fewer only at the end.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = self.end.map_or(u64::MAX, |end| end - self.at);
        let want = usize_of(left.min(buffer.len() as u64));
        let mut filled = 0;
        while filled < want {
            let read = self.reader.read(&mut buffer[filled..want]).await;
            match read.map_err(|source| Error::Stream { stream: self.stream, source })? {
                0 => break,
                count => filled += count,
            }
        }
        self.at += filled as u64;
        Ok(filled)
    }

    /// Fills the buffer with what is called `what`.
    pub(crate) async fn fill(&mut self, buffer: &mut [u8], what: &'static str) -> Result<()> {
        if self.read(buffer).await? < buffer.len() {
            return Err(Error::StreamTooShort { stream: self.stream, missing: what });
        }
        Ok(())
    }

    /// Reads a structure of fixed size.
    pub(crate) async fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what).await?;
        Ok(bytes)
    }

    /// Skips forward to a position; `false` when that is behind.
    pub(crate) async fn skip_to(&mut self, position: u64, what: &'static str) -> Result<bool> {
        let Some(mut left) = position.checked_sub(self.at) else { return Ok(false) };
        let mut scratch = vec![0; usize_of(left.min(64 * 1024))];
        while left > 0 {
            let part = usize_of(left.min(scratch.len() as u64));
            self.fill(&mut scratch[..part], what).await?;
            left -= part as u64;
        }
        Ok(true)
    }
}
