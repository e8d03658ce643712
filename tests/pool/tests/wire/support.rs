//! A client of the wire, as plain as can be: bytes over TLS, and JSON-RPC on top.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value as Json, json};
use simpool::control::{Client, Content, DiskSpec, VmInfo, VmSpec};
use simpool::{Builder, SimPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// An answer as it stood on the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line =
            self.head.lines().find(|l| l.to_ascii_lowercase().starts_with(&format!("{}:", name.to_lowercase())))?;
        Some(line.split_once(':')?.1.trim())
    }
}

/// A session with one host.
#[derive(Clone)]
pub(crate) struct Api {
    address: String,
    port: u16,
    tls: Arc<ClientConfig>,
    pub(crate) session: String,
}

impl Api {
    /// A client of a host that has no session yet.
    pub(crate) fn of(pool: &SimPool, host: usize) -> Self {
        let info = &pool.info().hosts[host];
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(info.certificate_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { address: info.address.clone(), port: info.port, tls: Arc::new(tls), session: String::new() }
    }

    pub(crate) async fn login(pool: &SimPool) -> Self {
        let mut api = Self::of(pool, 0);
        api.session = text(&api.raw_call("session.login_with_password", json!(["root", "simulated"])).await.unwrap());
        api
    }

    /// The same session at another host.
    pub(crate) fn at(&self, pool: &SimPool, host: usize) -> Self {
        Self { session: self.session.clone(), ..Self::of(pool, host) }
    }

    pub(crate) async fn connect(&self) -> std::io::Result<Tls> {
        let tcp = TcpStream::connect((self.address.as_str(), self.port)).await?;
        let name = ServerName::try_from(self.address.clone()).unwrap();
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await
    }

    /// Sends bytes and reads until the host closes.
    pub(crate) async fn exchange(&self, request: &[u8]) -> std::io::Result<Answer> {
        let mut stream = self.connect().await?;
        let exchange = async {
            stream.write_all(request).await?;
            stream.flush().await?;
            read_answer(&mut stream).await
        };
        tokio::time::timeout(Duration::from_secs(60), exchange).await?
    }

    pub(crate) async fn request(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let length = if method == "GET" { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: pool\r\n{length}connection: close\r\n\r\n").into_bytes();
        request.extend_from_slice(body);
        self.exchange(&request).await.unwrap()
    }

    /// A JSON-RPC call; the error is code and parameters.
    pub(crate) async fn raw_call(&self, method: &str, params: Json) -> Result<Json, Vec<String>> {
        let body = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": 0}).to_string();
        let answer = self.request("POST", "/jsonrpc", body.as_bytes()).await;
        assert_eq!(answer.status(), 200, "{}", answer.head);
        let answer: Json = serde_json::from_slice(&answer.body).unwrap();
        match answer.get("error") {
            None => Ok(answer["result"].clone()),
            Some(error) => {
                let params = error["data"].as_array().unwrap().iter().map(text);
                Err(std::iter::once(text(&error["message"])).chain(params).collect())
            }
        }
    }

    /// Logs in so many times more, on one connection.
    pub(crate) async fn login_again(&self, times: usize) {
        let mut stream = self.connect().await.unwrap();
        let login =
            json!({"method": "session.login_with_password", "params": ["root", "simulated"], "id": 0}).to_string();
        let request = format!("POST /jsonrpc HTTP/1.1\r\ncontent-length: {}\r\n\r\n{login}", login.len());
        for _ in 0..times {
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\"}") {
                answer.push(stream.read_u8().await.unwrap());
            }
        }
    }

    /// A call with the session.
    pub(crate) async fn call(&self, method: &str, params: &[Json]) -> Result<Json, Vec<String>> {
        let all = std::iter::once(json!(self.session)).chain(params.iter().cloned()).collect();
        self.raw_call(method, Json::Array(all)).await
    }

    /// A call on one object that answers a text.
    pub(crate) async fn get(&self, method: &str, object: &str) -> String {
        text(&self.call(method, &[json!(object)]).await.unwrap())
    }

    /// Waits for a task's end; its record.
    pub(crate) async fn wait(&self, task: &str) -> Json {
        eventually(|| async {
            let record = self.call("task.get_record", &[json!(task)]).await.unwrap();
            (record["status"] != "pending").then_some(record)
        })
        .await
    }

    /// An asynchronous call to its end: the task's record.
    pub(crate) async fn run(&self, method: &str, params: &[Json]) -> Json {
        let task = text(&self.call(&format!("Async.{method}"), params).await.unwrap());
        self.wait(&task).await
    }

    pub(crate) async fn task(&self) -> String {
        text(&self.call("task.create", &[json!("transfer"), json!("")]).await.unwrap())
    }

    /// A transfer with a task of its own: answer and the task's record at its end.
    pub(crate) async fn transfer(&self, method: &str, path: &str, query: &str, body: &[u8]) -> (Answer, Json) {
        let task = self.task().await;
        let session = &self.session;
        let answer = self.request(method, &format!("{path}?session_id={session}&task_id={task}&{query}"), body).await;
        let record = self.wait(&task).await;
        (answer, record)
    }

    /// Takes a snapshot; the VDIs of its disks.
    pub(crate) async fn snapshot(&self, vm: &str) -> (String, Vec<String>) {
        let snapshot = text(&self.call("VM.snapshot", &[json!(vm), json!("snapshot")]).await.unwrap());
        let record = self.call("VM.get_record", &[json!(snapshot)]).await.unwrap();
        let mut vdis = Vec::new();
        for vbd in record["VBDs"].as_array().unwrap() {
            vdis.push(self.get("VBD.get_VDI", vbd.as_str().unwrap()).await);
        }
        (snapshot, vdis)
    }
}

pub(crate) async fn read_answer(stream: &mut Tls) -> std::io::Result<Answer> {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes).await;
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        ended?;
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    Ok(Answer { head, body: bytes.split_off(end + 4) })
}

pub(crate) fn text(json: &Json) -> String {
    json.as_str().map_or_else(|| json.to_string(), str::to_owned)
}

/// A pool of so many hosts that waits as little as possible.
pub(crate) async fn pool(hosts: usize) -> SimPool {
    Builder::new().hosts(hosts).start().await.unwrap()
}

/// A running VM with one disk of 16 MiB, half of it allocated, on the SR.
pub(crate) async fn vm(control: &Client, sr: &str, host: usize) -> VmInfo {
    let content = Content::Seeded { seed: 7, percent: 50.0 };
    let disk = DiskSpec { sr: sr.to_owned(), size: 16 * MIB, content, ..DiskSpec::default() };
    let spec = VmSpec { name: "web".to_owned(), running: true, host, disks: vec![disk], vifs: 1, ..VmSpec::default() };
    control.create_vm(&spec).await.unwrap()
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.expect("what was waited for did not come")
}
