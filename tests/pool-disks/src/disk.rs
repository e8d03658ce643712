//! A disk as the streams see it: one id in one SR.

use std::sync::Arc;

use uuid::Uuid;

use crate::error::Result;
use crate::store::SrStore;

/// Blocking random reads. Implemented by [`Disk`]; a program may put its own (a delay, a fault) around it.
pub trait ReadAt: Send + Sync + 'static {
    /// Fills `buffer` from `offset`. The range must lie within the disk.
    ///
    /// # Errors
    /// When the range lies outside the disk or its data cannot be read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

/// A handle on one disk. Holds no lock; reads see the disk as it is at that moment.
#[derive(Debug, Clone)]
pub struct Disk {
    store: Arc<SrStore>,
    id: Uuid,
}

impl Disk {
    pub(crate) fn new(store: Arc<SrStore>, id: Uuid) -> Self {
        Self { store, id }
    }

    /// The disk's id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The SR that holds it.
    pub fn store(&self) -> &Arc<SrStore> {
        &self.store
    }

    /// Its virtual size in bytes, now.
    ///
    /// # Errors
    /// When the disk is gone.
    pub fn size(&self) -> Result<u64> {
        Ok(self.store.node(self.id)?.size)
    }

    /// Writes `data` at `offset`; see [`SrStore::write_at`].
    ///
    /// # Errors
    /// As [`SrStore::write_at`].
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.store.write_at(self.id, offset, data)
    }

    /// Makes a range read as zeros; see [`SrStore::zero_at`].
    ///
    /// # Errors
    /// As [`SrStore::zero_at`].
    pub fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.store.zero_at(self.id, offset, len)
    }

    /// The 2 MiB blocks that an export of this disk sends; see [`SrStore::allocated`].
    ///
    /// # Errors
    /// As [`SrStore::allocated`].
    pub fn allocated(&self, base: Option<Uuid>) -> Result<Vec<u32>> {
        self.store.allocated(self.id, base)
    }

    /// Copies every allocated block onto `target` (at least as large, in any SR). Blocking.
    ///
    /// # Errors
    /// When reading this disk or writing the target fails.
    pub fn copy_to(&self, target: &Disk) -> Result<()> {
        let mut buffer = vec![0; usize_of(crate::BLOCK)];
        for block in self.allocated(None)? {
            let offset = u64::from(block) * crate::BLOCK;
            self.read_at(offset, &mut buffer)?;
            target.write_at(offset, &buffer)?;
        }
        Ok(())
    }
}

impl ReadAt for Disk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.store.read_at(self.id, offset, buffer)
    }
}

/// A byte count as a length in memory.
pub(crate) fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("lengths in memory fit usize on the 64-bit hosts this runs on")
}
