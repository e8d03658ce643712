//! The structures of a VHD, all big-endian. Pure.

use uuid::Uuid;

use crate::BLOCK;

/// Bytes of a footer.
pub(super) const FOOTER: usize = 512;
/// Bytes of a dynamic header.
pub(super) const HEADER: usize = 1024;
/// Bytes of a block's sector bitmap.
pub(super) const BITMAP: usize = 512;
/// Sectors that a block takes in the stream, its bitmap included.
pub(super) const BLOCK_SECTORS: u32 = 4096 + 1;
/// A block that is absent.
pub(super) const UNUSED: u32 = u32::MAX;
/// Blocks of the largest VHD: 2040 GiB.
pub(super) const MAX_BLOCKS: u32 = 2040 * 512;
/// Where a host puts the block table.
pub(super) const TABLE_OFFSET: u64 = 2048;
/// Where a host says that the parent locator's data stand.
const LOCATOR_OFFSET: u64 = 1536;
const VERSION: u32 = 0x0001_0000;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;

/// What is wrong with a VHD stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VhdFault {
    /// A structure does not begin with its magic.
    #[error("the {structure} does not begin with its magic")]
    BadMagic {
        /// Which one.
        structure: &'static str,
    },
    /// A structure's checksum does not match.
    #[error("the checksum of the {structure} does not match")]
    BadChecksum {
        /// Which one.
        structure: &'static str,
    },
    /// Neither dynamic nor differencing.
    #[error("disk type {found} is neither dynamic nor differencing")]
    BadType {
        /// The type's number.
        found: u32,
    },
    /// Blocks are not of 2 MiB.
    #[error("blocks of {found} bytes, where 2 MiB are needed")]
    BadBlockSize {
        /// The size found, in bytes.
        found: u32,
    },
    /// The disk described is larger than the one written to.
    #[error("a disk of {found} bytes does not fit one of {size}")]
    TooLarge {
        /// The size described, in bytes.
        found: u64,
        /// The size there is, in bytes.
        size: u64,
    },
    /// The block table is too short for the disk, or longer than any VHD's.
    #[error("a table of {entries} entries does not fit a disk of {size} bytes")]
    BadTable {
        /// Entries announced.
        entries: u32,
        /// The size described, in bytes.
        size: u64,
    },
    /// A structure stands before the one that it must follow, or on top of it.
    #[error("the {structure} stands where something else was read before")]
    OutOfOrder {
        /// Which one.
        structure: &'static str,
    },
    /// A block lies beyond the end of the disk.
    #[error("block {block} lies beyond the end of the disk")]
    BlockOutside {
        /// Its number.
        block: u32,
    },
    /// The trailing footer is another disk's.
    #[error("the trailing footer does not belong to the leading one")]
    ForeignFooter,
}

/// What a stream's footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) data_offset: u64,
    pub(super) size: u64,
    pub(super) id: Uuid,
}

/// What a stream's dynamic header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) table_offset: u64,
    pub(super) entries: u32,
}

/// A footer as hosts write it.
pub(super) fn footer(size: u64, differencing: bool, id: Uuid) -> [u8; FOOTER] {
    let mut bytes = [0; FOOTER];
    put(&mut bytes, 0, b"conectix");
    put(&mut bytes, 8, &2u32.to_be_bytes());
    put(&mut bytes, 12, &VERSION.to_be_bytes());
    put(&mut bytes, 16, &(FOOTER as u64).to_be_bytes());
    put(&mut bytes, 28, b"caml");
    put(&mut bytes, 32, &1u32.to_be_bytes());
    put(&mut bytes, 40, &size.to_be_bytes());
    put(&mut bytes, 48, &size.to_be_bytes());
    put(&mut bytes, 56, &geometry(size));
    put(&mut bytes, 60, &(if differencing { DIFFERENCING } else { DYNAMIC }).to_be_bytes());
    put(&mut bytes, 68, id.as_bytes());
    let sum = checksum(&bytes, 64);
    put(&mut bytes, 64, &sum.to_be_bytes());
    bytes
}

/// A dynamic header as hosts write it. With a parent, locator 0 points at 512 bytes that hold nothing.
pub(super) fn header(entries: u32, parent: Option<Uuid>) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    put(&mut bytes, 0, b"cxsparse");
    put(&mut bytes, 8, &[0xFF; 8]);
    put(&mut bytes, 16, &TABLE_OFFSET.to_be_bytes());
    put(&mut bytes, 24, &VERSION.to_be_bytes());
    put(&mut bytes, 28, &entries.to_be_bytes());
    put(&mut bytes, 32, &0x0020_0000_u32.to_be_bytes());
    if let Some(parent) = parent {
        // The base file's own id, which is not the VDI's.
        put(&mut bytes, 40, Uuid::new_v5(&parent, b"vhd").as_bytes());
        let name: Vec<u8> = format!("{parent}.vhd").encode_utf16().flat_map(u16::to_be_bytes).collect();
        put(&mut bytes, 64, &name);
        let url = format!("file://./{parent}.vhd");
        let length = u32::try_from(url.len()).expect("a UUID's URL is short");
        put(&mut bytes, 576, b"MacX");
        put(&mut bytes, 580, &1u32.to_be_bytes());
        put(&mut bytes, 584, &length.to_be_bytes());
        put(&mut bytes, 592, &LOCATOR_OFFSET.to_be_bytes());
    }
    let sum = checksum(&bytes, 36);
    put(&mut bytes, 36, &sum.to_be_bytes());
    bytes
}

