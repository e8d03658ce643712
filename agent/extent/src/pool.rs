//! The agent's byte budget: a fixed number of buffers, reused for ever.
//!
//! Whoever reads from outside takes a buffer first and waits when there is none: this is where back-pressure becomes a
//! bound on memory. Buffers come back when the last [`Bytes`] made of them is dropped.

use bytes::Bytes;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A fixed number of equal buffers, shared by clones of this handle.
///
/// Buffers are allocated at first use and kept, since fresh memory costs far more than a used page. Waiters are served
/// in the order they came.
#[derive(Clone)]
pub struct BufferPool(Arc<Shared>);

struct Shared {
    permits: Arc<Semaphore>,
    free: Mutex<Vec<Box<[u8]>>>,
    buffers: usize,
    buffer_bytes: usize,
}

impl BufferPool {
    /// A pool of as many buffers of `buffer_bytes` as `total_bytes` hold, one at least.
    pub fn new(total_bytes: usize, buffer_bytes: usize) -> BufferPool {
        let buffer_bytes = buffer_bytes.max(1);
        let buffers = (total_bytes / buffer_bytes).clamp(1, Semaphore::MAX_PERMITS);
        BufferPool(Arc::new(Shared {
            permits: Arc::new(Semaphore::new(buffers)),
            free: Mutex::new(Vec::new()),
            buffers,
            buffer_bytes,
        }))
    }

    /// Size of each buffer in bytes.
    pub fn buffer_bytes(&self) -> usize {
        self.0.buffer_bytes
    }

    /// How many buffers there are.
    pub fn buffers(&self) -> usize {
        self.0.buffers
    }

    /// How many buffers could be taken now without waiting.
    pub fn available(&self) -> usize {
        self.0.permits.available_permits()
    }

    /// Takes a buffer, waiting until there is one. Dropping the future gives up the place in the queue and loses
    /// nothing.
    pub async fn take(&self) -> Buffer {
        let permit = self.0.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        self.buffer(permit)
    }

    /// Takes a buffer if there is one now.
    pub fn try_take(&self) -> Option<Buffer> {
        let permit = self.0.permits.clone().try_acquire_owned().ok()?;
        Some(self.buffer(permit))
    }

    fn buffer(&self, permit: OwnedSemaphorePermit) -> Buffer {
        let used = self.0.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = used.unwrap_or_else(|| vec![0; self.0.buffer_bytes].into_boxed_slice());
        Buffer { memory, pool: self.0.clone(), _permit: permit }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("buffers", &self.buffers())
            .field("buffer_bytes", &self.buffer_bytes())
            .field("available", &self.available())
            .finish()
    }
}

/// One buffer of a pool, owned alone: writable memory with the content its last user left.
pub struct Buffer {
    memory: Box<[u8]>,
    pool: Arc<Shared>,
    // Dropped after `Drop::drop` has put the memory back, so that whoever gets the permit finds the memory.
    _permit: OwnedSemaphorePermit,
}

impl Buffer {
    /// The first `len` bytes (at most the whole buffer), shared and read-only from now on, without copying. The buffer
    /// goes back to its pool when the last clone or slice is dropped.
    pub fn freeze(self, len: usize) -> Bytes {
        let len = len.min(self.memory.len());
        Bytes::from_owner(Frozen { buffer: self, len })
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.memory.len()).finish()
    }
}

struct Frozen {
    buffer: Buffer,
    len: usize,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.memory[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn the_budget_is_never_exceeded() {
        let pool = BufferPool::new(10, 4);
        assert_eq!((pool.buffers(), pool.buffer_bytes()), (2, 4));
        let (first, second) = (pool.try_take().unwrap(), pool.try_take().unwrap());
        assert!(pool.try_take().is_none());
        drop(first);
        assert!(pool.try_take().is_some());
        drop(second);
        assert_eq!(pool.available(), 2);
    }

    #[test]
    fn a_pool_smaller_than_one_buffer_still_has_one() {
        assert_eq!(BufferPool::new(1, 4096).buffers(), 1);
    }

    #[test]
    fn memory_is_reused_and_comes_back_with_the_last_slice() {
        let pool = BufferPool::new(4, 4);
        let mut buffer = pool.try_take().unwrap();
        buffer.copy_from_slice(b"abcd");
        let place = buffer.as_ptr();
        let bytes = buffer.freeze(3);
        let slice = bytes.slice(1..2);
        assert_eq!(&bytes[..], b"abc");
        drop(bytes);
        assert!(pool.try_take().is_none());
        assert_eq!(&slice[..], b"b");
        drop(slice);
        assert_eq!(pool.try_take().unwrap().as_ptr(), place);
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_loses_nothing() {
        let pool = BufferPool::new(1, 1);
        let held = pool.take().await;
        let mut first = Box::pin(pool.take());
        let mut second = Box::pin(pool.take());
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(held);
        drop(first);
        drop(second.await);
        assert_eq!(pool.available(), 1);
    }
}
