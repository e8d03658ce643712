//! Requests and simple replies, in order, one at a time; reads go through buffers of 512 KiB that are used again.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Export, NbdFaults};
use crate::disk::usize_of;
use crate::pump::ReadAhead;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// Transmission flags: these flags are valid, the export is read-only.
const FLAGS: u16 = 1 | 2;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;

/// Bytes of a simple reply before its data.
const HEAD: usize = 16;
/// Data that is read and sent at a time.
const PIECE: u64 = 512 * 1024;

struct Request {
    command: u16,
    handle: u64,
    offset: u64,
    length: u32,
}

/// Announces the export, then answers requests until the client leaves.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    export: &Arc<dyn Export>,
    faults: impl Fn() -> NbdFaults,
) -> io::Result<()> {
    let size = export.size();
    let mut hello = Vec::with_capacity(134);
    hello.extend_from_slice(&size.to_be_bytes());
    hello.extend_from_slice(&FLAGS.to_be_bytes());
    hello.resize(134, 0);
    stream.write_all(&hello).await?;
    stream.flush().await?;

    let mut connection = Connection { stream, export, size, sent: 0, spare: Vec::new() };
    while let Some(request) = connection.request().await? {
        match request.command {
            DISC => return Ok(()),
            READ if !connection.may_read(&request) => connection.refuse(&request, EINVAL).await?,
            READ => connection.read(&request, faults()).await?,
            WRITE => {
                connection.discard(request.length).await?;
                connection.refuse(&request, EPERM).await?;
            }
            _ => connection.refuse(&request, EINVAL).await?,
        }
    }
    Ok(())
}

struct Connection<'a, S> {
    stream: &'a mut S,
    export: &'a Arc<dyn Export>,
    size: u64,
    /// Bytes of data sent so far.
    sent: u64,
    spare: Vec<Vec<u8>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// The next request; `None` when the client is gone.
    async fn request(&mut self) -> io::Result<Option<Request>> {
        let mut bytes = [0; 28];
        match self.stream.read_exact(&mut bytes).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        };
        let mut fields = bytes.as_slice();
        if fields.read_u32().await? != REQUEST_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a request does not begin with its magic"));
        }
        let _flags = fields.read_u16().await?;
        Ok(Some(Request {
            command: fields.read_u16().await?,
            handle: fields.read_u64().await?,
            offset: fields.read_u64().await?,
            length: fields.read_u32().await?,
        }))
    }

    fn may_read(&self, request: &Request) -> bool {
        let length = u64::from(request.length);
        let inside = request.offset.checked_add(length).is_some_and(|end| end <= self.size);
        inside && request.offset.is_multiple_of(512) && length.is_multiple_of(512)
    }

    async fn read(&mut self, request: &Request, faults: NbdFaults) -> io::Result<()> {
        if !faults.read_delay.is_zero() {
            tokio::time::sleep(faults.read_delay).await;
        }
        let (start, length) = (request.offset, u64::from(request.length));
        let pieces = length.div_ceil(PIECE);
        let wanted = (0..pieces).map(|index| (start + index * PIECE, usize_of(PIECE.min(length - index * PIECE))));
        let spare = std::mem::take(&mut self.spare);
        let mut reader = ReadAhead::new(Arc::clone(self.export), wanted, HEAD, spare);
        let mut first = true;
        loop {
            let mut piece = match reader.next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, offset = start, "an NBD read failed");
                    if first {
                        return self.refuse(request, EIO).await;
                    }
                    // Part of the reply is out; all that is left is to hang up.
                    return Err(io::Error::other(error));
                }
            };
            let mut from = HEAD;
            if first {
                piece.buffer[..HEAD].copy_from_slice(&head(request.handle, 0));
                from = 0;
            }
            first = false;
            let data = (piece.buffer.len() - HEAD) as u64;
            if let Some(limit) = faults.drop_after
                && self.sent + data > limit
            {
                let part = HEAD + usize_of(limit.saturating_sub(self.sent));
                self.stream.write_all(&piece.buffer[from..part]).await?;
                self.stream.flush().await?;
                return Err(io::Error::other("cut by a fault"));
            }
            self.stream.write_all(&piece.buffer[from..]).await?;
            self.sent += data;
            reader.recycle(piece);
        }
        if first {
            self.stream.write_all(&head(request.handle, 0)).await?;
        }
        self.spare = reader.into_spare();
        self.stream.flush().await
    }

    async fn refuse(&mut self, request: &Request, error: u32) -> io::Result<()> {
        self.stream.write_all(&head(request.handle, error)).await?;
        self.stream.flush().await
    }

    async fn discard(&mut self, length: u32) -> io::Result<()> {
        let mut body = (&mut *self.stream).take(u64::from(length));
        tokio::io::copy(&mut body, &mut tokio::io::sink()).await.map(drop)
    }
}

fn head(handle: u64, error: u32) -> [u8; HEAD] {
    let mut bytes = [0; HEAD];
    bytes[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..].copy_from_slice(&handle.to_be_bytes());
    bytes
}
