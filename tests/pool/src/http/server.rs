//! A host's HTTPS listener: accepts, shakes hands, and routes each request to the calls or the transfers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::message::{Request, Status, read_body, read_head, respond};
use crate::config::Profile;
use crate::error::Error;
use crate::rpc::{self, Methods};
use crate::transfer;
use crate::value::Outcome;
use crate::wire::{jsonrpc, xmlrpc};
use crate::world::World;

/// Bodies of calls.
const MAX_CALL: u64 = 300 * 1024;
/// The handshake and the first head must come within this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections served at once by a host; further ones wait.
const MAX_CONNECTIONS: usize = 800;

const RPC_HEADERS: [(&str, &str); 4] = [
    ("cache-control", "no-cache, no-store"),
    ("access-control-allow-origin", "*"),
    ("access-control-allow-headers", "X-Requested-With"),
    ("access-control-allow-methods", "POST, OPTIONS"),
];

/// A client that knows only a supporter's certificate asks which one the coordinator has, and is told with the refusal.
/// That hosts before 8.3 know this is not documented: these do not.
const THUMBPRINT_ASKED: &str = "x-xenapi-request-host-certificate-thumbprint";
const THUMBPRINT_ANSWERED: &str = "x-xenapi-response-host-certificate-thumbprint";

/// A connection after its handshake.
pub(crate) type Stream = BufReader<tokio_rustls::server::TlsStream<TcpStream>>;

/// Opens a listener.
pub(crate) async fn listen(address: &str, port: u16) -> Result<TcpListener, Error> {
    TcpListener::bind((address, port))
        .await
        .map_err(|source| Error::Listen { address: format!("{address}:{port}"), source })
}

/// Serves a host until its life or the program ends.
pub(crate) async fn serve(world: Arc<World>, methods: Arc<Methods>, host: usize, listener: TcpListener) {
    let Some(life) = world.hosts.get(host).map(crate::world::Host::life) else { return };
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accept = async {
            let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
            Some((listener.accept().await, slot))
        };
        let accepted = tokio::select! {
            () = life.cancelled() => return,
            () = world.stop.cancelled() => return,
            accepted = accept => accepted,
        };
        match accepted {
            Some((Ok((tcp, peer)), slot)) => {
                let (world, methods, life) = (Arc::clone(&world), Arc::clone(&methods), life.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = life.cancelled() => {}
                        () = world.stop.cancelled() => {}
                        ended = connection(&world, &methods, host, tcp, peer) => {
                            if let Err(error) = ended {
                                tracing::debug!(host, %peer, %error, "a connection broke");
                            }
                        }
                    }
                    drop(slot);
                });
            }
            Some((Err(error), _)) => {
                tracing::warn!(host, %error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            None => return,
        }
    }
}

async fn connection(
    world: &Arc<World>,
    methods: &Arc<Methods>,
    host: usize,
    tcp: TcpStream,
    peer: SocketAddr,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let Some(server) = world.hosts.get(host).map(|h| h.identity().server) else { return Ok(()) };
    let tls = timeout(PATIENCE, TlsAcceptor::from(server).accept(tcp)).await??;
    let mut stream = BufReader::with_capacity(64 * 1024, tls);
    let mut first = true;
    loop {
        let head =
            if first { timeout(PATIENCE, read_head(&mut stream)).await } else { Ok(read_head(&mut stream).await) };
        first = false;
        let request = match head {
            Err(_) => return refuse(&mut stream, Status(408)).await,
            Ok(read) => match read? {
                Ok(Some(request)) => request,
                Ok(None) => return stream.shutdown().await,
                Err(status) => return refuse(&mut stream, status).await,
            },
        };
        tracing::trace!(host, %peer, method = request.method, path = request.path, "request");
        match route(&request) {
            Route::Call(encoding) => {
                if !call(world, methods, host, &request, &mut stream, encoding).await? {
                    return stream.shutdown().await;
                }
            }
            Route::Options => {
                respond(&mut stream, Status(200), &RPC_HEADERS, b"").await?;
            }
            Route::Transfer => {
                transfer::handle(world, host, &request, &mut stream).await?;
                return close(stream).await;
            }
            Route::Welcome => {
                let page = b"<html><title>Welcome</title><body>This is a simulated host.</body></html>";
                respond(&mut stream, Status(200), &[("content-type", "text/html"), ("connection", "close")], page)
                    .await?;
                return stream.shutdown().await;
            }
            Route::Refused(status) => return refuse(&mut stream, status).await,
        }
    }
}

