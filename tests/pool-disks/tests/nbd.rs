//! The NBD service byte by byte, as a host's answers: options, the limit, faults, and that every export is closed.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pool_disks::nbd::{Export, Exports, MAX_CONNECTIONS, Mode, NbdFaults, NbdServer, tls_config};
use pool_disks::{Disk, ReadAt, Result};
use support::{MIB, Sr, content, id, same};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;

/// One disk under the name `/disk`, and under `/slow` once it is let through; counts what is open.
struct Host {
    disk: Disk,
    open: watch::Sender<usize>,
    gate: Arc<Semaphore>,
    asked: watch::Sender<bool>,
}

struct Opened {
    disk: Disk,
    size: u64,
    open: watch::Sender<usize>,
}

#[async_trait]
impl Exports for Host {
    async fn open(&self, name: &str, _peer: SocketAddr) -> Option<Arc<dyn Export>> {
        match name {
            "/disk" => {}
            "/slow" => {
                self.asked.send_replace(true);
                self.gate.acquire().await.ok()?.forget();
            }
            _ => return None,
        }
        self.open.send_modify(|open| *open += 1);
        Some(Arc::new(Opened { size: self.disk.size().ok()?, disk: self.disk.clone(), open: self.open.clone() }))
    }
}

impl ReadAt for Opened {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buffer)
    }
}

#[async_trait]
impl Export for Opened {
    fn size(&self) -> u64 {
        self.size
    }

    async fn close(&self) {
        self.open.send_modify(|open| *open -= 1);
    }
}

struct Fixture {
    _sr: Sr,
    disk: Disk,
    server: NbdServer,
    address: SocketAddr,
    open: watch::Receiver<usize>,
    gate: Arc<Semaphore>,
    asked: watch::Receiver<bool>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Fixture {
    async fn start(mode: Mode) -> Self {
        let sr = Sr::thin();
        let disk = sr.filled(id(1), 8 * MIB, 3);
        let (sender, open) = watch::channel(0);
        let (asking, asked) = watch::channel(false);
        let gate = Arc::new(Semaphore::new(0));
        let host = Host { disk: disk.clone(), open: sender, gate: gate.clone(), asked: asking };
        let server = NbdServer::new(mode, MAX_CONNECTIONS, Arc::new(host));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn({
            let (server, shutdown) = (server.clone(), shutdown.clone());
            async move { server.serve(listener, shutdown).await }
        });
        Self { _sr: sr, disk, server, address, open, gate, asked, shutdown, task }
    }

    async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut client = Client { stream };
        assert_eq!(client.take(18).await.unwrap(), b"NBDMAGICIHAVEOPT\0\x01");
        client.stream.write_u32(1).await.unwrap();
        client
    }

    /// A client past the haggling.
    async fn attach(&self) -> Client {
        let mut client = self.connect().await;
        client.option(EXPORT_NAME, b"/disk").await;
        let hello = client.take(134).await.unwrap();
        assert_eq!(hello[..10], [&(8 * MIB).to_be_bytes()[..], &[0, 3]].concat());
        assert!(hello[10..].iter().all(|byte| *byte == 0));
        client
    }

    /// Waits until so many exports are open.
    async fn opened(&mut self, count: usize) {
        let wait = self.open.wait_for(|open| *open == count);
        timeout(Duration::from_secs(20), wait).await.expect("in time").unwrap();
    }
}

struct Client {
    stream: TcpStream,
}