impl Footer {
    pub(super) fn parse(bytes: &[u8; FOOTER], structure: &'static str) -> Result<Self, VhdFault> {
        check(bytes, b"conectix", 64, structure)?;
        let found = u32_at(bytes, 60);
        if found != DYNAMIC && found != DIFFERENCING {
            return Err(VhdFault::BadType { found });
        }
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[68..84]);
        Ok(Self { data_offset: u64_at(bytes, 16), size: u64_at(bytes, 48), id: Uuid::from_bytes(id) })
    }
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER], size: u64) -> Result<Self, VhdFault> {
        check(bytes, b"cxsparse", 36, "header")?;
        let block = u32_at(bytes, 32);
        if u64::from(block) != BLOCK {
            return Err(VhdFault::BadBlockSize { found: block });
        }
        let entries = u32_at(bytes, 28);
        if u64::from(entries) < size.div_ceil(BLOCK) || entries > MAX_BLOCKS {
            return Err(VhdFault::BadTable { entries, size });
        }
        Ok(Self { table_offset: u64_at(bytes, 16), entries })
    }
}

fn check(bytes: &[u8], magic: &[u8; 8], sum_at: usize, structure: &'static str) -> Result<(), VhdFault> {
    if !bytes.starts_with(magic) {
        return Err(VhdFault::BadMagic { structure });
    }
    if u32_at(bytes, sum_at) != checksum(bytes, sum_at) {
        return Err(VhdFault::BadChecksum { structure });
    }
    Ok(())
}

/// One's complement of the sum of all bytes but the checksum's own.
fn checksum(bytes: &[u8], own: usize) -> u32 {
    let counted = bytes.iter().enumerate().filter(|(index, _)| !(own..own + 4).contains(index));
    !counted.map(|(_, byte)| u32::from(*byte)).sum::<u32>()
}

/// Cylinders, heads and sectors, by the rule of the VHD specification.
fn geometry(size: u64) -> [u8; 4] {
    let sectors = (size / 512).min(65535 * 16 * 255);
    let (per_track, heads, cylinders_by_heads) = if sectors >= 65535 * 16 * 63 {
        (255, 16, sectors / 255)
    } else {
        let (mut per_track, mut cylinders_by_heads) = (17, sectors / 17);
        let mut heads = cylinders_by_heads.div_ceil(1024).max(4);
        if cylinders_by_heads >= heads * 1024 || heads > 16 {
            (per_track, heads, cylinders_by_heads) = (31, 16, sectors / 31);
        }
        if cylinders_by_heads >= heads * 1024 {
            (per_track, heads, cylinders_by_heads) = (63, 16, sectors / 63);
        }
        (per_track, heads, cylinders_by_heads)
    };
    let cylinders = u16::try_from(cylinders_by_heads / heads).unwrap_or(u16::MAX).to_be_bytes();
    let byte = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
    [cylinders[0], cylinders[1], byte(heads), byte(per_track)]
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_follows_the_specification() {
        // 16 heads, 63 sectors for common sizes; 255 sectors from 32 GiB; capped near 127 GiB.
        assert_eq!(geometry(4 << 30), [0x20, 0x82, 16, 63]);
        assert_eq!(geometry(64 << 30), [0x80, 0x80, 16, 255]);
        assert_eq!(geometry(1 << 40), [0xFF, 0xFF, 16, 255]);
    }

    #[test]
    fn what_is_written_parses() {
        let id = Uuid::from_u128(7);
        for parent in [None, Some(Uuid::from_u128(9))] {
            let footer = Footer::parse(&footer(6 << 20, parent.is_some(), id), "footer").unwrap();
            assert_eq!(footer, Footer { data_offset: 512, size: 6 << 20, id });
            let header = Header::parse(&header(3, parent), 6 << 20).unwrap();
            assert_eq!(header, Header { table_offset: 2048, entries: 3 });
        }
    }

    #[test]
    fn one_flipped_bit_is_noticed() {
        let good = footer(6 << 20, false, Uuid::from_u128(7));
        for index in 0..FOOTER {
            let mut bad = good;
            bad[index] ^= 0x10;
            assert!(Footer::parse(&bad, "footer").is_err(), "byte {index}");
        }
    }
}
