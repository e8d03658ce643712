//! A host's NBD service: fixed newstyle, STARTTLS, `EXPORT_NAME` only, 16 connections.
#![allow(clippy::todo, unused_variables, clippy::unused_self, reason = "skeleton, filled in within the hour")]
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::disk::ReadAt;
use crate::error::Result;

/// What a host exports. The program checks sessions here and plugs its dom0 VBD.
#[async_trait]
pub trait Exports: Send + Sync + 'static {
    /// Opens an export by the name that the client sent (`/<uuid>?session_id=…`); may take seconds. `None` is a silent
    /// disconnect, as on real hosts. Dropped unfinished when the client or the server goes away.
    async fn open(&self, name: &str, peer: SocketAddr) -> Option<Arc<dyn Export>>;
}

/// One opened export, used by one connection.
#[async_trait]
pub trait Export: ReadAt {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Called once when the connection has ended, whatever the reason: unplug the VBD here.
    async fn close(&self);
}

/// Who may connect, and how.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Some network has the purpose `nbd`: STARTTLS is forced.
    Tls(Arc<ServerConfig>),
    /// Only `insecure_nbd`: no TLS.
    Plain,
    /// Neither or both: connections are closed at once.
    Refuse,
}

/// Faults, changeable while the server runs; they hold for requests that come after.
#[derive(Debug, Clone, Copy, Default)]
pub struct NbdFaults {
    /// Waited before each read is answered.
    pub read_delay: Duration,
    /// Each connection is cut once it has sent so many bytes of data.
    pub drop_after: Option<u64>,
}

/// One host's server: a handle, cheap to clone.
#[derive(Clone)]
pub struct NbdServer {}

impl NbdServer {
    /// A server that serves nothing until [`NbdServer::serve`] is called.
    pub fn new(mode: Mode, max_connections: usize, exports: Arc<dyn Exports>) -> Self {
        todo!()
    }

    /// Accepts connections until `shutdown`, then cuts them and returns when every export is closed.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        todo!()
    }

    /// Changes who may connect from now on.
    pub fn set_mode(&self, mode: Mode) {
        todo!()
    }

    /// Changes the faults.
    pub fn set_faults(&self, faults: NbdFaults) {
        todo!()
    }

    /// Cuts all connections, as a reboot of the host does.
    pub fn disconnect_all(&self) {
        todo!()
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        todo!()
    }
}

/// Connections that a real host takes.
pub const MAX_CONNECTIONS: usize = 16;

/// A TLS configuration as hosts use it: TLS 1.2 only (`tls13` allows 1.3 too), no client certificate.
///
/// # Errors
/// When the key does not belong to the certificate.
pub fn tls_config(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    tls13: bool,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    todo!()
}
