//! The HTTP handlers that move data: who may, on which host, and the task that tells the truth about the end.

mod import_vm;
mod ova;
mod tap;
mod vdi;
mod vm;
mod xmldb;

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use crate::db::Db;
use crate::http::{Request, Status, respond};
use crate::ops::power::sees;
use crate::rpc::Cx;
use crate::value::{Failure, Outcome, Value};
use crate::world::World;

pub(crate) use crate::http::Stream;

/// What the handlers serve, longest path first.
const PATHS: [(&str, &str); 6] = [
    ("GET", "/export_metadata"),
    ("GET", "/export_raw_vdi"),
    ("PUT", "/import_raw_vdi"),
    ("GET", "/pool/xmldbdump"),
    ("GET", "/export"),
    ("PUT", "/import"),
];

fn handler(method: &str, path: &str) -> Option<&'static str> {
    PATHS.iter().find(|(m, p)| *m == method && path.starts_with(p)).map(|(_, p)| *p)
}

/// Whether a request is one of these handlers'.
pub(crate) fn serves(method: &str, path: &str) -> bool {
    handler(method, path).is_some()
}

/// What a handler has to say before it sends anything of its own.
enum Refusal {
    Status(Status, Failure),
    /// Another host has the SR.
    Moved(String),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Status(Status(500), failure)
    }
}

/// Serves one request; the connection closes afterwards. An error closes it without a goodbye.
pub(crate) async fn handle(world: &Arc<World>, host: usize, request: &Request, stream: &mut Stream) -> io::Result<()> {
    let Some(path) = handler(&request.method, &request.path) else { return Ok(()) };
    let given = request.cookie_or_query("task_id").filter(|task| world.read(|db| db.exists("task", task)));
    if let Some(status) = world.faults.refusal(path) {
        return answer(stream, Status(status), &[]).await;
    }
    let session = match authenticate(world, request).await {
        Ok(session) => session,
        Err(failure) => {
            if let Some(task) = &given {
                let refused = Failure::new("SESSION_AUTHENTICATION_FAILED", &[]);
                world.finish_task(task, &Err(refused));
            }
            tracing::debug!(path, %failure, "a transfer is not authenticated");
            return answer(stream, Status(401), &[("www-authenticate", "Basic realm=\"simulated pool\"")]).await;
        }
    };
    let mut cx = Cx::new(world, host, &session.reference);
    let probe = given.is_none() && request.method == "PUT" && request.content_length() == Ok(Some(0));
    if let Some(task) = &given {
        cx = cx.in_task(task);
    }
    let served = match path {
        "/export_raw_vdi" => vdi::export(&cx, request, stream).await,
        "/import_raw_vdi" => vdi::import(&cx, request, stream, probe).await,
        "/export" => vm::export(&cx, request, stream).await,
        "/export_metadata" => vm::export_metadata(&cx, request, stream).await,
        "/import" => import_vm::import(&cx, request, stream, probe).await,
        _ => xmldb::dump(&cx, stream).await,
    };
    world.durable().await;
    if session.temporary {
        world.logout(&session.reference);
    }
    match served {
        Ok(done) => done,
        Err(Refusal::Moved(location)) => answer(stream, Status(302), &[("location", &location)]).await,
        Err(Refusal::Status(status, failure)) => {
            world.tally.failure(&failure.code);
            tracing::debug!(path, %failure, "a transfer is refused");
            if let Some(task) = &given {
                world.finish_task(task, &Err(failure));
            }
            answer(stream, status, &[]).await
        }
    }
}

async fn answer(stream: &mut Stream, status: Status, headers: &[(&str, &str)]) -> io::Result<()> {
    let mut all = vec![("connection", "close"), ("cache-control", "no-cache, no-store")];
    all.extend(headers);
    respond(stream, status, &all, b"").await
}

struct Authenticated {
    reference: String,
    temporary: bool,
}

