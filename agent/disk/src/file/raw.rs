//! Raw disk files: sparse when written, and read without reading their holes.

use super::partial::{Order, PartialFile, blocking, failed};
use crate::Error;
use async_trait::async_trait;
use bytes::Bytes;
use coffer_extent::{BlockReader, BufferPool, Extent, ExtentError, ExtentSink, ExtentSource, StreamError, is_zero};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes a disk into a raw file.
#[derive(Debug)]
pub struct RawFileSink {
    place: Place,
    order: Order,
}

#[derive(Debug)]
enum Place {
    /// A new file: whatever is not written is a hole.
    New(PartialFile),
    /// A file that holds the previous state of the disk: unchanged ranges stay, zeros become holes.
    Existing { file: Arc<File>, path: PathBuf },
}

impl RawFileSink {
    /// A new file for a disk of `size` bytes; the name must be free. Until `finish` it is called `PATH.partial`.
    pub async fn create(path: impl AsRef<Path>, size: u64) -> Result<RawFileSink, Error> {
        let file = PartialFile::create(path.as_ref()).await?;
        file.set_len(size).await?;
        Ok(RawFileSink { place: Place::New(file), order: Order::new(size) })
    }

    /// Brings an existing file up to date in place, as a delta does; it gets `size` bytes. If this is interrupted, the
    /// file holds a mixture of both states.
    pub async fn update(path: impl AsRef<Path>, size: u64) -> Result<RawFileSink, Error> {
        let path = path.as_ref().to_owned();
        blocking(move || {
            let file = OpenOptions::new().write(true).open(&path).map_err(failed("open", &path))?;
            file.set_len(size).map_err(failed("resize", &path))?;
            Ok(RawFileSink { place: Place::Existing { file: Arc::new(file), path }, order: Order::new(size) })
        })
        .await
    }

    fn subject(&self) -> String {
        match &self.place {
            Place::New(file) => file.target().display().to_string(),
            Place::Existing { path, .. } => path.display().to_string(),
        }
    }
}

#[async_trait]
impl ExtentSink for RawFileSink {
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        self.order.advance(&extent).map_err(|error| error.about(self.subject()))?;
        match (&self.place, extent) {
            (Place::New(file), Extent::Data { offset, bytes }) => file.write(vec![(offset, bytes)]).await?,
            (Place::New(_), Extent::Zero { .. }) | (Place::Existing { .. }, Extent::Unchanged { .. }) => {}
            (Place::New(_), Extent::Unchanged { offset, len }) => {
                return Err(StreamError::UnexpectedUnchanged { offset, len }.about(self.subject()));
            }
            (Place::Existing { file, path }, Extent::Data { offset, bytes }) => {
                let (file, path) = (file.clone(), path.clone());
                blocking(move || file.write_all_at(&bytes, offset).map_err(failed("write", &path))).await?;
            }
            (Place::Existing { file, path }, Extent::Zero { offset, len }) => {
                let (file, path) = (file.clone(), path.clone());
                blocking(move || punch(&file, offset, len).map_err(failed("write zeros into", &path))).await?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ExtentError> {
        self.order.complete().map_err(|error| error.about(self.subject()))?;
        match &mut self.place {
            Place::New(file) => file.publish().await?,
            Place::Existing { file, path } => {
                let (file, path) = (file.clone(), path.clone());
                blocking(move || file.sync_all().map_err(failed("make durable", &path))).await?;
            }
        }
        Ok(())
    }
}

/// Makes a range read as zeros: a hole, or written zeros where the file system has no holes.
fn punch(file: &File, offset: u64, len: u64) -> std::io::Result<()> {
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        result => return Ok(result?),
    }
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut position = offset;
    while position < offset + len {
        let step = usize::try_from(offset + len - position).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all_at(ZEROS.get(..step).unwrap_or(&ZEROS), position)?;
        position += step as u64;
    }
    Ok(())
}

/// A raw disk file, for random access.
#[derive(Debug, Clone)]
pub struct RawFile {
    file: Arc<File>,
    path: Arc<Path>,
    size: u64,
}

impl RawFile {
    /// Opens a file for reading; its length at this time is the size of the disk.
    pub async fn open(path: impl AsRef<Path>) -> Result<RawFile, Error> {
        let path: Arc<Path> = path.as_ref().into();
        blocking(move || {
            let file = File::open(&path).map_err(failed("open", &path))?;
            let size = file.metadata().map_err(failed("inspect", &path))?.len();
            Ok(RawFile { file: Arc::new(file), path, size })
        })
        .await
    }
}

#[async_trait]
impl BlockReader for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, ExtentError> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size) {
            let outside = StreamError::OutsideDisk { offset, len: len as u64, size: self.size };
            return Err(outside.about(self.path.display().to_string()));
        }
        let (file, path) = (self.file.clone(), self.path.clone());
        let read = blocking(move || {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, offset).map_err(failed("read", &path))?;
            Ok::<_, Error>(Bytes::from(bytes))
        });
        Ok(read.await?)
    }
}