impl Client {
    /// Exactly so many bytes, or `None` when the server hung up.
    async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        let read = timeout(Duration::from_secs(20), self.stream.read_exact(&mut bytes)).await.expect("in time");
        read.ok().map(|_| bytes)
    }

    async fn option(&mut self, option: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        let bytes = [b"IHAVEOPT", &option.to_be_bytes()[..], &length.to_be_bytes(), data].concat();
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The reply's type to an option.
    async fn haggle(&mut self, option: u32, data: &[u8]) -> Option<u32> {
        self.option(option, data).await;
        let reply = self.take(20).await?;
        assert_eq!(reply[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        assert_eq!(reply[8..12], option.to_be_bytes());
        assert_eq!(reply[16..], [0; 4]);
        Some(u32::from_be_bytes(reply[12..16].try_into().unwrap()))
    }

    async fn request(&mut self, command: u16, handle: u64, offset: u64, length: u32) {
        let bytes = [
            &0x2560_9513_u32.to_be_bytes()[..],
            &[0, 0],
            &command.to_be_bytes(),
            &handle.to_be_bytes(),
            &offset.to_be_bytes(),
            &length.to_be_bytes(),
        ]
        .concat();
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The error of a simple reply.
    async fn reply(&mut self, handle: u64) -> Option<u32> {
        let head = self.take(16).await?;
        assert_eq!(head[..4], 0x6744_6698_u32.to_be_bytes());
        assert_eq!(head[8..], handle.to_be_bytes());
        Some(u32::from_be_bytes(head[4..8].try_into().unwrap()))
    }
}

fn tls() -> Mode {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = certified.signing_key.serialize_der().try_into().unwrap();
    Mode::Tls(tls_config(vec![certified.cert.der().clone()], key, false).unwrap())
}

#[tokio::test]
async fn options_are_answered_as_a_host_without_tls_does() {
    let host = Fixture::start(Mode::Plain).await;
    let mut client = host.connect().await;
    for (option, reply) in [(STARTTLS, 0x8000_0002), (LIST, 0x8000_0002), (INFO, 0x8000_0001), (GO, 0x8000_0001)] {
        assert_eq!(client.haggle(option, b"\0\0\0\x05/disk\0\0").await, Some(reply), "option {option}");
    }
    assert_eq!(client.haggle(STRUCTURED_REPLY, b"").await, Some(0x8000_0001));
    assert_eq!(client.haggle(ABORT, b"").await, Some(1));
    assert_eq!(client.take(1).await, None);
}

#[tokio::test]
async fn with_tls_nothing_else_comes_first() {
    let host = Fixture::start(tls()).await;
    let mut client = host.connect().await;
    for option in [LIST, INFO, GO, STRUCTURED_REPLY] {
        assert_eq!(client.haggle(option, b"").await, Some(0x8000_0005));
    }
    assert_eq!(client.haggle(STARTTLS, b"").await, Some(1));
    for option in [EXPORT_NAME, ABORT] {
        let mut client = host.connect().await;
        client.option(option, b"/disk").await;
        assert_eq!(client.take(1).await, None, "hung up without a word");
    }
    let mut opened = host.open.clone();
    assert_eq!(*opened.borrow_and_update(), 0);
}

#[tokio::test]
async fn an_unknown_name_is_a_silent_disconnect() {
    let host = Fixture::start(Mode::Plain).await;
    for name in [b"/nothing".as_slice(), b"\xFF\xFE"] {
        let mut client = host.connect().await;
        client.option(EXPORT_NAME, name).await;
        assert_eq!(client.take(1).await, None);
    }
}

#[tokio::test]
async fn reads_are_answered_in_order_and_everything_else_is_refused() {
    let host = Fixture::start(Mode::Plain).await;
    let mut client = host.attach().await;
    let disk = content(&host.disk);
    client.request(0, 1, 0, 2 << 20).await;
    client.request(0, 2, 3 * MIB + 512, 1_500 * 512).await;
    client.request(0, 3, 0, 0).await;
    assert_eq!(client.reply(1).await, Some(0));
    same(&client.take(2 << 20).await.unwrap(), &disk[..2 << 20], "the first");
    assert_eq!(client.reply(2).await, Some(0));
    same(&client.take(1_500 * 512).await.unwrap(), &disk[(3 << 20) + 512..][..1_500 * 512], "the second");
    assert_eq!(client.reply(3).await, Some(0));
    for (handle, offset, length) in [(4, 1, 512), (5, 512, 100), (6, 8 * MIB, 512), (7, u64::MAX - 511, 512)] {
        client.request(0, handle, offset, length).await;
        assert_eq!(client.reply(handle).await, Some(22), "{offset}+{length}");
    }
    client.request(1, 8, 0, 512).await;
    client.stream.write_all(&[0; 512]).await.unwrap();
    assert_eq!(client.reply(8).await, Some(1), "EPERM");
    client.request(3, 9, 0, 0).await;
    assert_eq!(client.reply(9).await, Some(22));
    client.request(2, 10, 0, 0).await;
    assert_eq!(client.take(1).await, None);
}

#[tokio::test]
async fn the_seventeenth_connection_is_closed_without_a_byte() {
    let mut host = Fixture::start(Mode::Plain).await;
    let mut clients = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        clients.push(host.attach().await);
    }
    assert_eq!(host.server.connections(), 16);
    let mut stream = TcpStream::connect(host.address).await.unwrap();
    let mut byte = [0];
    let read = timeout(Duration::from_secs(20), stream.read(&mut byte)).await.expect("in time");
    assert!(matches!(read, Ok(0) | Err(_)));
    clients.clear();
    host.opened(0).await;
}

#[tokio::test]
async fn every_export_is_closed_whatever_ends_its_connection() {
    let mut host = Fixture::start(Mode::Plain).await;
    let client = host.attach().await;
    host.opened(1).await;
    drop(client);
    host.opened(0).await;

    let mut client = host.attach().await;
    client.stream.write_all(&[0xAB; 28]).await.unwrap();
    assert_eq!(client.take(1).await, None, "garbage ends it");
    host.opened(0).await;

    let mut client = host.attach().await;
    host.server.disconnect_all();
    assert_eq!(client.take(1).await, None, "a reboot ends it");
    host.opened(0).await;

    let _client = host.attach().await;
    host.shutdown.cancel();
    timeout(Duration::from_secs(20), &mut host.task).await.expect("in time").unwrap();
    assert_eq!(*host.open.borrow(), 0, "serving ends when all is closed");
}

#[tokio::test]
async fn an_export_that_opens_after_its_client_and_server_left_is_closed() {
    let mut host = Fixture::start(Mode::Plain).await;
    let mut client = host.connect().await;
    client.option(EXPORT_NAME, b"/slow").await;
    let asked = host.asked.wait_for(|asked| *asked);
    timeout(Duration::from_secs(20), asked).await.expect("in time").unwrap();
    drop(client);
    host.shutdown.cancel();
    host.gate.add_permits(1);
    timeout(Duration::from_secs(20), &mut host.task).await.expect("in time").unwrap();
    assert_eq!(host.gate.available_permits(), 0, "it was opened");
    assert_eq!(*host.open.borrow(), 0, "and closed");
}

#[tokio::test]
async fn a_connection_is_cut_where_the_fault_says() {
    let mut host = Fixture::start(Mode::Plain).await;
    host.server.set_faults(NbdFaults { drop_after: Some(3_000_000), ..NbdFaults::default() });
    let mut client = host.attach().await;
    client.request(0, 1, 0, 2 << 20).await;
    assert_eq!(client.reply(1).await, Some(0));
    client.take(2 << 20).await.unwrap();
    client.request(0, 2, 0, 2 << 20).await;
    assert_eq!(client.reply(2).await, Some(0));
    let mut rest = Vec::new();
    timeout(Duration::from_secs(20), client.stream.read_to_end(&mut rest)).await.expect("in time").unwrap();
    assert_eq!(rest.len(), 3_000_000 - (2 << 20));
    host.opened(0).await;
}

#[tokio::test]
async fn a_read_is_answered_after_its_delay() {
    let host = Fixture::start(Mode::Plain).await;
    let mut client = host.attach().await;
    host.server.set_faults(NbdFaults { read_delay: Duration::from_millis(100), ..NbdFaults::default() });
    let begun = std::time::Instant::now();
    client.request(0, 1, 0, 512).await;
    assert_eq!(client.reply(1).await, Some(0));
    assert!(begun.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_host_without_an_nbd_network_refuses() {
    let host = Fixture::start(Mode::Refuse).await;
    let mut stream = TcpStream::connect(host.address).await.unwrap();
    let mut byte = [0];
    let read = timeout(Duration::from_secs(20), stream.read(&mut byte)).await.expect("in time");
    assert!(matches!(read, Ok(0) | Err(_)));
    host.server.set_mode(Mode::Plain);
    host.attach().await;
}
