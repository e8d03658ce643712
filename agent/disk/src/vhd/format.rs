//! The structures of a VHD: footer, dynamic header, their checksums. Pure; every number is big-endian on the wire.

use crate::VhdError;
use uuid::Uuid;

/// Bytes of a block in everything we write, and in everything a pool writes: 2 MiB.
pub const BLOCK_BYTES: u64 = 2 * 1024 * 1024;
/// The largest disk that a VHD holds: 2040 GiB.
pub const MAX_SIZE: u64 = 2040 * 1024 * 1024 * 1024;

pub(crate) const FOOTER_BYTES: usize = 512;
pub(crate) const HEADER_BYTES: usize = 1024;
pub(crate) const SECTOR: u64 = 512;
/// The block table's word for a block that is not there.
pub(crate) const UNUSED: u32 = u32::MAX;

const FOOTER_COOKIE: &[u8; 8] = b"conectix";
const HEADER_COOKIE: &[u8; 8] = b"cxsparse";
const VERSION: u32 = 0x0001_0000;
/// The smallest and largest blocks that we read: what is seen in the field, and room for powers of two around it.
const BLOCK_RANGE: std::ops::RangeInclusive<u64> = 512 * 1024..=16 * 1024 * 1024;

/// Whether a VHD holds a complete disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VhdKind {
    /// Complete: what is not in it is zero.
    Dynamic,
    /// A delta: what is not in it is unchanged.
    Differencing,
}

impl VhdKind {
    fn code(self) -> u32 {
        match self {
            VhdKind::Dynamic => 3,
            VhdKind::Differencing => 4,
        }
    }
}

/// What matters of a footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) kind: VhdKind,
    pub(crate) size: u64,
    pub(crate) header_offset: u64,
    pub(crate) uuid: Uuid,
}

impl Footer {
    pub(crate) fn parse(bytes: &[u8; FOOTER_BYTES], position: u64) -> Result<Footer, VhdError> {
        if !bytes.starts_with(FOOTER_COOKIE) {
            return Err(match http_line(bytes) {
                Some(line) => VhdError::HttpText { part: "footer", line },
                None => VhdError::NoCookie { part: "footer", position },
            });
        }
        if be32(bytes, 64) != checksum(bytes, 64) {
            return Err(VhdError::Checksum { part: "footer" });
        }
        let bad = |field, value| VhdError::BadField { field, value };
        let kind = match be32(bytes, 60) {
            3 => VhdKind::Dynamic,
            4 => VhdKind::Differencing,
            other => return Err(bad("disk type", other.into())),
        };
        let (size, header_offset) = (be64(bytes, 48), be64(bytes, 16));
        if size > MAX_SIZE || size % SECTOR != 0 {
            return Err(bad("current size", size));
        }
        if header_offset < FOOTER_BYTES as u64 || header_offset % SECTOR != 0 {
            return Err(bad("data offset", header_offset));
        }
        Ok(Footer { kind, size, header_offset, uuid: Uuid::from_bytes(array(bytes, 68)) })
    }

