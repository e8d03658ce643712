//! Disks going to a pool: as sparse VHD, or raw where a disk is too large for that.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use coffer_disk::vhd::{PieceWriter, VhdPlan, VhdSink};
use coffer_extent::{Extent, ExtentError, ExtentSink, StreamError};
use coffer_xapi::Upload;

use super::export::pool_error;

/// Zeros to be sent where a raw stream has a hole.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// A stream on its way to a host.
struct ToHost(Upload);

#[async_trait]
impl PieceWriter for ToHost {
    async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        self.0.send(piece).await.map_err(io::Error::other)
    }
}

/// A disk written as a VHD stream. It is finished only when the pool says so.
pub(super) struct VhdImportSink {
    sink: Option<VhdSink<ToHost>>,
    label: String,
}

impl VhdImportSink {
    pub(super) fn new(upload: Upload, plan: VhdPlan, label: &str) -> Self {
        Self { sink: Some(VhdSink::new(ToHost(upload), plan, label)), label: label.to_owned() }
    }

    /// What the pool says about a stream that it stopped taking, rather than how that looks here.
    async fn reason(&mut self, error: ExtentError) -> ExtentError {
        match self.sink.take() {
            Some(sink) => match sink.into_inner().0.finish().await {
                Err(reason) => pool_error(&self.label, reason),
                Ok(_) => error,
            },
            None => error,
        }
    }

    fn over(&self) -> ExtentError {
        StreamError::Cancelled.about(&self.label)
    }
}

#[async_trait]
impl ExtentSink for VhdImportSink {
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        let Some(sink) = &mut self.sink else { return Err(self.over()) };
        match sink.accept(extent).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.reason(error).await),
        }
    }

    async fn finish(&mut self) -> Result<(), ExtentError> {
        let Some(sink) = &mut self.sink else { return Err(self.over()) };
        if let Err(error) = sink.finish().await {
            return Err(self.reason(error).await);
        }
        let Some(sink) = self.sink.take() else { return Err(self.over()) };
        sink.into_inner().0.finish().await.map_err(|error| pool_error(&self.label, error))?;
        Ok(())
    }
}

/// A disk written byte for byte.
pub(super) struct RawImportSink {
    upload: Option<Upload>,
    label: String,
}

impl RawImportSink {
    pub(super) fn new(upload: Upload, label: &str) -> Self {
        Self { upload: Some(upload), label: label.to_owned() }
    }
}

#[async_trait]
impl ExtentSink for RawImportSink {
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        let Some(upload) = &mut self.upload else { return Err(StreamError::Cancelled.about(&self.label)) };
        let sent = match extent {
            Extent::Data { bytes, .. } => upload.send(bytes).await,
            Extent::Zero { mut len, .. } => loop {
                let piece = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
                if piece == 0 {
                    break Ok(());
                }
                if let Err(error) = upload.send(Bytes::from_static(&ZEROS).slice(..piece)).await {
                    break Err(error);
                }
                len -= piece as u64;
            },
            Extent::Unchanged { offset, len } => {
                return Err(StreamError::UnexpectedUnchanged { offset, len }.about(&self.label));
            }
        };
        let Err(error) = sent else { return Ok(()) };
        let reason = match self.upload.take() {
            Some(upload) => upload.finish().await.err().unwrap_or(error),
            None => error,
        };
        Err(pool_error(&self.label, reason))
    }

    async fn finish(&mut self) -> Result<(), ExtentError> {
        let Some(upload) = self.upload.take() else { return Err(StreamError::Cancelled.about(&self.label)) };
        upload.finish().await.map_err(|error| pool_error(&self.label, error))?;
        Ok(())
    }
}
