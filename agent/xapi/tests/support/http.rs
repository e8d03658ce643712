//! The wire: HTTP by hand over TLS, calls, transfers.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coffer_xapi::Fingerprint;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{End, Lie, Script, State, Verdict};

type Stream = BufReader<TlsStream<TcpStream>>;

#[derive(Clone)]
pub(super) struct Wire {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) changed: Arc<Notify>,
    /// On a supporter: where the coordinator is.
    pub(super) coordinator: Arc<Mutex<Option<String>>>,
    /// On a supporter: what it says of the coordinator's certificate.
    pub(super) vouched: Arc<Mutex<Option<Fingerprint>>>,
}

pub(super) async fn listen(listener: TcpListener, acceptor: TlsAcceptor, wire: Wire) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, wire) = (acceptor.clone(), wire.clone());
        let _ = tcp.set_nodelay(true);
        connections.spawn(async move {
            if let Ok(tls) = acceptor.accept(tcp).await {
                let mut stream = BufReader::new(tls);
                while wire.serve(&mut stream).await == Some(()) {}
            }
        });
    }
}

struct Head {
    text: String,
    method: String,
    path: String,
    query: Vec<(String, String)>,
    length: usize,
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// One request; `None` when the connection is to be closed.
    async fn serve(&self, stream: &mut Stream) -> Option<()> {
        let head = read_head(stream).await?;
        if head.text.len() > 1024 {
            write(stream, b"HTTP/1.1 431 Request Header Fields Too Large\r\n\r\n").await?;
            return None;
        }
        if head.path == "/jsonrpc" {
            let mut body = vec![0; head.length];
            stream.read_exact(&mut body).await.ok()?;
            let asked = head.text.to_ascii_lowercase().contains("certificate-thumbprint: sha-256:master\r\n");
            let vouched = self.vouched.lock().unwrap().filter(|_| asked);
            self.call(stream, &serde_json::from_slice(&body).ok()?, vouched).await
        } else {
            self.transfer(stream, head).await;
            None
        }
    }

