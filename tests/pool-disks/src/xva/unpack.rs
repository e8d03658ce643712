//! The incoming archive's outer compression: told by its magic, undone on a blocking thread, bounded on both sides.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::XvaFault;
use crate::error::{Error, Result};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes handed over at a time, on either side.
const PIECE: usize = 256 * 1024;
/// Pieces that wait, on either side.
const QUEUE: usize = 2;

/// The archive without its outer compression.
pub(super) struct Unpacked<R> {
    reader: R,
    /// Read from the stream to see its magic, not consumed yet.
    head: Vec<u8>,
    codec: Option<Codec>,
}

struct Codec {
    /// Closed when the stream has ended.
    input: Option<mpsc::Sender<Vec<u8>>>,
    output: mpsc::Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    at: usize,
    scratch: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Unpacked<R> {
    pub(super) async fn open(mut reader: R) -> Result<Self> {
        let mut head = Vec::new();
        (&mut reader).take(ZSTD.len() as u64).read_to_end(&mut head).await.map_err(failed)?;
        let codec = if head.starts_with(&GZIP) {
            Some(Codec::start(std::mem::take(&mut head), |input| Ok(Box::new(MultiGzDecoder::new(input)))))
        } else if head.starts_with(&ZSTD) {
            let decoder = |input| zstd::stream::read::Decoder::new(input).map(|decoder| Box::new(decoder) as Box<_>);
            Some(Codec::start(std::mem::take(&mut head), decoder))
        } else {
            None
        };
        Ok(Self { reader, head, codec })
    }

    /// Reads some bytes; none at the end of the stream. Fewer than asked are no sign of the end.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if let Some(codec) = &mut self.codec {
            return codec.read(&mut self.reader, buffer).await;
        }
        if !self.head.is_empty() {
            let count = self.head.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.head[..count]);
            self.head.drain(..count);
            return Ok(count);
        }
        self.reader.read(buffer).await.map_err(failed)
    }
}

impl Codec {
    fn start(head: Vec<u8>, decoder: impl FnOnce(Received) -> io::Result<Box<dyn Read>> + Send + 'static) -> Self {
        let (input, received) = mpsc::channel(QUEUE);
        let (sender, output) = mpsc::channel(QUEUE);
        spawn_blocking(move || {
            let received = Received { queue: received, current: head, at: 0 };
            let result = decoder(received).and_then(|mut decoder| {
                loop {
                    let mut piece = vec![0; PIECE];
                    let count = decoder.read(&mut piece)?;
                    piece.truncate(count);
                    // Nobody listens any more: the import is over.
                    if count == 0 || sender.blocking_send(Ok(piece)).is_err() {
                        return Ok(());
                    }
                }
            });
            if let Err(error) = result {
                // Nobody listening means that the import is over already.
                sender.blocking_send(Err(error)).unwrap_or_default();
            }
        });
        Self { input: Some(input), output, current: Vec::new(), at: 0, scratch: vec![0; PIECE] }
    }

    async fn read<R: AsyncRead + Unpin>(&mut self, reader: &mut R, buffer: &mut [u8]) -> Result<usize> {
        while self.at == self.current.len() {
            tokio::select! {
                biased;
                piece = self.output.recv() => match piece {
                    Some(Ok(piece)) => (self.current, self.at) = (piece, 0),
                    Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Err(Error::StreamTooShort { stream: "XVA", missing: "the end of its compression" });
                    }
                    Some(Err(_)) => return Err(XvaFault::BadCompression.into()),
                    None => return Ok(0),
                },
                more = feed(self.input.as_ref(), reader, &mut self.scratch), if self.input.is_some() => {
                    if !more.map_err(failed)? {
                        self.input = None;
                    }
                }
            }
        }
        let rest = self.current.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

/// Passes one piece of the stream on; `false` at its end. Nothing is lost when it is cancelled.
async fn feed<R: AsyncRead + Unpin>(
    input: Option<&mpsc::Sender<Vec<u8>>>,
    reader: &mut R,
    scratch: &mut [u8],
) -> io::Result<bool> {
    let Some(input) = input else { return Ok(false) };
    let Ok(permit) = input.reserve().await else { return Ok(false) };
    let count = reader.read(scratch).await?;
    if count > 0 {
        permit.send(scratch[..count].to_vec());
    }
    Ok(count > 0)
}

/// The compressed stream as the decoder's thread reads it.
struct Received {
    queue: mpsc::Receiver<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            match self.queue.blocking_recv() {
                Some(piece) => (self.current, self.at) = (piece, 0),
                None => return Ok(0),
            }
        }
        let rest = self.current.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

fn failed(source: io::Error) -> Error {
    Error::Stream { stream: "XVA", source }
}
