//! A server that speaks exactly what real hosts speak: STARTTLS, EXPORT_NAME, simple replies one after another, a limit
//! of connections; and that can be told to misbehave.

use super::servers::{Pki, target};
use coffer_disk::nbd::NbdTarget;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Half of the content of a reply, then the connection ends.
    CutMidReply,
    /// A reply with the handle of nothing.
    WrongHandle,
    /// Bytes that are no reply.
    Garbage,
    /// A chunk that says it holds 4 GiB.
    HugeChunk,
    /// The connection ends where the export should open.
    NoExport,
    /// Bytes that are no NBD at all.
    OtherProtocol,
    /// The disk has become smaller.
    Shrunk,
}

pub(crate) struct Host {
    pub(crate) port: u16,
    pub(crate) pki: Option<Pki>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    image: Vec<u8>,
    tls: Option<TlsAcceptor>,
    limit: usize,
    patience: usize,
    fault: Option<Fault>,
    /// How often the fault still happens.
    faults_left: AtomicUsize,
    connections: AtomicUsize,
    opened: AtomicUsize,
    left: AtomicUsize,
    bytes_read: AtomicU64,
}

pub(crate) struct Setup {
    pub(crate) tls: bool,
    pub(crate) limit: usize,
    /// Content is sent only when so many connections have been open.
    pub(crate) patience: usize,
    pub(crate) fault: Option<(Fault, usize)>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { tls: true, limit: 16, patience: 0, fault: None }
    }
}

