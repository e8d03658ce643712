//! Option haggling, up to the name of the export.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Global flags: fixed newstyle, and nothing else.
const FIXED_NEWSTYLE: u16 = 1;

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const STARTTLS: u32 = 5;

const ACK: u32 = 1;
const ERR_UNSUP: u32 = 0x8000_0001;
const ERR_POLICY: u32 = 0x8000_0002;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_TLS_REQD: u32 = 0x8000_0005;

/// The longest option that is read; names have at most 4096 bytes.
const MAX_OPTION: u32 = 64 * 1024;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No TLS here.
    Plain,
    /// TLS must be started first.
    TlsRequired,
    /// Within TLS.
    Secured,
}

/// How haggling ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// TLS is to be started.
    StartTls,
    /// The client asked for this export.
    Export(String),
    /// The connection is to be closed.
    Closed,
}

/// What an option is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Reply(u32),
    ReplyThenClose(u32),
    StartTls,
    Export,
    Close,
}

/// Greets, then haggles.
pub(super) async fn begin<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, phase: Phase) -> io::Result<Outcome> {
    let mut greeting = Vec::with_capacity(18);
    greeting.extend_from_slice(&MAGIC.to_be_bytes());
    greeting.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    greeting.extend_from_slice(&FIXED_NEWSTYLE.to_be_bytes());
    stream.write_all(&greeting).await?;
    stream.flush().await?;
    // Only what was offered may be taken.
    if stream.read_u32().await? & !u32::from(FIXED_NEWSTYLE) != 0 {
        return Ok(Outcome::Closed);
    }
    options(stream, phase).await
}

/// Answers options until one decides.
pub(super) async fn options<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, phase: Phase) -> io::Result<Outcome> {
    loop {
        let magic = stream.read_u64().await?;
        let option = stream.read_u32().await?;
        let length = stream.read_u32().await?;
        if magic != OPTION_MAGIC || length > MAX_OPTION {
            return Ok(Outcome::Closed);
        }
        let mut data = Vec::new();
        stream.take(u64::from(length)).read_to_end(&mut data).await?;
        if data.len() as u64 != u64::from(length) {
            return Ok(Outcome::Closed);
        }
        match answer(phase, option) {
            Answer::Reply(kind) => reply(stream, option, kind).await?,
            Answer::ReplyThenClose(kind) => {
                reply(stream, option, kind).await?;
                return Ok(Outcome::Closed);
            }
            Answer::StartTls => {
                reply(stream, option, ACK).await?;
                return Ok(Outcome::StartTls);
            }
            Answer::Export => return Ok(String::from_utf8(data).map_or(Outcome::Closed, Outcome::Export)),
            Answer::Close => return Ok(Outcome::Closed),
        }
    }
}

fn answer(phase: Phase, option: u32) -> Answer {
    match (phase, option) {
        (Phase::TlsRequired, STARTTLS) => Answer::StartTls,
        (Phase::TlsRequired, EXPORT_NAME | ABORT) => Answer::Close,
        (Phase::TlsRequired, _) => Answer::Reply(ERR_TLS_REQD),
        (Phase::Plain, STARTTLS) => Answer::Reply(ERR_POLICY),
        (Phase::Secured, STARTTLS) => Answer::Reply(ERR_INVALID),
        (_, EXPORT_NAME) => Answer::Export,
        (_, ABORT) => Answer::ReplyThenClose(ACK),
        (_, LIST) => Answer::Reply(ERR_POLICY),
        (_, _) => Answer::Reply(ERR_UNSUP),
    }
}

async fn reply<S: AsyncWrite + Unpin>(stream: &mut S, option: u32, kind: u32) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(20);
    bytes.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&0u32.to_be_bytes());
    stream.write_all(&bytes).await?;
    stream.flush().await
}
