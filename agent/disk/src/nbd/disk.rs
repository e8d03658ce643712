//! An export as a disk that can be read anywhere.

use super::negotiation::Export;
use super::plan::ReadPlan;
use super::queue::{Answer, Job};
use super::source::NbdSource;
use super::target::{NbdOptions, NbdTarget};
use super::worker::Shared;
use crate::{Error, NbdError};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use coffer_extent::{ALIGNMENT, BlockReader, Buffer, BufferPool, ExtentError, RangeSet, StreamError};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

/// An open export. Clones share its connections, which end with the last clone.
#[derive(Debug, Clone)]
pub struct NbdDisk(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    export: Export,
    pool: BufferPool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// The most that one request asks for.
const LONGEST_READ: u64 = 2 * 1024 * 1024;

impl NbdDisk {
    /// Opens an export over the first target that works; the others are used when that one fails. Further connections
    /// follow when there is work for them. Content comes in buffers of `pool`.
    pub async fn connect(targets: Vec<NbdTarget>, options: NbdOptions, pool: BufferPool) -> Result<NbdDisk, Error> {
        let names = targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let failed = |source| Error::NbdOpen { export: names.clone(), source: Arc::new(source) };
        let shared = Arc::new(Shared::new(targets, options).map_err(failed)?);
        let connection = shared.connect_patiently().await.map_err(failed)?;
        let export = connection.export().clone();
        shared.start(connection, export.size);
        Ok(NbdDisk(Arc::new(Handle { shared, export, pool })))
    }

    /// What the server offers.
    pub fn export(&self) -> &Export {
        &self.0.export
    }

    /// The ranges that may differ from zero; `None` when the server does not tell (real hosts never do).
    pub async fn allocated(&self) -> Result<Option<RangeSet>, Error> {
        if self.0.export.allocation_context.is_none() {
            return Ok(None);
        }
        // Multiples of the block size, below what fits the request.
        const STEP: u64 = 1 << 31;
        let size = self.0.export.size;
        let mut zero = RangeSet::new();
        let mut position = 0;
        while position < size {
            let len = u32::try_from((size - position).min(STEP)).expect("the step fits");
            let (job, answer) = Job::status(position, len);
            self.0.shared.submit(job, size);
            let status = answered(answer).await.map_err(|source| {
                let export = self.subject();
                Error::NbdStatus { export, offset: position, source }
            })?;
            status.zero.iter().for_each(|range| zero.insert(range));
            position += status.covered;
        }
        Ok(Some(zero.complement(size)))
    }

    /// Reads in order what the plan says; it must be a plan for a disk of this size.
    pub fn source(&self, plan: ReadPlan) -> Result<NbdSource, Error> {
        let (expected, found) = (plan.size(), self.0.export.size);
        if expected != found {
            let source = Arc::new(NbdError::SizeChanged { expected, found });
            return Err(Error::NbdOpen { export: self.subject(), source });
        }
        Ok(NbdSource::new(self.clone(), plan))
    }

    /// Ends all connections and waits until the server has been told, so that it detaches the disk soon. Reads of other
    /// clones fail from now on.
    pub async fn close(self) {
        self.0.shared.close().await;
    }

    pub(super) fn pool(&self) -> &BufferPool {
        &self.0.pool
    }

    /// Requests that are worth having in flight at once.
    pub(super) fn window(&self) -> usize {
        let options = &self.0.shared.options;
        options.connections.max(1).saturating_mul(options.depth.max(1))
    }

    /// Bytes of a request: what fits a buffer and the server, a multiple of the alignment if possible.
    pub(super) fn step(&self) -> u64 {
        let most = LONGEST_READ.min(self.0.export.maximum_read).min(self.0.pool.buffer_bytes() as u64);
        let unit = if most >= ALIGNMENT { ALIGNMENT } else { self.0.export.minimum_block };
        (most / unit * unit).max(1)
    }

    /// Starts a read into a buffer that was taken for it.
    pub(super) fn submit(&self, offset: u64, len: usize, buffer: Buffer) -> oneshot::Receiver<Answer<Buffer>> {
        let (job, answer) = Job::read(offset, len, buffer);
        self.0.shared.submit(job, self.0.export.size);
        answer
    }

    pub(super) fn read_error(&self, offset: u64, len: u64, source: Arc<NbdError>) -> Error {
        Error::NbdRead { export: self.subject(), offset, len, source }
    }

    pub(super) fn subject(&self) -> String {
        self.0.shared.subject()
    }
}

/// The answer to a job, which is missing only when the workers have been stopped.
pub(super) async fn answered<T>(answer: impl Future<Output = Result<Answer<T>, RecvError>>) -> Answer<T> {
    answer.await.unwrap_or_else(|_| Err(Arc::new(NbdError::Stopped)))
}

#[async_trait]
impl BlockReader for NbdDisk {
    fn size(&self) -> u64 {
        self.0.export.size
    }

    /// Reads of at most one pool buffer, within whole sectors, are not copied.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, ExtentError> {
        let (size, unit, step) = (self.0.export.size, self.0.export.minimum_block, self.step());
        let Some(end) = offset.checked_add(len as u64).filter(|end| *end <= size) else {
            return Err(StreamError::OutsideDisk { offset, len: len as u64, size }.about(self.subject()));
        };
        let mut parts = Vec::new();
        let mut position = offset;
        while position < end {
            let start = position - position % unit;
            let part_end = end.min(start.saturating_add(step));
            let asked = part_end.next_multiple_of(unit).min(size) - start;
            let bytes = usize::try_from(asked).expect("a step fits a buffer");
            let buffer = self.0.pool.take().await;
            let filled = answered(self.submit(start, bytes, buffer)).await;
            let filled = filled.map_err(|source| self.read_error(start, asked, source))?.freeze(bytes);
            let from = usize::try_from(position - start).expect("less than a step");
            let part = filled.slice(from..from + usize::try_from(part_end - position).expect("a step fits a buffer"));
            if part.len() == len {
                return Ok(part);
            }
            // Copied, so that a long read never holds more than one buffer of the pool.
            parts.push(BytesMut::from(&part[..]));
            position = part_end;
        }
        let mut whole = BytesMut::with_capacity(len);
        parts.iter().for_each(|part| whole.extend_from_slice(part));
        Ok(whole.freeze())
    }
}
