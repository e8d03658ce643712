//! One open connection: requests out, replies in, payload straight into the memory of its request.

use super::negotiation::{self, Export};
use super::queue::{Answer, Job, Request, Status};
use super::target::{NbdOptions, NbdTarget};
use super::tls::TlsSettings;
use super::wire::{self, ChunkKind, Command, Header};
use crate::NbdError;
use bytes::Bytes;
use coffer_extent::{Buffer, BufferPool, RangeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A byte stream in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// A connection in its transmission phase.
pub(super) struct Connection<S = Box<dyn Stream>> {
    stream: S,
    export: Export,
    in_flight: Vec<InFlight>,
    next_handle: u64,
    /// The header being read, which may arrive in parts.
    header: [u8; wire::STRUCTURED_HEADER_BYTES],
    header_filled: usize,
}

/// A request that was sent.
struct InFlight {
    handle: u64,
    job: Job,
    /// What has come so far, when it comes in chunks.
    received: RangeSet,
    status: Status,
    errno: Option<u32>,
}

/// A request that was answered: done, or given back with the error of the server.
pub(super) enum Finished {
    Done,
    Refused(Job, NbdError),
}

impl Connection {
    /// Connects, secures and opens.
    pub(super) async fn open(
        target: &NbdTarget,
        tls: Option<&TlsSettings>,
        options: &NbdOptions,
    ) -> Result<Connection, NbdError> {
        let address = target.endpoint();
        let connecting = within(options.connect_timeout, "connecting", async {
            TcpStream::connect(&address).await.map_err(|source| NbdError::Connect { address: address.clone(), source })
        });
        let mut tcp = connecting.await?;
        tcp.set_nodelay(true).map_err(NbdError::Io)?;
        within(options.open_timeout, "opening the export", async move {
            let no_zeroes = negotiation::greet(&mut tcp).await?;
            let (stream, export) = match tls {
                None => {
                    let export = negotiation::open(&mut tcp, &target.export, no_zeroes).await?;
                    (Box::new(tcp) as Box<dyn Stream>, export)
                }
                Some(tls) => {
                    negotiation::start_tls(&mut tcp).await?;
                    let connector = TlsConnector::from(tls.config.clone());
                    let mut secure = connector.connect(tls.server_name.clone(), tcp).await.map_err(NbdError::Tls)?;
                    let export = negotiation::open(&mut secure, &target.export, no_zeroes).await?;
                    (Box::new(secure) as Box<dyn Stream>, export)
                }
            };
            Ok(Connection::new(stream, export))
        })
        .await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, export: Export) -> Connection<S> {
        Connection {
            stream,
            export,
            in_flight: Vec::new(),
            next_handle: 1,
            header: [0; wire::STRUCTURED_HEADER_BYTES],
            header_filled: 0,
        }
    }

    pub(super) fn export(&self) -> &Export {
        &self.export
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Takes back all requests that have no reply, in the order they were sent.
    pub(super) fn take_in_flight(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.in_flight).into_iter().map(|sent| sent.job).collect()
    }

    /// Sends a request. The job is in flight even if this fails.
    pub(super) async fn send(&mut self, job: Job) -> Result<(), NbdError> {
        let handle = self.next_handle;
        self.next_handle += 1;
        let (command, offset, len) = match &job.request {
            Request::Read { offset, len, .. } => (Command::Read, *offset, u32::try_from(*len).ok()),
            Request::Status { offset, len, .. } => (Command::BlockStatus, *offset, Some(*len)),
        };
        let len = len.expect("reads are limited to what one request can ask for");
        self.in_flight.push(InFlight {
            handle,
            job,
            received: RangeSet::new(),
            status: Status::default(),
            errno: None,
        });
        let request = wire::request(command, handle, offset, len);
        self.stream.write_all(&request).await.map_err(NbdError::Io)?;
        self.stream.flush().await.map_err(NbdError::Io)
    }

    /// Waits for the header of the next reply. May be dropped and called again: no byte is lost.
    pub(super) async fn header(&mut self) -> Result<Header, NbdError> {
        loop {
            let wanted = match self.header.first_chunk::<4>() {
                Some(start) if self.header_filled >= 4 => wire::header_bytes(*start)?,
                _ => wire::SIMPLE_HEADER_BYTES,
            };
            if self.header_filled == wanted {
                self.header_filled = 0;
                return wire::header(&self.header);
            }
            let rest = self.header.get_mut(self.header_filled..wanted).unwrap_or_default();
            match self.stream.read(rest).await {
                Ok(0) => return Err(NbdError::Closed),
                Ok(count) => self.header_filled += count,
                Err(error) => return Err(broken(error)),
            }
        }
    }

    /// Reads what belongs to a header. Must not be dropped half-way. `None`: the reply has further chunks.
    pub(super) async fn payload(&mut self, header: Header) -> Result<Option<Finished>, NbdError> {
        let (Header::Simple { handle, .. } | Header::Chunk { handle, .. }) = header;
        let unknown = NbdError::Protocol("a reply to no request");
        let index = self.in_flight.iter().position(|sent| sent.handle == handle).ok_or(unknown)?;
        let Some(sent) = self.in_flight.get_mut(index) else { return Ok(None) };
        let last = match header {
            Header::Simple { errno: 0, .. } => {
                let Request::Read { offset, len, .. } = sent.job.request else {
                    return Err(NbdError::Protocol("a simple reply where chunks are due"));
                };
                sent.data(&mut self.stream, offset, len as u64).await?;
                true
            }
            Header::Simple { errno, .. } => {
                sent.errno = Some(errno);
                true
            }
            Header::Chunk { last, kind, len, .. } => {
                sent.chunk(&mut self.stream, kind, len, self.export.allocation_context).await?;
                last
            }
        };
        if !last {
            return Ok(None);
        }
        // Not `swap_remove`: those left must stay in the order they were sent.
        self.in_flight.remove(index).finish().map(Some)
    }

    /// Takes leave of the server, which then detaches the disk at once.
    pub(super) async fn disconnect(mut self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let leave = async {
            self.stream.write_all(&wire::request(Command::Disconnect, 0, 0, 0)).await?;
            self.stream.shutdown().await
        };
        // The server may be gone already; then this is all there is to do.
        let _left = timeout(PATIENCE, leave).await;
    }
}

impl InFlight {
    /// Reads `len` bytes of content at `offset` of the disk into the memory of the request.
    async fn data<S: AsyncRead + Unpin>(&mut self, stream: &mut S, offset: u64, len: u64) -> Result<(), NbdError> {
        let place = self.place(offset, len)?;
        stream.read_exact(place).await.map(drop).map_err(broken)
    }

    async fn chunk<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        kind: ChunkKind,
        len: u32,
        context: Option<u32>,
    ) -> Result<(), NbdError> {
        match kind {
            ChunkKind::Nothing if len == 0 => Ok(()),
            ChunkKind::Data => {
                let content = len.checked_sub(8).ok_or(NbdError::Protocol("data without its place"))?;
                let offset = stream.read_u64().await.map_err(broken)?;
                self.data(stream, offset, content.into()).await
            }
            ChunkKind::Hole if len == 12 => {
                let offset = stream.read_u64().await.map_err(broken)?;
                let hole = stream.read_u32().await.map_err(broken)?;
                self.place(offset, hole.into())?.fill(0);
                Ok(())
            }
            ChunkKind::BlockStatus => self.block_status(stream, len, context).await,
            ChunkKind::Error => {
                const LONGEST: u32 = 8192;
                if !(4..=LONGEST).contains(&len) {
                    return Err(NbdError::Protocol("an error of impossible length"));
                }
                let errno = stream.read_u32().await.map_err(broken)?;
                discard(stream, len - 4).await?;
                self.errno = Some(errno);
                Ok(())
            }
            ChunkKind::Nothing | ChunkKind::Hole => Err(NbdError::Protocol("a chunk of wrong length")),
        }
    }

    /// Memory for content of the disk; each byte may come once.
    fn place(&mut self, offset: u64, len: u64) -> Result<&mut [u8], NbdError> {
        let outside = NbdError::Protocol("data outside the request");
        let Request::Read { offset: start, len: wanted, buffer, .. } = &mut self.job.request else {
            return Err(outside);
        };
        let end = offset.checked_add(len);
        let (Some(within), Some(end)) = (offset.checked_sub(*start), end) else { return Err(outside) };
        if end - *start > *wanted as u64 {
            return Err(outside);
        }
        if self.received.intersects(&(offset..end)) {
            return Err(NbdError::Protocol("the same data twice"));
        }
        self.received.insert(offset..end);
        let range = usize::try_from(within).and_then(|from| Ok(from..usize::try_from(end - *start)?));
        range.ok().and_then(|range| buffer.get_mut(range)).ok_or(outside)
    }

    async fn block_status<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        len: u32,
        context: Option<u32>,
    ) -> Result<(), NbdError> {
        // A descriptor speaks of one byte at least, but a server that splits finer than this is not honest.
        const LONGEST: u32 = 4 + 8 * 1024 * 1024;
        let Request::Status { offset, len: wanted, .. } = self.job.request else {
            return Err(NbdError::Protocol("a block status that nobody asked for"));
        };
        if !(12..=LONGEST).contains(&len) || !(len - 4).is_multiple_of(8) {
            return Err(NbdError::Protocol("a block status of impossible length"));
        }
        if Some(stream.read_u32().await.map_err(broken)?) != context {
            return Err(NbdError::Protocol("a block status of an unknown context"));
        }
        let mut stream = tokio::io::BufReader::with_capacity(4096, stream.take(u64::from(len) - 4));
        for _ in 0..(len - 4) / 8 {
            let extent = u64::from(stream.read_u32().await.map_err(broken)?);
            let flags = stream.read_u32().await.map_err(broken)?;
            let start = offset.saturating_add(self.status.covered);
            // The last descriptor may reach beyond what was asked.
            let extent = extent.min(u64::from(wanted).saturating_sub(self.status.covered));
            if flags & wire::STATE_ZERO != 0 {
                self.status.zero.insert(start..start.saturating_add(extent));
            }
            self.status.covered += extent;
        }
        Ok(())
    }

    /// The reply is complete: hand it over, or give the job back with the server's error.
    fn finish(self) -> Result<Finished, NbdError> {
        if let Some(errno) = self.errno {
            return Ok(Finished::Refused(self.job, NbdError::Server { errno }));
        }
        match self.job.request {
            Request::Read { len, buffer, answer, .. } => {
                if self.received.total() != len as u64 {
                    return Err(NbdError::Protocol("a reply with a gap in its data"));
                }
                drop(answer.send(Ok(buffer)));
            }
            Request::Status { answer, .. } => {
                if self.status.covered == 0 {
                    return Err(NbdError::Protocol("a block status of nothing"));
                }
                drop(answer.send(Ok(self.status)));
            }
        }
        Ok(Finished::Done)
    }
}

