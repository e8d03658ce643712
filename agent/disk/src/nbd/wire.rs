//! Numbers and fixed structures of the NBD protocol. Pure; every number is big-endian on the wire.

use crate::NbdError;

pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
pub(super) const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const OLD_STYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

pub(super) const FLAG_FIXED_NEWSTYLE: u16 = 1;
pub(super) const FLAG_NO_ZEROES: u16 = 2;

/// Options of the negotiation.
pub(super) mod option {
    pub(in super::super) const EXPORT_NAME: u32 = 1;
    pub(in super::super) const STARTTLS: u32 = 5;
    pub(in super::super) const GO: u32 = 7;
    pub(in super::super) const STRUCTURED_REPLY: u32 = 8;
    pub(in super::super) const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options.
pub(super) mod reply {
    pub(in super::super) const ACK: u32 = 1;
    pub(in super::super) const INFO: u32 = 3;
    pub(in super::super) const META_CONTEXT: u32 = 4;
    pub(in super::super) const ERROR: u32 = 1 << 31;
    pub(in super::super) const ERR_TLS_REQD: u32 = ERROR + 5;
    pub(in super::super) const ERR_UNKNOWN: u32 = ERROR + 6;
}

/// Kinds of information in the reply to GO.
pub(super) mod info {
    pub(in super::super) const EXPORT: u16 = 0;
    pub(in super::super) const BLOCK_SIZE: u16 = 3;
}

/// Status flag of `base:allocation`: the range reads as zeros.
pub(super) const STATE_ZERO: u32 = 2;

/// Commands that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Command {
    Read = 0,
    Disconnect = 2,
    BlockStatus = 7,
}

pub(super) const REQUEST_BYTES: usize = 28;

pub(super) fn request(command: Command, handle: u64, offset: u64, len: u32) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0; REQUEST_BYTES];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[6..8].copy_from_slice(&(command as u16).to_be_bytes());
    bytes[8..16].copy_from_slice(&handle.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Bytes of a simple reply's header; a structured one has [`STRUCTURED_HEADER_BYTES`].
pub(super) const SIMPLE_HEADER_BYTES: usize = 16;
pub(super) const STRUCTURED_HEADER_BYTES: usize = 20;

/// The header of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// A reply; the data of a read without error follow.
    Simple { errno: u32, handle: u64 },
    /// One chunk of a reply; `len` bytes of payload follow.
    Chunk { last: bool, kind: ChunkKind, handle: u64, len: u32 },
}

/// What a chunk of a structured reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkKind {
    Nothing,
    Data,
    Hole,
    BlockStatus,
    Error,
}

/// How many bytes the header has that starts with these four.
pub(super) fn header_bytes(start: [u8; 4]) -> Result<usize, NbdError> {
    match u32::from_be_bytes(start) {
        SIMPLE_REPLY_MAGIC => Ok(SIMPLE_HEADER_BYTES),
        STRUCTURED_REPLY_MAGIC => Ok(STRUCTURED_HEADER_BYTES),
        _ => Err(NbdError::Protocol("a reply without its magic number")),
    }
}

/// Parses a header; only the first 16 bytes matter of a simple one.
pub(super) fn header(bytes: &[u8; STRUCTURED_HEADER_BYTES]) -> Result<Header, NbdError> {
    let [m0, m1, m2, m3, a0, a1, a2, a3, h0, h1, h2, h3, h4, h5, h6, h7, l0, l1, l2, l3] = *bytes;
    let handle = u64::from_be_bytes([h0, h1, h2, h3, h4, h5, h6, h7]);
    if header_bytes([m0, m1, m2, m3])? == SIMPLE_HEADER_BYTES {
        return Ok(Header::Simple { errno: u32::from_be_bytes([a0, a1, a2, a3]), handle });
    }
    let kind = match u16::from_be_bytes([a2, a3]) {
        0 => ChunkKind::Nothing,
        1 => ChunkKind::Data,
        2 => ChunkKind::Hole,
        5 => ChunkKind::BlockStatus,
        // Unknown errors are errors too.
        code if code & 1 << 15 != 0 => ChunkKind::Error,
        _ => return Err(NbdError::Protocol("a chunk of an unknown kind")),
    };
    let last = u16::from_be_bytes([a0, a1]) & 1 != 0;
    Ok(Header::Chunk { last, kind, handle, len: u32::from_be_bytes([l0, l1, l2, l3]) })
}
