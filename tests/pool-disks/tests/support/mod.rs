//! What the tests share: stores in temporary folders, content to write, whole disks to compare.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::Arc;

use pool_disks::{Disk, SrParams, SrStore};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) const MIB: u64 = 1024 * 1024;

/// A store whose folder lives as long as the test.
pub(crate) struct Sr {
    pub(crate) store: Arc<SrStore>,
    folder: TempDir,
}

impl Sr {
    pub(crate) fn new(params: SrParams) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SrStore::create(&folder.path().join("sr"), params).unwrap();
        Self { store, folder }
    }

    pub(crate) fn thin() -> Self {
        Self::new(SrParams::default())
    }

    /// What a kill and a new start of the program do: nothing is saved at the end.
    pub(crate) fn restart(&mut self) {
        self.store = SrStore::open(&self.folder.path().join("sr")).unwrap();
    }

    /// A new disk of zeros.
    pub(crate) fn disk(&self, id: Uuid, size: u64) -> Disk {
        self.store.create_disk(id, size).unwrap();
        self.store.disk(id).unwrap()
    }

    /// A new disk with noise at some places: allocated, partly allocated and absent blocks.
    pub(crate) fn filled(&self, id: Uuid, size: u64, seed: u64) -> Disk {
        let disk = self.disk(id, size);
        let at = |part: u64| size / 16 * part / 512 * 512;
        disk.write_at(0, &noise(seed, 70_000)).unwrap();
        disk.write_at(at(5) + 100, &noise(seed + 1, usize::try_from(size / 4).unwrap().min(3_000_000))).unwrap();
        disk.write_at(at(14) + 4096, &noise(seed + 2, 5_000)).unwrap();
        disk
    }

    pub(crate) fn content(&self, id: Uuid) -> Vec<u8> {
        content(&self.store.disk(id).unwrap())
    }
}

pub(crate) fn content(disk: &Disk) -> Vec<u8> {
    use pool_disks::ReadAt;
    let mut bytes = vec![0xAA; usize::try_from(disk.size().unwrap()).unwrap()];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// A UUID by number.
pub(crate) fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// Bytes that do not repeat or compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Equality of large content without printing it.
pub(crate) fn same(left: &[u8], right: &[u8], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}: length");
    let differs = left.iter().zip(right).position(|(left, right)| left != right);
    assert_eq!(differs, None, "{what}: first byte that differs");
}

pub(crate) fn quiet(_: f64) {}
