//! Disks coming from a pool as extents.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use coffer_disk::nbd::{ExportName, NbdDisk, NbdOptions, NbdSource, NbdTarget, NbdTls, ReadPlan};
use coffer_disk::vhd::{VhdHead, VhdSource};
use coffer_extent::{BufferPool, Extent, ExtentError, ExtentSource, RangeSet};
use coffer_xapi::{Client, Download, Error, NbdExport, VdiExport};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections for one disk.
pub(super) const CONNECTIONS: u32 = 3;

/// A disk read over NBD. Its connections count against those that the pool's hosts have.
struct NbdExportSource {
    source: NbdSource,
    disk: Option<NbdDisk>,
    _slots: OwnedSemaphorePermit,
}

#[async_trait]
impl ExtentSource for NbdExportSource {
    fn size(&self) -> u64 {
        self.source.size()
    }

    async fn next(&mut self) -> Result<Option<Extent>, ExtentError> {
        let extent = self.source.next().await?;
        if extent.is_none()
            && let Some(disk) = self.disk.take()
        {
            disk.close().await;
        }
        Ok(extent)
    }
}

/// Opens a disk over NBD; waits while the hosts' connections are in use.
pub(super) async fn open_nbd(
    exports: Vec<NbdExport>,
    plan: ReadPlan,
    slots: &Arc<Semaphore>,
    buffers: BufferPool,
) -> Result<Box<dyn ExtentSource>, ExtentError> {
    let permits = slots.clone().acquire_many_owned(CONNECTIONS).await.expect("the semaphore is never closed");
    let connections = usize::try_from(CONNECTIONS).expect("a few");
    let options = NbdOptions { connections, ..NbdOptions::default() };
    let disk = NbdDisk::connect(exports.iter().map(target).collect(), options, buffers).await?;
    // Hosts of today do not tell; one that does saves reading what is known to be zero.
    let plan = match disk.allocated().await? {
        Some(allocated) => plan.only_allocated(&allocated),
        None => plan,
    };
    let source = disk.source(plan)?;
    Ok(Box::new(NbdExportSource { source, disk: Some(disk), _slots: permits }))
}

/// Always with TLS: the name of the export holds the session.
fn target(export: &NbdExport) -> NbdTarget {
    NbdTarget {
        address: export.address.clone(),
        port: export.port,
        export: ExportName::new(export.export_name.expose_secret()),
        tls: Some(NbdTls {
            certificate_pem: export.certificate.clone(),
            server_name: Some(export.subject.clone()).filter(|name| !name.is_empty()),
            client: None,
        }),
    }
}

/// A download that is read by one and finished by another.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Option<Download>>>);

impl Shared {
    fn take(&self) -> Option<Download> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(download) => Pin::new(download).poll_read(context, buffer),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// A disk read as a VHD stream. It ends well only when the pool says so.
struct VhdExportSource {
    source: VhdSource<Shared>,
    download: Shared,
    label: String,
}

#[async_trait]
impl ExtentSource for VhdExportSource {
    fn size(&self) -> u64 {
        self.source.size()
    }

    async fn next(&mut self) -> Result<Option<Extent>, ExtentError> {
        match self.source.next().await {
            Ok(Some(extent)) => Ok(Some(extent)),
            Ok(None) => match self.download.take() {
                Some(download) => {
                    download.finish().await.map_err(|error| pool_error(&self.label, error))?;
                    Ok(None)
                }
                None => Ok(None),
            },
            Err(error) => Err(self.reason(error).await),
        }
    }
}

impl VhdExportSource {
    /// What the pool says about a broken stream, rather than how it looks here.
    async fn reason(&mut self, error: ExtentError) -> ExtentError {
        match self.download.take() {
            Some(download) => match download.finish().await {
                Err(reason) => pool_error(&self.label, reason),
                Ok(_) => error,
            },
            None => error,
        }
    }
}

/// Starts the export of a disk as VHD.
pub(super) async fn open_vhd(
    client: &Client,
    export: &VdiExport,
    buffers: BufferPool,
) -> Result<Box<dyn ExtentSource>, ExtentError> {
    let label = export.label.clone();
    let download = client.export_vdi(export).await.map_err(|error| pool_error(&label, error))?;
    let shared = Shared(Arc::new(Mutex::new(Some(download))));
    match VhdSource::open(shared.clone(), label.clone(), buffers).await {
        Ok(source) => Ok(Box::new(VhdExportSource { source, download: shared, label })),
        Err(error) => Err(match shared.take() {
            Some(download) => match download.finish().await {
                Err(reason) => pool_error(&label, reason),
                Ok(_) => error.into(),
            },
            None => error.into(),
        }),
    }
}

/// Which blocks a disk holds, from the head of its VHD export, which is then cut.
pub(super) async fn allocated(client: &Client, export: &VdiExport) -> Result<RangeSet, ExtentError> {
    let failed = |error| pool_error(&export.label, error);
    let mut download = client.export_vdi(export).await.map_err(failed)?;
    let head = VhdHead::read(&mut download, &export.label).await;
    let cut = download.abort().await;
    let head = head?;
    cut.map_err(failed)?;
    Ok(head.allocated())
}

pub(super) fn pool_error(label: &str, error: Error) -> ExtentError {
    ExtentError::new(label, error.is_retryable(), error)
}
