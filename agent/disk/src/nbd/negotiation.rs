//! From a fresh connection to an open export, over any stream.

use super::target::ExportName;
use super::wire::{self, info, option, reply};
use crate::NbdError;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a server offers of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Size in bytes.
    pub size: u64,
    /// Offsets and lengths of requests are multiples of this many bytes.
    pub minimum_block: u64,
    /// Most bytes of one read.
    pub maximum_read: u64,
    /// Replies come in chunks.
    pub structured: bool,
    /// Number of the `base:allocation` context: the server tells which ranges are zero.
    pub allocation_context: Option<u32>,
}

/// Longest reply to an option; real ones have a few dozen bytes.
const LONGEST_REPLY: u32 = 64 * 1024;
/// Most replies to one option.
const MOST_REPLIES: usize = 64;
/// Requests of real hosts' clients are multiples of a sector; what a server does not say is this.
const SECTOR: u64 = 512;
/// What every server serves at least, by the protocol.
const DEFAULT_MAXIMUM: u64 = 32 * 1024 * 1024;

/// Negotiates up to the open export on a connection that is as secure as it will get (TLS, if any, is up).
/// Errors are those of the protocol; nothing that the server sends can make it panic or take memory without bound.
pub async fn negotiate<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: &mut S,
    name: &ExportName,
) -> Result<Export, NbdError> {
    let no_zeroes = greet(stream).await?;
    open(stream, name, no_zeroes).await
}

/// Reads the greeting and answers it; true when both sides leave out the padding of the old answer.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<bool, NbdError> {
    let magic = stream.read_u64().await.map_err(closed_as(NbdError::ClosedAtAccept))?;
    if magic != wire::MAGIC {
        return Err(NbdError::Protocol("no NBD greeting"));
    }
    match stream.read_u64().await.map_err(closed)? {
        wire::OPTION_MAGIC => {}
        wire::OLD_STYLE_MAGIC => return Err(NbdError::Protocol("the old style of negotiation, without options")),
        _ => return Err(NbdError::Protocol("an unknown style of negotiation")),
    }
    let flags = stream.read_u16().await.map_err(closed)?;
    if flags & wire::FLAG_FIXED_NEWSTYLE == 0 {
        return Err(NbdError::Protocol("the first new style of negotiation, without errors"));
    }
    let ours = flags & (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
    stream.write_u32(ours.into()).await.map_err(NbdError::Io)?;
    stream.flush().await.map_err(NbdError::Io)?;
    Ok(flags & wire::FLAG_NO_ZEROES != 0)
}

/// Asks for TLS; when this returns, the handshake comes next on the stream.
pub(super) async fn start_tls<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<(), NbdError> {
    send_option(stream, option::STARTTLS, &[]).await?;
    match read_reply(stream, option::STARTTLS).await?.kind {
        reply::ACK => Ok(()),
        reply => Err(NbdError::TlsRefused { reply }),
    }
}

/// Opens the export: the newer way where the server has it, else as real hosts know it.
pub(super) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    name: &ExportName,
    no_zeroes: bool,
) -> Result<Export, NbdError> {
    let structured = match simple_option(stream, option::STRUCTURED_REPLY, &[]).await? {
        reply::ACK => true,
        reply::ERR_TLS_REQD => return Err(NbdError::TlsRequired),
        _ => false,
    };
    let allocation_context = if structured { set_allocation_context(stream, name).await? } else { None };
    if let Some(export) = go(stream, name).await? {
        return Ok(Export { structured, allocation_context, ..export });
    }
    let export = export_name(stream, name, no_zeroes).await?;
    Ok(Export { structured, allocation_context, ..export })
}

async fn export_name<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    name: &ExportName,
    no_zeroes: bool,
) -> Result<Export, NbdError> {
    const PADDING: usize = 124;
    send_option(stream, option::EXPORT_NAME, name.expose().as_bytes()).await?;
    let size = stream.read_u64().await.map_err(closed_as(NbdError::ExportRefused))?;
    let _flags = stream.read_u16().await.map_err(closed)?;
    if !no_zeroes {
        stream.read_exact(&mut [0; PADDING]).await.map_err(closed)?;
    }
    export(size)
}

/// Opens the export with GO; `None` when the server does not know it.
async fn go<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, name: &ExportName) -> Result<Option<Export>, NbdError> {
    let mut payload = named(name)?;
    payload.extend_from_slice(&1u16.to_be_bytes());
    payload.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
    send_option(stream, option::GO, &payload).await?;
    let mut found = None;
    let mut sizes = None;
    for _ in 0..MOST_REPLIES {
        let answer = read_reply(stream, option::GO).await?;
        match answer.kind {
            reply::ACK => {
                let mut export: Export = found.ok_or(NbdError::Protocol("an export without a size"))?;
                if let Some((minimum, maximum)) = sizes {
                    (export.minimum_block, export.maximum_read) = (minimum, maximum);
                }
                return Ok(Some(export));
            }
            reply::INFO => match answer.parse_info()? {
                Info::Export { size } => found = Some(export(size)?),
                Info::BlockSize { minimum, maximum } => sizes = Some((minimum, maximum)),
                Info::Other => {}
            },
            reply::ERR_TLS_REQD => return Err(NbdError::TlsRequired),
            reply::ERR_UNKNOWN => return Err(NbdError::UnknownExport),
            // Unsupported, or anything that the older way may get around.
            kind if kind & reply::ERROR != 0 => return Ok(None),
            _ => return Err(NbdError::Protocol("an unknown reply to GO")),
        }
    }
    Err(NbdError::Protocol("replies to GO without end"))
}