async fn authenticate(world: &World, request: &Request) -> Outcome<Authenticated> {
    use base64::Engine;
    if let Some(reference) = request.cookie_or_query("session_id") {
        world.session(&reference)?;
        return Ok(Authenticated { reference, temporary: false });
    }
    let denied = || Failure::new("SESSION_AUTHENTICATION_FAILED", &[]);
    let basic = request.header("authorization").and_then(|h| h.strip_prefix("Basic ")).ok_or_else(denied)?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(basic.trim()).map_err(|_| denied())?;
    let text = String::from_utf8(decoded).map_err(|_| denied())?;
    let (user, password) = text.split_once(':').ok_or_else(denied)?;
    let reference = world.login(user, password, "basic").await?;
    Ok(Authenticated { reference, temporary: true })
}

/// The object that a parameter names by reference or UUID.
fn object(db: &Db, class: &str, id: &str) -> Outcome<String> {
    if db.exists(class, id) { Ok(id.to_owned()) } else { db.by_uuid(class, id) }
}

/// Says where to go when this host does not see all SRs.
fn place(cx: &Cx, request: &Request, srs: &[String]) -> Result<(), Refusal> {
    let all = |host: &str| cx.world.read(|db| srs.iter().all(|sr| sees(db, host, sr)));
    if all(&cx.here().reference) {
        return Ok(());
    }
    match cx.world.hosts.iter().find(|host| host.is_up() && all(&host.reference)) {
        Some(host) => {
            let query = if request.raw_query.is_empty() { String::new() } else { format!("?{}", request.raw_query) };
            Err(Refusal::Moved(format!("https://{}:{}{}{query}", host.address, host.port(), request.path)))
        }
        None => Err(Failure::new("SR_NOT_ATTACHED", &[srs.first().map_or("", String::as_str)]).into()),
    }
}

/// The task of a transfer: the client's, or one made for it.
fn own_task(cx: &Cx, label: &str) -> Cx {
    if cx.has_task {
        return cx.clone();
    }
    let task = cx.world.create_task(label, "", &cx.here().reference, true);
    cx.clone().in_task(&task)
}

/// Sends the head of a body that ends with the connection.
async fn begin(stream: &mut Stream, version: &str, task: &str, kind: &str, file: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/{version} 200 OK\r\nServer: xapi/simulated\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\
         Content-Type: {kind}\r\nContent-Disposition: attachment; filename=\"{file}\"\r\ntask-id: {task}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await
}

/// Accepts an import before a byte of its body is read.
async fn accept(stream: &mut Stream, task: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: xapi/simulated\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\ntask-id: {task}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await
}

/// Ends a transfer: the task gets its outcome, unless a fault has another one for it.
fn finish(cx: &Cx, outcome: Outcome, fault: Option<Failure>) {
    let outcome = match fault {
        Some(failure) => Err(failure),
        None => outcome,
    };
    if let Err(failure) = &outcome {
        cx.world.tally.failure(&failure.code);
        tracing::debug!(task = cx.task, %failure, "a transfer failed");
    }
    cx.world.finish_task(&cx.task, &outcome);
}

/// Runs a transfer until it ends or its task is cancelled.
async fn cancellable<T>(cx: &Cx, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::select! {
        done = work => done,
        () = cx.cancel.cancelled() => Err(Failure::new("TASK_CANCELLED", &[&cx.task])),
    }
}

/// Reports progress to the task, a per cent at a time.
fn progress(cx: &Cx) -> impl Fn(f64) + Send + Sync + 'static {
    let (world, task) = (Arc::clone(&cx.world), cx.task.clone());
    let last = std::sync::atomic::AtomicU8::new(0);
    move |part: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
        let percent = (part.clamp(0.0, 1.0) * 100.0) as u8;
        if last.swap(percent, std::sync::atomic::Ordering::Relaxed) != percent {
            world.task_progress(&task, part);
        }
    }
}

/// The result of an import that names what it made.
fn references(list: Vec<String>) -> Value {
    Value::set(list)
}

/// A whole answer of known length, in the old version of the protocol.
async fn answer_with(stream: &mut Stream, task: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Type: application/octet-stream\r\ncontent-length: {}\r\ntask-id: {task}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await
}