/// Feeds a stream of replies to a client that has sent the given reads (offset and length), with the handles 1, 2, …,
/// and after them asks for the block status of the first 4 GiB, until all are answered or something is wrong. Returns
/// the content of each read that was not refused. For tests of the parser with arbitrary bytes.
pub async fn read_replies<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    structured: bool,
    reads: &[(u64, usize)],
    pool: &BufferPool,
) -> Result<Vec<Option<Bytes>>, NbdError> {
    let export =
        Export { size: u64::MAX, minimum_block: 1, maximum_read: u64::MAX, structured, allocation_context: Some(1) };
    let mut connection = Connection::new(stream, export);
    let mut waiting = Vec::new();
    for &(offset, len) in reads {
        let len = len.min(pool.buffer_bytes());
        let (job, answer) = Job::read(offset, len, pool.take().await);
        connection.send(job).await?;
        waiting.push((len, answer));
    }
    let (job, _status) = Job::status(0, u32::MAX);
    connection.send(job).await?;
    while connection.in_flight() > 0 {
        let header = connection.header().await?;
        if let Some(Finished::Refused(job, error)) = connection.payload(header).await? {
            job.fail(Arc::new(error));
        }
    }
    let content = |(len, mut answer): (usize, oneshot::Receiver<Answer<Buffer>>)| {
        answer.try_recv().ok()?.ok().map(|buffer| buffer.freeze(len))
    };
    Ok(waiting.into_iter().map(content).collect())
}

async fn discard<S: AsyncRead + Unpin>(stream: &mut S, mut len: u32) -> Result<(), NbdError> {
    let mut scratch = [0; 256];
    while len > 0 {
        let step = scratch.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        let part = scratch.get_mut(..step).unwrap_or_default();
        stream.read_exact(part).await.map_err(broken)?;
        len -= u32::try_from(step).unwrap_or(len);
    }
    Ok(())
}

fn broken(error: io::Error) -> NbdError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => NbdError::Closed,
        _ => NbdError::Io(error),
    }
}

/// Puts a limit on how long something may take.
pub(super) async fn within<T>(
    limit: Duration,
    waiting_for: &'static str,
    work: impl Future<Output = Result<T, NbdError>>,
) -> Result<T, NbdError> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(NbdError::Timeout { waiting_for, after: limit }),
    }
}