    pub(crate) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, FOOTER_COOKIE);
        put(8, &2u32.to_be_bytes());
        put(12, &VERSION.to_be_bytes());
        put(16, &self.header_offset.to_be_bytes());
        // The creator of the platform's own files: QEMU then trusts the size below, not the rounded geometry.
        put(28, b"tap\0");
        put(32, &1u32.to_be_bytes());
        put(40, &self.size.to_be_bytes());
        put(48, &self.size.to_be_bytes());
        put(56, &geometry(self.size));
        put(60, &self.kind.code().to_be_bytes());
        put(68, self.uuid.as_bytes());
        let sum = checksum(&bytes, 64);
        bytes[64..68].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// What matters of a dynamic header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) table_offset: u64,
    pub(crate) entries: u32,
    pub(crate) block_bytes: u64,
    /// Of the parent; nil where there is none.
    pub(crate) parent: Uuid,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES], footer: &Footer) -> Result<Header, VhdError> {
        if !bytes.starts_with(HEADER_COOKIE) {
            return Err(VhdError::NoCookie { part: "header", position: footer.header_offset });
        }
        if be32(bytes, 36) != checksum(bytes, 36) {
            return Err(VhdError::Checksum { part: "header" });
        }
        let bad = |field, value| VhdError::BadField { field, value };
        let (table_offset, entries, block_bytes) = (be64(bytes, 16), be32(bytes, 28), u64::from(be32(bytes, 32)));
        if !block_bytes.is_power_of_two() || !BLOCK_RANGE.contains(&block_bytes) {
            return Err(bad("block size", block_bytes));
        }
        let needed = footer.size.div_ceil(block_bytes);
        if u64::from(entries) < needed || u64::from(entries) > MAX_SIZE.div_ceil(block_bytes) {
            return Err(bad("number of blocks", entries.into()));
        }
        let behind = footer.header_offset.saturating_add(HEADER_BYTES as u64);
        if table_offset < behind || table_offset % SECTOR != 0 || table_offset > u64::from(u32::MAX) * SECTOR {
            return Err(bad("table offset", table_offset));
        }
        Ok(Header { table_offset, entries, block_bytes, parent: Uuid::from_bytes(array(bytes, 40)) })
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, HEADER_COOKIE);
        put(8, &[0xff; 8]);
        put(16, &self.table_offset.to_be_bytes());
        put(24, &VERSION.to_be_bytes());
        put(28, &self.entries.to_be_bytes());
        put(32, &u32::try_from(self.block_bytes).expect("blocks are at most 16 MiB").to_be_bytes());
        put(40, self.parent.as_bytes());
        let sum = checksum(&bytes, 36);
        bytes[36..40].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// Bytes that the block table takes in the stream.
pub(crate) fn bat_bytes(entries: u32) -> u64 {
    (u64::from(entries) * 4).next_multiple_of(SECTOR)
}

/// Bytes that the sector bitmap before each block takes.
pub(crate) fn bitmap_bytes(block_bytes: u64) -> u64 {
    (block_bytes / SECTOR / 8).next_multiple_of(SECTOR)
}

/// The first line of an HTTP answer, if that is what these bytes are.
pub(crate) fn http_line(bytes: &[u8]) -> Option<String> {
    const LONGEST: usize = 100;
    let line = bytes.starts_with(b"HTTP/").then(|| bytes.split(|byte| byte.is_ascii_control()).next())??;
    Some(String::from_utf8_lossy(line.get(..LONGEST).unwrap_or(line)).into_owned())
}

/// One's complement of the sum of all bytes but the four of the checksum itself.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |part: &[u8]| part.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    !(sum(bytes) - sum(&bytes[at..at + 4]))
}

/// Cylinders, heads and sectors, as the specification computes them from the size.
fn geometry(size: u64) -> [u8; 4] {
    const MOST: u64 = 65535 * 16 * 255;
    let sectors = (size / SECTOR).min(MOST);
    let (cylinders, heads, per_track);
    if sectors >= 65535 * 16 * 63 {
        (per_track, heads) = (255, 16);
        cylinders = sectors / per_track / heads;
    } else {
        let tracks = sectors / 17;
        let wanted = tracks.div_ceil(1024).max(4);
        if tracks < wanted * 1024 && wanted <= 16 {
            (per_track, heads) = (17, wanted);
            cylinders = tracks / heads;
        } else if sectors / 31 < 16 * 1024 {
            (per_track, heads) = (31, 16);
            cylinders = sectors / 31 / heads;
        } else {
            (per_track, heads) = (63, 16);
            cylinders = sectors / 63 / heads;
        }
    }
    let [_, _, _, _, _, _, high, low] = cylinders.to_be_bytes();
    let small = |value: u64| u8::try_from(value).expect("at most 16 heads and 255 sectors");
    [high, low, small(heads), small(per_track)]
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}