async fn set_allocation_context<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    name: &ExportName,
) -> Result<Option<u32>, NbdError> {
    const QUERY: &[u8] = b"base:allocation";
    let mut payload = named(name)?;
    payload.extend_from_slice(&1u32.to_be_bytes());
    payload.extend_from_slice(&length(QUERY)?.to_be_bytes());
    payload.extend_from_slice(QUERY);
    send_option(stream, option::SET_META_CONTEXT, &payload).await?;
    let mut context = None;
    for _ in 0..MOST_REPLIES {
        let answer = read_reply(stream, option::SET_META_CONTEXT).await?;
        match answer.kind {
            reply::ACK => return Ok(context),
            reply::META_CONTEXT => match answer.payload.split_first_chunk::<4>() {
                Some((id, QUERY)) => context = Some(u32::from_be_bytes(*id)),
                Some(_) => {}
                None => return Err(NbdError::Protocol("a context without a number")),
            },
            kind if kind & reply::ERROR != 0 => return Ok(None),
            _ => return Err(NbdError::Protocol("an unknown reply to SET_META_CONTEXT")),
        }
    }
    Err(NbdError::Protocol("replies to SET_META_CONTEXT without end"))
}

fn export(size: u64) -> Result<Export, NbdError> {
    if i64::try_from(size).is_err() {
        return Err(NbdError::Protocol("an impossible export size"));
    }
    let export = Export {
        size,
        minimum_block: SECTOR,
        maximum_read: DEFAULT_MAXIMUM,
        structured: false,
        allocation_context: None,
    };
    Ok(export)
}

/// Sends an option and returns the kind of its only reply.
async fn simple_option<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    option: u32,
    payload: &[u8],
) -> Result<u32, NbdError> {
    send_option(stream, option, payload).await?;
    Ok(read_reply(stream, option).await?.kind)
}

async fn send_option<S: AsyncWrite + Unpin>(stream: &mut S, option: u32, payload: &[u8]) -> Result<(), NbdError> {
    let mut bytes = Vec::with_capacity(16 + payload.len());
    bytes.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&length(payload)?.to_be_bytes());
    bytes.extend_from_slice(payload);
    stream.write_all(&bytes).await.map_err(NbdError::Io)?;
    stream.flush().await.map_err(NbdError::Io)
}

/// One reply to an option.
struct Reply {
    kind: u32,
    payload: Vec<u8>,
}

/// What an INFO reply says.
enum Info {
    Export { size: u64 },
    BlockSize { minimum: u64, maximum: u64 },
    Other,
}

impl Reply {
    fn parse_info(&self) -> Result<Info, NbdError> {
        let short = NbdError::Protocol("information that is cut off");
        let Some((kind, rest)) = self.payload.split_first_chunk::<2>() else { return Err(short) };
        match u16::from_be_bytes(*kind) {
            info::EXPORT => match rest.split_first_chunk::<8>() {
                Some((size, _flags)) => Ok(Info::Export { size: u64::from_be_bytes(*size) }),
                None => Err(short),
            },
            info::BLOCK_SIZE => {
                let [m0, m1, m2, m3, _, _, _, _, x0, x1, x2, x3] = *rest else { return Err(short) };
                let minimum = u32::from_be_bytes([m0, m1, m2, m3]);
                let maximum = u32::from_be_bytes([x0, x1, x2, x3]);
                if !minimum.is_power_of_two() || minimum > 64 * 1024 || maximum < minimum {
                    return Err(NbdError::Protocol("impossible block sizes"));
                }
                // Multiples of a sector never hurt where single bytes are allowed.
                Ok(Info::BlockSize { minimum: u64::from(minimum).max(SECTOR), maximum: maximum.into() })
            }
            _ => Ok(Info::Other),
        }
    }
}

async fn read_reply<S: AsyncRead + Unpin>(stream: &mut S, option: u32) -> Result<Reply, NbdError> {
    if stream.read_u64().await.map_err(closed)? != wire::OPTION_REPLY_MAGIC {
        return Err(NbdError::Protocol("an option reply without its magic number"));
    }
    if stream.read_u32().await.map_err(closed)? != option {
        return Err(NbdError::Protocol("a reply to another option"));
    }
    let kind = stream.read_u32().await.map_err(closed)?;
    let len = stream.read_u32().await.map_err(closed)?;
    if len > LONGEST_REPLY {
        return Err(NbdError::Protocol("an option reply that is too long"));
    }
    let mut payload = Vec::new();
    let got = stream.take(len.into()).read_to_end(&mut payload).await.map_err(NbdError::Io)?;
    if got as u64 != u64::from(len) {
        return Err(NbdError::Closed);
    }
    Ok(Reply { kind, payload })
}

/// The name with its length before it.
fn named(name: &ExportName) -> Result<Vec<u8>, NbdError> {
    let name = name.expose().as_bytes();
    Ok([&length(name)?.to_be_bytes(), name].concat())
}

fn length(payload: &[u8]) -> Result<u32, NbdError> {
    match u32::try_from(payload.len()) {
        Ok(len) if len <= 4096 * 2 => Ok(len),
        _ => Err(NbdError::Protocol("an export name that is too long to send")),
    }
}

fn closed(error: io::Error) -> NbdError {
    closed_as(NbdError::Closed)(error)
}

/// What an end of the stream means here. Servers that close with our bytes unread reset the connection.
fn closed_as(meaning: NbdError) -> impl FnOnce(io::Error) -> NbdError {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => meaning,
        _ => NbdError::Io(error),
    }
}
