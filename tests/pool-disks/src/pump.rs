//! Moves pieces of disks between blocking storage and async streams, with one piece of read-ahead or write-behind and
//! buffers that are used again. Holds two buffers per stream, whatever the disk's size.

use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::disk::{Disk, ReadAt};
use crate::error::{Error, Result};

/// Called now and then with the part done, 0.0 to 1.0.
pub type Progress<'a> = &'a (dyn Fn(f64) + Send + Sync);

/// A range to be read: offset and length in bytes.
pub(crate) type Wanted = (u64, usize);

/// A piece of a disk, behind room for a header.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Where it stands on the disk.
    pub(crate) offset: u64,
    /// The header's room, then the data.
    pub(crate) buffer: Vec<u8>,
}

/// Reads pieces of a disk in order; the next one is being read while the caller sends the last.
pub(crate) struct ReadAhead<D: ?Sized, I> {
    disk: Arc<D>,
    wanted: I,
    headroom: usize,
    running: Option<JoinHandle<(Piece, Result<()>)>>,
    spare: Vec<Vec<u8>>,
}

impl<D: ReadAt + ?Sized, I: Iterator<Item = Wanted>> ReadAhead<D, I> {
    /// Begins with the first piece at once. `spare` are buffers to use.
    pub(crate) fn new(disk: Arc<D>, wanted: I, headroom: usize, spare: Vec<Vec<u8>>) -> Self {
        let mut reader = Self { disk, wanted, headroom, running: None, spare };
        reader.begin();
        reader
    }

    /// The next piece; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>> {
        let Some(running) = self.running.take() else { return Ok(None) };
        let (piece, result) = running.await.map_err(|_| Error::ShuttingDown)?;
        result?;
        self.begin();
        Ok(Some(piece))
    }

    /// Gives a piece's buffer back.
    pub(crate) fn recycle(&mut self, piece: Piece) {
        self.spare.push(piece.buffer);
    }

    /// The buffers, for the next reader.
    pub(crate) fn into_spare(self) -> Vec<Vec<u8>> {
        self.spare
    }

    fn begin(&mut self) {
        let Some((offset, len)) = self.wanted.next() else { return };
        let mut buffer = self.spare.pop().unwrap_or_default();
        let (disk, headroom) = (Arc::clone(&self.disk), self.headroom);
        self.running = Some(spawn_blocking(move || {
            buffer.resize(headroom + len, 0);
            let result = disk.read_at(offset, &mut buffer[headroom..]);
            (Piece { offset, buffer }, result)
        }));
    }
}

/// Writes to a disk; the last piece is being written while the caller receives the next.
pub(crate) struct WriteBehind {
    disk: Disk,
    running: Option<JoinHandle<(Vec<u8>, Result<()>)>>,
}

impl WriteBehind {
    pub(crate) fn new(disk: Disk) -> Self {
        Self { disk, running: None }
    }

    /// Hands `buffer` to `write`, off the async threads; returns another buffer, of any length, once the write before
    /// is done.
    pub(crate) async fn submit(
        &mut self,
        buffer: Vec<u8>,
        write: impl FnOnce(&Disk, &[u8]) -> Result<()> + Send + 'static,
    ) -> Result<Vec<u8>> {
        let spare = self.settle().await?;
        let disk = self.disk.clone();
        self.running = Some(spawn_blocking(move || {
            let result = write(&disk, &buffer);
            (buffer, result)
        }));
        Ok(spare)
    }

    /// Waits for the last write.
    pub(crate) async fn settle(&mut self) -> Result<Vec<u8>> {
        let Some(running) = self.running.take() else { return Ok(Vec::new()) };
        let (buffer, result) = running.await.map_err(|_| Error::ShuttingDown)?;
        result.map(|()| buffer)
    }
}

/// Sends bytes of a named stream.
pub(crate) async fn send<W: AsyncWrite + Unpin>(writer: &mut W, stream: &'static str, bytes: &[u8]) -> Result<()> {
    writer.write_all(bytes).await.map_err(|source| Error::Stream { stream, source })
}

/// Runs a blocking call off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(call).await.map_err(|_| Error::ShuttingDown)?
}

/// Part done of a whole, for [`Progress`].
pub(crate) fn fraction(done: u64, total: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a progress figure needs no more than 53 bits")]
    if total == 0 { 1.0 } else { done as f64 / total as f64 }
}