    async fn call(&self, stream: &mut Stream, request: &Value, vouched: Option<Fingerprint>) -> Option<()> {
        let method = request["method"].as_str()?.to_owned();
        let lie = {
            let mut state = self.lock();
            state.calls.push(method.clone());
            state.lies.get_mut(&method).and_then(std::collections::VecDeque::pop_front)
        };
        let answer = match lie {
            None if method == "event.from" => self.events(request["params"].as_array()?).await,
            None => self.truth(&method, request["params"].as_array()?),
            Some(Lie::Result(value)) => Ok(value),
            Some(Lie::Failure(code, params)) => Err((code.to_owned(), params)),
            Some(Lie::Cut) => return None,
            Some(Lie::Silence) => std::future::pending().await,
            Some(Lie::Garbage(bytes)) => return respond(stream, &bytes, None).await,
            Some(Lie::Endless) => {
                write(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await?;
                let spaces = vec![b' '; 1 << 16];
                while write(stream, &spaces).await.is_some() {}
                return None;
            }
        };
        let body = match answer {
            Ok(result) => json!({"jsonrpc": "2.0", "result": result, "id": request["id"]}),
            Err((code, params)) => {
                json!({"jsonrpc": "2.0", "error": {"code": 1, "message": code, "data": params}, "id": request["id"]})
            }
        };
        respond(stream, body.to_string().as_bytes(), vouched).await
    }

    fn truth(&self, method: &str, params: &[Value]) -> Result<Value, (String, Vec<String>)> {
        let text = |index: usize| params.get(index).and_then(Value::as_str).unwrap_or_default().to_owned();
        let failure = |code: &str, params: &[&str]| {
            Err((code.to_owned(), params.iter().map(|&param| param.to_owned()).collect::<Vec<String>>()))
        };
        if let Some(coordinator) = self.coordinator.lock().unwrap().clone() {
            return failure("HOST_IS_SLAVE", &[&coordinator]);
        }
        let mut state = self.lock();
        if method == "session.login_with_password" {
            if text(1) != state.password {
                return failure("SESSION_AUTHENTICATION_FAILED", &[&text(0), "Authentication failure"]);
            }
            state.logins += 1;
            let session = format!("OpaqueRef:session-{}", state.logins);
            state.sessions.push(session.clone());
            return Ok(json!(session));
        }
        let session = text(0);
        if !state.sessions.contains(&session) {
            return failure("SESSION_INVALID", &[&session]);
        }
        match method {
            "session.logout" => {
                state.sessions.retain(|known| *known != session);
                Ok(json!(""))
            }
            "task.create" => {
                let count = state.calls.len();
                let task = format!("OpaqueRef:task-{count}");
                state.db.put(
                    "task",
                    &task,
                    json!({"name_label": text(1), "status": "pending", "progress": 0.0, "result": ""}),
                );
                Ok(json!(task))
            }
            "task.cancel" => {
                state.db.update("task", &text(1), |task| task["status"] = json!("cancelled"));
                Ok(json!(""))
            }
            _ if method.starts_with("Async.") => {
                if method == "Async.VM.snapshot" && params.len() == 4 && state.old {
                    return failure("MESSAGE_PARAMETER_COUNT_MISMATCH", &["VM.snapshot", "3", "4"]);
                }
                let task = format!("OpaqueRef:task-{}", state.calls.len());
                let (status, result) = match method {
                    "Async.VM.snapshot" => ("success", "<value>OpaqueRef:snapshot</value>"),
                    _ => ("success", ""),
                };
                if let Some(class) = method.strip_prefix("Async.").and_then(|rest| rest.strip_suffix(".destroy")) {
                    state.db.delete(class, &text(1), true);
                }
                state.db.put(
                    "task",
                    &task,
                    json!({"name_label": method, "status": status, "progress": 1.0, "result": result}),
                );
                Ok(json!(task))
            }
            _ => match method.split_once('.') {
                Some((class, "get_all_records")) => Ok(Value::Object(state.db.all(class))),
                Some((class, "get_record")) => {
                    let record = state.db.get(class, &text(1)).cloned();
                    record.map_or_else(|| failure("HANDLE_INVALID", &[class, &text(1)]), Ok)
                }
                Some((class, "destroy")) => match state.db.delete(class, &text(1), true) {
                    true => Ok(json!("")),
                    false => failure("HANDLE_INVALID", &[class, &text(1)]),
                },
                Some((_, "create")) => Ok(json!("OpaqueRef:new")),
                Some((class, rest)) if rest.starts_with("get_") => {
                    let field = state.db.get(class, &text(1)).map(|record| record[&rest[4..]].clone());
                    field.map_or_else(|| failure("HANDLE_INVALID", &[class, &text(1)]), Ok)
                }
                Some((class, rest)) if rest.starts_with("add_to_") || rest.starts_with("remove_from_") => {
                    let (field, adds) = match rest.strip_prefix("add_to_") {
                        Some(field) => (field, true),
                        None => (&rest["remove_from_".len()..], false),
                    };
                    let key = text(2);
                    let there = state.db.get(class, &text(1)).is_some_and(|record| record[field].get(&key).is_some());
                    if adds && there {
                        return failure("MAP_DUPLICATE_KEY", &[class, field, &text(1), &key]);
                    }
                    state.db.update(class, &text(1), |record| {
                        if adds {
                            record[field][&key] = json!(text(3));
                        } else if let Some(map) = record[field].as_object_mut() {
                            map.remove(&key);
                        }
                    });
                    Ok(json!(""))
                }
                _ => failure("MESSAGE_METHOD_UNKNOWN", &[method]),
            },
        }
        .inspect(|_| self.changed.notify_waiters())
    }

    async fn events(&self, params: &[Value]) -> Result<Value, (String, Vec<String>)> {
        let session = params[0].as_str().unwrap_or_default();
        let classes: Vec<String> = serde_json::from_value(params[1].clone()).unwrap();
        let token = params[2].as_str().unwrap_or_default().to_owned();
        let deadline = tokio::time::Instant::now() + Duration::from_secs_f64(params[3].as_f64().unwrap_or(1.0));
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.lock();
                if !state.sessions.iter().any(|known| known == session) {
                    return Err(("SESSION_INVALID".to_owned(), vec![session.to_owned()]));
                }
                if let Some(batch) = state.db.events(&classes, &token) {
                    return Ok(batch);
                }
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Ok(self.lock().db.batch(Vec::new()));
            }
        }
    }

    async fn transfer(&self, stream: &mut Stream, head: Head) {
        let value = |key: &str| head.query.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone());
        let task = value("task_id");
        let script = {
            let mut state = self.lock();
            state.heads.push(head.text.clone());
            if !value("session_id").is_some_and(|session| state.sessions.contains(&session)) {
                Script::Status(401)
            } else if head.method == "PUT"
                && head.length == 0
                && !matches!(state.scripts.front(), Some(Script::Redirect(_) | Script::Status(_)))
            {
                // The probe: nothing happens.
                Script::Take { at_most: 0, end: End::Clean, verdict: Verdict::Nothing }
            } else {
                state.scripts.pop_front().expect("a script for every transfer")
            }
        };
        const OK: &[u8] = b"HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Type: application/octet-stream\r\n\r\n";
        match script {
            Script::Send { body, end, verdict } => {
                let _ = write(stream, OK).await;
                let _ = write(stream, &body).await;
                if end == End::Clean {
                    let _ = stream.shutdown().await;
                }
                self.judge(task.as_deref(), &verdict);
            }
            Script::Take { at_most, end, verdict } => {
                let _ = write(stream, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
                let mut body = Vec::new();
                let wanted = u64::try_from(head.length.min(at_most)).unwrap();
                let _ = stream.take(wanted).read_to_end(&mut body).await;
                self.judge(task.as_deref(), &verdict);
                self.lock().bodies.push(body);
                if end == End::Clean {
                    let _ = stream.shutdown().await;
                }
            }
            Script::Redirect(to) => {
                let location = format!("https://{to}{}?session_id=x", head.path);
                let answer = format!("HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: {location}\r\n\r\n");
                let _ = write(stream, answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
            Script::Status(status) => {
                let _ = write(
                    stream,
                    format!("HTTP/1.1 {status} No\r\nConnection: close\r\ncontent-length: 0\r\n\r\n").as_bytes(),
                )
                .await;
                let _ = stream.shutdown().await;
            }
            Script::Ignore => {
                let _ = write(stream, OK).await;
                std::future::pending::<()>().await;
            }
            Script::Hang => {
                let _ = write(stream, OK).await;
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            }
        }
    }

    fn judge(&self, task: Option<&str>, verdict: &Verdict) {
        let Some(task) = task else { return };
        let mut state = self.lock();
        match verdict {
            Verdict::Success(result) => state.db.update("task", task, |record| {
                record["status"] = json!("success");
                record["result"] = json!(result);
            }),
            Verdict::Failure(info) => state.db.update("task", task, |record| {
                record["status"] = json!("failure");
                record["error_info"] = json!(info);
            }),
            Verdict::Vanish => {
                state.db.delete("task", task, true);
            }
            Verdict::Nothing => {}
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> Option<()> {
    stream.write_all(bytes).await.ok()?;
    stream.flush().await.ok()
}

async fn respond(stream: &mut Stream, body: &[u8], vouched: Option<Fingerprint>) -> Option<()> {
    let vouched = vouched.map_or_else(String::new, |fingerprint| {
        format!("x-xenapi-response-host-certificate-thumbprint: {fingerprint}\r\n")
    });
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: keep-alive\r\n{vouched}content-type: application/json\r\n\r\n",
        body.len()
    );
    write(stream, head.as_bytes()).await?;
    write(stream, body).await
}

async fn read_head(stream: &mut Stream) -> Option<Head> {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        text.push(char::from(stream.read_u8().await.ok()?));
    }
    let mut words = text.split_whitespace();
    let method = words.next()?.to_owned();
    let target = words.next()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.replace("%3A", ":")))
        .collect();
    let header = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    assert!(header("transfer-encoding").is_none(), "XAPI takes no transfer encoding");
    let length = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    Some(Head { method, path: path.to_owned(), query, length, text })
}