/// Says goodbye on TLS, then waits for the client to have read everything: a socket closed with unread input would
/// reset the connection and lose the end of the answer.
async fn close(mut stream: Stream) -> io::Result<()> {
    stream.shutdown().await?;
    let drained = async {
        let mut rest = [0; 16 * 1024];
        while tokio::io::AsyncReadExt::read(&mut stream, &mut rest).await.is_ok_and(|n| n > 0) {}
    };
    let _ = timeout(Duration::from_millis(500), drained).await;
    Ok(())
}

async fn refuse(stream: &mut Stream, status: Status) -> io::Result<()> {
    let page = format!("<html><body><h1>HTTP {} {}</h1></body></html>", status.0, status.reason());
    respond(stream, status, &[("content-type", "text/html"), ("connection", "close")], page.as_bytes()).await?;
    stream.shutdown().await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Json,
    Xml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Call(Encoding),
    Options,
    Transfer,
    Welcome,
    Refused(Status),
}

fn route(request: &Request) -> Route {
    let path = request.path.as_str();
    let is_rpc = path == "/" || ["/RPC2", "/xmlrpc", "/jsonrpc"].iter().any(|p| path.starts_with(p));
    match request.method.as_str() {
        "POST" if path.starts_with("/jsonrpc") => Route::Call(Encoding::Json),
        "POST" if is_rpc => Route::Call(Encoding::Xml),
        "OPTIONS" if is_rpc => Route::Options,
        method if transfer::serves(method, path) => Route::Transfer,
        "GET" if path == "/" => Route::Welcome,
        "GET" | "PUT" | "POST" | "OPTIONS" => Route::Refused(Status(403)),
        _ => Route::Refused(Status(501)),
    }
}

/// Answers a call; whether the connection stays open.
async fn call(
    world: &Arc<World>,
    methods: &Arc<Methods>,
    host: usize,
    request: &Request,
    stream: &mut Stream,
    encoding: Encoding,
) -> io::Result<bool> {
    let body = match read_body(stream, request, MAX_CALL).await? {
        Ok(body) => body,
        Err(status) => return refuse(stream, status).await.map(|()| false),
    };
    let parsed = match encoding {
        Encoding::Json => jsonrpc::parse(&body).map(|(envelope, call)| (Some(envelope), call)),
        Encoding::Xml => xmlrpc::parse(&body).map(|call| (None, call)),
    };
    let mut is_supporter = false;
    let text = match parsed {
        Err(detail) if encoding == Encoding::Json => jsonrpc::refusal(&detail),
        Err(detail) => {
            let page = format!("<html><body><h1>HTTP 500 internal server error</h1>{detail}</body></html>");
            respond(stream, Status(500), &[("content-type", "text/html"), ("connection", "close")], page.as_bytes())
                .await?;
            return Ok(false);
        }
        Ok((envelope, call)) => {
            // A call goes on when its client goes away, as on a real host.
            let (world, methods) = (Arc::clone(world), Arc::clone(methods));
            let work = tokio::spawn(async move { rpc::dispatch(&world, &methods, host, call).await });
            let Ok(reply) = work.await else { return refuse(stream, Status(500)).await.map(|()| false) };
            if reply.unanswered {
                return Ok(false);
            }
            is_supporter = reply.outcome.as_ref().is_err_and(|failure| failure.code == "HOST_IS_SLAVE");
            render(envelope.as_ref(), &reply.outcome, reply.bare)
        }
    };
    let keep = request.keep_alive();
    let kind = if encoding == Encoding::Json { "application/json" } else { "text/xml" };
    let connection = if keep { "keep-alive" } else { "close" };
    let mut headers = vec![("content-type", kind), ("connection", connection)];
    headers.extend(RPC_HEADERS);
    let asked = request.header(THUMBPRINT_ASKED).is_some_and(|asked| asked == "sha-256:master");
    let vouched = (asked && is_supporter && world.profile() == Profile::V8_3).then(|| world.coordinator().identity());
    if let Some(identity) = &vouched {
        headers.push((THUMBPRINT_ANSWERED, &identity.fingerprint));
    }
    respond(stream, Status(200), &headers, text.as_bytes()).await?;
    Ok(keep)
}

fn render(envelope: Option<&jsonrpc::Envelope>, outcome: &Outcome, bare: bool) -> String {
    match envelope {
        Some(envelope) => jsonrpc::render(envelope, outcome),
        None => xmlrpc::render(outcome, bare),
    }
}