impl Host {
    pub(crate) async fn start(image: Vec<u8>, setup: Setup) -> Host {
        let pki = setup.tls.then(Pki::new);
        let state = Arc::new(State {
            image,
            tls: pki.as_ref().map(acceptor),
            limit: setup.limit,
            patience: setup.patience,
            fault: setup.fault.map(|(fault, _)| fault),
            faults_left: AtomicUsize::new(setup.fault.map_or(0, |(_, times)| times)),
            ..State::default()
        });
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = door.local_addr().unwrap().port();
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = door.accept().await {
                stream.set_nodelay(true).unwrap();
                let state = shared.clone();
                tokio::spawn(async move {
                    if state.connections.fetch_add(1, Ordering::SeqCst) < state.limit {
                        let _ended = state.greet(stream).await;
                    }
                    state.connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Host { port, pki, state }
    }

    pub(crate) fn target(&self) -> NbdTarget {
        target(self.port, "/2f1c?session_id=OpaqueRef:secret", self.pki.as_ref().map(Pki::tls))
    }

    /// Connections that got as far as the open export.
    pub(crate) fn opened(&self) -> usize {
        self.state.opened.load(Ordering::SeqCst)
    }

    /// Waits until no connection is left.
    pub(crate) async fn deserted(&self) {
        while self.state.connections.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Connections that have taken their leave.
    pub(crate) fn left(&self) -> usize {
        self.state.left.load(Ordering::SeqCst)
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.state.bytes_read.load(Ordering::SeqCst)
    }
}

fn acceptor(pki: &Pki) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(pki.server.0.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pki.server.1.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    // Hosts speak TLS 1.2 only.
    let builder = builder.with_protocol_versions(&[&tokio_rustls::rustls::version::TLS12]).unwrap();
    TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap()))
}

impl State {
    /// True when the fault is this one and happens now.
    fn happens(&self, fault: Fault) -> bool {
        let take = |left: usize| left.checked_sub(1);
        self.fault == Some(fault) && self.faults_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }

    async fn greet(&self, mut stream: TcpStream) -> io::Result<()> {
        if self.happens(Fault::OtherProtocol) {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n").await?;
            return stream.shutdown().await;
        }
        stream.write_all(b"NBDMAGICIHAVEOPT\x00\x01").await?;
        assert_eq!(stream.read_u32().await?, 1, "client flags");
        match &self.tls {
            None => self.options(stream, false).await,
            Some(tls) => loop {
                let (option, _) = read_option(&mut stream).await?;
                match option {
                    5 => {
                        reply(&mut stream, option, 1).await?;
                        return self.options(tls.accept(stream).await?, true).await;
                    }
                    1 | 2 => return Ok(()),
                    _ => reply(&mut stream, option, 0x8000_0005).await?,
                }
            },
        }
    }

    async fn options<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S, secure: bool) -> io::Result<()> {
        loop {
            let (option, payload) = read_option(&mut stream).await?;
            match option {
                1 => {
                    assert_eq!(payload, b"/2f1c?session_id=OpaqueRef:secret");
                    if self.happens(Fault::NoExport) {
                        return Ok(());
                    }
                    let lost = if self.opened() > 0 && self.happens(Fault::Shrunk) { 1 << 20 } else { 0 };
                    stream.write_u64(self.image.len() as u64 - lost).await?;
                    stream.write_u16(3).await?;
                    stream.write_all(&[0; 124]).await?;
                    stream.flush().await?;
                    self.opened.fetch_add(1, Ordering::SeqCst);
                    return self.serve(stream).await;
                }
                2 => return reply(&mut stream, option, 1).await,
                3 => reply(&mut stream, option, 0x8000_0002).await?,
                5 if secure => reply(&mut stream, option, 0x8000_0003).await?,
                5 => reply(&mut stream, option, 0x8000_0002).await?,
                _ => reply(&mut stream, option, 0x8000_0001).await?,
            }
        }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> io::Result<()> {
        loop {
            assert_eq!(stream.read_u32().await?, 0x2560_9513, "request magic");
            let _flags = stream.read_u16().await?;
            let command = stream.read_u16().await?;
            let handle = stream.read_u64().await?;
            let offset = stream.read_u64().await?;
            let len = stream.read_u32().await?;
            let from = usize::try_from(offset).unwrap();
            let range = from..from + usize::try_from(len).unwrap();
            if command == 2 {
                self.left.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            let errno: u32 = match command {
                0 if offset % 512 != 0 || len % 512 != 0 || range.end > self.image.len() => 22,
                0 => 0,
                1 => 1,
                _ => 22,
            };
            while self.opened() < self.patience {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if self.happens(Fault::Garbage) {
                stream.write_all(&[0x55; 4096]).await?;
                stream.flush().await?;
                continue;
            }
            if self.happens(Fault::HugeChunk) {
                stream.write_u32(0x668e_33ef).await?;
                stream.write_u32(0x0001_0001).await?;
                stream.write_u64(handle).await?;
                stream.write_u32(u32::MAX).await?;
                stream.write_u64(offset).await?;
                stream.flush().await?;
                continue;
            }
            let handle = if self.happens(Fault::WrongHandle) { !handle } else { handle };
            stream.write_u32(0x6744_6698).await?;
            stream.write_u32(errno).await?;
            stream.write_u64(handle).await?;
            if errno == 0 {
                self.bytes_read.fetch_add(len.into(), Ordering::SeqCst);
                let content = &self.image[range];
                if self.happens(Fault::CutMidReply) {
                    stream.write_all(&content[..content.len() / 2]).await?;
                    return stream.flush().await;
                }
                stream.write_all(content).await?;
            }
            stream.flush().await?;
        }
    }
}

async fn read_option<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(u32, Vec<u8>)> {
    assert_eq!(stream.read_u64().await?, u64::from_be_bytes(*b"IHAVEOPT"));
    let option = stream.read_u32().await?;
    let mut payload = vec![0; usize::try_from(stream.read_u32().await?).unwrap()];
    stream.read_exact(&mut payload).await?;
    Ok((option, payload))
}

async fn reply<S: AsyncWrite + Unpin>(stream: &mut S, option: u32, kind: u32) -> io::Result<()> {
    stream.write_u64(0x0003_e889_0455_65a9).await?;
    stream.write_u32(option).await?;
    stream.write_u32(kind).await?;
    stream.write_u32(0).await?;
    stream.flush().await
}
