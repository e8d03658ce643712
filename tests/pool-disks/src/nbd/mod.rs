//! A host's NBD service: fixed newstyle, STARTTLS, `EXPORT_NAME` only, 16 connections, as `xapi-nbd` behaves.
//!
//! Never knows sessions or VDIs: what a name means is the program's business ([`Exports`]).

mod handshake;
mod transmission;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::handshake::{Outcome, Phase};
use crate::disk::ReadAt;

/// Connections that a real host takes.
pub const MAX_CONNECTIONS: usize = 16;

/// What a host exports. The program checks sessions here and plugs its dom0 VBD.
#[async_trait]
pub trait Exports: Send + Sync + 'static {
    /// Opens an export by the name that the client sent (`/<uuid>?session_id=…`); may take seconds. `None` is a silent
    /// disconnect, as on real hosts. Always runs to its end, even if the client or the server goes away meanwhile;
    /// what it opened is closed then.
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
pub struct NbdServer {
    shared: Arc<Shared>,
}

struct Shared {
    exports: Arc<dyn Exports>,
    slots: Arc<Semaphore>,
    max_connections: usize,
    settings: Mutex<Settings>,
}

struct Settings {
    mode: Mode,
    faults: NbdFaults,
    /// Cancelled to cut all connections of the moment.
    cut: CancellationToken,
}

impl fmt::Debug for NbdServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NbdServer").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

impl NbdServer {
    /// A server that serves nothing until [`NbdServer::serve`] is called. Real hosts have [`MAX_CONNECTIONS`].
    pub fn new(mode: Mode, max_connections: usize, exports: Arc<dyn Exports>) -> Self {
        let settings = Mutex::new(Settings { mode, faults: NbdFaults::default(), cut: CancellationToken::new() });
        let slots = Arc::new(Semaphore::new(max_connections));
        Self { shared: Arc::new(Shared { exports, slots, max_connections, settings }) }
    }

    /// Accepts connections until `shutdown`, then cuts them and returns when every export is closed.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Most likely out of file handles: give the open connections time to end.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // A full host accepts and closes without a byte, and so does one that serves no network.
            let Ok(slot) = Arc::clone(&self.shared.slots).try_acquire_owned() else { continue };
            let (shared, shutdown) = (Arc::clone(&self.shared), shutdown.clone());
            let (mode, cut) = {
                let settings = self.shared.settings();
                (settings.mode.clone(), settings.cut.clone())
            };
            connections.spawn(async move {
                let over = async {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = cut.cancelled() => {}
                    }
                };
                if let Err(error) = shared.converse(stream, peer, mode, over).await {
                    tracing::debug!(%peer, %error, "an NBD connection ended");
                }
                drop(slot);
            });
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    /// Changes who may connect from now on.
    pub fn set_mode(&self, mode: Mode) {
        self.shared.settings().mode = mode;
    }

    /// Changes the faults.
    pub fn set_faults(&self, faults: NbdFaults) {
        self.shared.settings().faults = faults;
    }

    /// Cuts all connections, as a reboot of the host does.
    pub fn disconnect_all(&self) {
        std::mem::take(&mut self.shared.settings().cut).cancel();
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.shared.max_connections - self.shared.slots.available_permits()
    }
}

impl Shared {
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> NbdFaults {
        self.settings().faults
    }

    /// Serves one connection until it ends or `over` does.
    async fn converse(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        mode: Mode,
        over: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        tokio::pin!(over);
        stream.set_nodelay(true)?;
        let (phase, tls) = match mode {
            Mode::Refuse => return Ok(()),
            Mode::Plain => (Phase::Plain, None),
            Mode::Tls(tls) => (Phase::TlsRequired, Some(tls)),
        };
        let negotiated = tokio::select! {
            () = &mut over => return Ok(()),
            outcome = handshake::begin(&mut stream, phase) => outcome?,
        };
        match (negotiated, tls) {
            (Outcome::Export(name), _) => self.export(&mut stream, &name, peer, over).await,
            (Outcome::StartTls, Some(tls)) => {
                let secured = async {
                    let mut stream = TlsAcceptor::from(tls).accept(stream).await?;
                    let outcome = handshake::options(&mut stream, Phase::Secured).await?;
                    io::Result::Ok((stream, outcome))
                };
                let (mut stream, outcome) = tokio::select! {
                    () = &mut over => return Ok(()),
                    secured = secured => secured?,
                };
                match outcome {
                    Outcome::Export(name) => self.export(&mut stream, &name, peer, over).await,
                    Outcome::StartTls | Outcome::Closed => Ok(()),
                }
            }
            (Outcome::StartTls | Outcome::Closed, _) => Ok(()),
        }
    }

    async fn export<S: AsyncRead + AsyncWrite + Send + Unpin>(
        &self,
        stream: &mut S,
        name: &str,
        peer: SocketAddr,
        over: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let Some(export) = self.exports.open(name, peer).await else { return Ok(()) };
        let result = tokio::select! {
            () = over => Ok(()),
            result = transmission::serve(stream, &export, || self.faults()) => result,
        };
        export.close().await;
        result
    }
}

/// A TLS configuration as hosts use it: TLS 1.2 only (`tls13` allows 1.3 too), no client certificate.
///
/// # Errors
/// When the key does not belong to the certificate.
pub fn tls_config(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    tls13: bool,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let versions: &[_] = if tls13 { &[&TLS12, &TLS13] } else { &[&TLS12] };
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    Ok(Arc::new(config))
}
