//! The outgoing archive's outer compression, as a host's gzip or zstd does it: off the async threads.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use tokio::io::AsyncWrite;
use zstd::stream::write::Encoder;

use super::Compression;
use crate::error::{Error, Result};
use crate::pump::{blocking, send};

/// Bytes that are compressed at a time.
const BATCH: usize = 1024 * 1024;
/// What hosts use.
const ZSTD_LEVEL: i32 = 3;

/// A writer that compresses, or not.
pub(super) struct Packer<'a, W> {
    writer: &'a mut W,
    encoder: Option<Codec>,
    pending: Vec<u8>,
    sent: u64,
}

enum Codec {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(Encoder<'static, Vec<u8>>),
}

impl<'a, W: AsyncWrite + Unpin> Packer<'a, W> {
    pub(super) fn new(writer: &'a mut W, compression: Compression) -> Result<Self> {
        let encoder = match compression {
            Compression::None => None,
            Compression::Gzip => Some(Codec::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::default()))),
            Compression::Zstd => Some(Codec::Zstd(Encoder::new(Vec::new(), ZSTD_LEVEL).map_err(failed)?)),
        };
        Ok(Self { writer, encoder, pending: Vec::new(), sent: 0 })
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.encoder.is_none() {
            self.sent += bytes.len() as u64;
            return send(self.writer, "XVA", bytes).await;
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() < BATCH { Ok(()) } else { self.compress().await }
    }

    /// Ends the stream; returns the bytes sent.
    pub(super) async fn finish(mut self) -> Result<u64> {
        self.compress().await?;
        if let Some(encoder) = self.encoder.take() {
            let rest = blocking(move || encoder.finish().map_err(failed)).await?;
            send(self.writer, "XVA", &rest).await?;
            self.sent += rest.len() as u64;
        }
        Ok(self.sent)
    }

    /// Compresses what is pending and sends what comes out.
    async fn compress(&mut self) -> Result<()> {
        let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
        let mut input = std::mem::take(&mut self.pending);
        let (encoder, mut input, output) = blocking(move || {
            let output = encoder.push(&input).map_err(failed)?;
            input.clear();
            Ok((encoder, input, output))
        })
        .await?;
        self.encoder = Some(encoder);
        std::mem::swap(&mut self.pending, &mut input);
        self.sent += output.len() as u64;
        send(self.writer, "XVA", &output).await
    }
}

impl Codec {
    fn push(&mut self, input: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => {
                encoder.write_all(input)?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Zstd(encoder) => {
                encoder.write_all(input)?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

fn failed(source: io::Error) -> Error {
    Error::Stream { stream: "XVA", source }
}