/// Reads a raw file from front to back; holes are not read, and zeros are found.
#[derive(Debug)]
pub struct RawFileSource {
    disk: RawFile,
    pool: BufferPool,
    position: u64,
    /// End of the data that `position` is in, while it is.
    data_end: u64,
}

impl RawFileSource {
    /// Opens a file; its data come in buffers of `pool`.
    pub async fn open(path: impl AsRef<Path>, pool: BufferPool) -> Result<RawFileSource, Error> {
        Ok(RawFileSource { disk: RawFile::open(path).await?, pool, position: 0, data_end: 0 })
    }

    /// The hole at the current position, if it is in one; otherwise the end of the data is known afterwards.
    async fn hole(&mut self) -> Result<Option<Extent>, Error> {
        let (file, path, offset, size) =
            (self.disk.file.clone(), self.disk.path.clone(), self.position, self.disk.size);
        let (start, end) = blocking(move || data_behind(&file, offset, size).map_err(failed("map", &path))).await?;
        self.data_end = end;
        Ok((start > offset).then(|| Extent::Zero { offset, len: start - offset }))
    }
}

/// The first range of data at or behind `offset`: `(size, size)` if there is none.
fn data_behind(file: &File, offset: u64, size: u64) -> std::io::Result<(u64, u64)> {
    let start = match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start.clamp(offset, size),
        Err(Errno::NXIO) => return Ok((size, size)),
        // No holes on this file system, or a device: all is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((offset, size)),
        Err(error) => return Err(error.into()),
    };
    let end = seek(file, SeekFrom::Hole(start)).unwrap_or(size);
    Ok((start, end.clamp(start, size)))
}

#[async_trait]
impl ExtentSource for RawFileSource {
    fn size(&self) -> u64 {
        self.disk.size
    }

    async fn next(&mut self) -> Result<Option<Extent>, ExtentError> {
        if self.position >= self.disk.size {
            return Ok(None);
        }
        if self.position >= self.data_end
            && let Some(hole) = self.hole().await?
        {
            self.position = hole.end();
            return Ok(Some(hole));
        }
        let offset = self.position;
        let step = self.pool.buffer_bytes() as u64;
        // To the next multiple of a buffer, so that a hole at an odd place does not put all the rest out of step.
        let end = (offset - offset % step + step).min(self.data_end);
        let len = usize::try_from(end - offset).unwrap_or(usize::MAX).min(self.pool.buffer_bytes());
        let mut buffer = self.pool.take().await;
        let (file, path) = (self.disk.file.clone(), self.disk.path.clone());
        let read = blocking(move || {
            let place = buffer.get_mut(..len).unwrap_or_default();
            file.read_exact_at(place, offset).map_err(failed("read", &path))?;
            Ok::<_, Error>(buffer)
        });
        let buffer = read.await?;
        self.position = end;
        if buffer.get(..len).is_some_and(is_zero) {
            return Ok(Some(Extent::Zero { offset, len: len as u64 }));
        }
        Ok(Some(Extent::Data { offset, bytes: buffer.freeze(len) }))
    }
}
