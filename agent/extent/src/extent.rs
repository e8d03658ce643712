//! One piece of a disk.

use bytes::Bytes;

/// A piece of a disk. Offsets and lengths are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// These bytes stand at `offset`.
    Data {
        /// Where the bytes stand on the disk.
        offset: u64,
        /// The content, never empty.
        bytes: Bytes,
    },
    /// This range reads as zeros.
    Zero {
        /// Where the range starts.
        offset: u64,
        /// Its length, never zero.
        len: u64,
    },
    /// This range is the same as on the disk that the stream is a delta against.
    Unchanged {
        /// Where the range starts.
        offset: u64,
        /// Its length, never zero.
        len: u64,
    },
}

impl Extent {
    /// Where it starts.
    pub fn offset(&self) -> u64 {
        match self {
            Extent::Data { offset, .. } | Extent::Zero { offset, .. } | Extent::Unchanged { offset, .. } => *offset,
        }
    }

    /// How many bytes of the disk it covers.
    #[expect(clippy::len_without_is_empty, reason = "an extent is never empty")]
    pub fn len(&self) -> u64 {
        match self {
            Extent::Data { bytes, .. } => bytes.len() as u64,
            Extent::Zero { len, .. } | Extent::Unchanged { len, .. } => *len,
        }
    }

    /// The first byte behind it (saturating, so that a hostile extent cannot wrap around).
    pub fn end(&self) -> u64 {
        self.offset().saturating_add(self.len())
    }

    /// Cuts off and returns the first `len` bytes, without copying; `self` keeps the rest. `None`, and `self` stays as
    /// it is, unless both parts would be non-empty.
    pub fn split_front(&mut self, len: u64) -> Option<Extent> {
        if len == 0 || len >= self.len() {
            return None;
        }
        Some(match self {
            Extent::Data { offset, bytes } => {
                let front = bytes.split_to(usize::try_from(len).ok()?);
                let start = *offset;
                *offset += len;
                Extent::Data { offset: start, bytes: front }
            }
            Extent::Zero { offset, len: whole } => {
                let start = *offset;
                (*offset, *whole) = (start + len, *whole - len);
                Extent::Zero { offset: start, len }
            }
            Extent::Unchanged { offset, len: whole } => {
                let start = *offset;
                (*offset, *whole) = (start + len, *whole - len);
                Extent::Unchanged { offset: start, len }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_keeps_both_parts_and_their_places() {
        let mut data = Extent::Data { offset: 10, bytes: Bytes::from_static(b"abcdef") };
        assert_eq!(data.split_front(2), Some(Extent::Data { offset: 10, bytes: Bytes::from_static(b"ab") }));
        assert_eq!(data, Extent::Data { offset: 12, bytes: Bytes::from_static(b"cdef") });
        assert_eq!(data.split_front(4), None);
        assert_eq!(data.split_front(0), None);

        let mut zero = Extent::Zero { offset: 5, len: 7 };
        assert_eq!(zero.split_front(3), Some(Extent::Zero { offset: 5, len: 3 }));
        assert_eq!(zero, Extent::Zero { offset: 8, len: 4 });

        let mut same = Extent::Unchanged { offset: 5, len: 7 };
        assert_eq!(same.split_front(6), Some(Extent::Unchanged { offset: 5, len: 6 }));
        assert_eq!((same.offset(), same.end()), (11, 12));
    }
}
