//! A pool in miniature that speaks the true wire, and lies on it when told to. Its HTTP is written by hand, so that
//! answers can come early, be cut, or be nonsense.

#![allow(dead_code, reason = "every test program uses a part of it")]

mod db;
mod http;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coffer_xapi::{Client, ClientOptions, Endpoint, Fingerprint, Timeouts};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use db::Db;

/// What is answered to a call in place of the truth, once.
pub(crate) enum Lie {
    Result(Value),
    Failure(&'static str, Vec<String>),
    /// Bytes that are not an answer.
    Garbage(Vec<u8>),
    /// Spaces without end.
    Endless,
    /// The connection is cut without an answer.
    Cut,
    /// No answer at all.
    Silence,
}

/// What happens to the next transfer.
#[derive(Clone)]
pub(crate) enum Script {
    /// `200` at once, this body, this end, this verdict of the task.
    Send { body: Vec<u8>, end: End, verdict: Verdict },
    /// `200` at once, then this many bytes of the body are read, then this verdict.
    Take { at_most: usize, end: End, verdict: Verdict },
    /// `302` to another endpoint.
    Redirect(String),
    /// Only a status.
    Status(u16),
    /// `200`, then nothing for ever.
    Hang,
    /// `200`, and the body is never read.
    Ignore,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum End {
    /// TLS is closed as it should be.
    Clean,
    /// TCP ends in the middle of TLS.
    Cut,
}

#[derive(Clone)]
pub(crate) enum Verdict {
    Success(&'static str),
    Failure(&'static [&'static str]),
    /// The task disappears.
    Vanish,
    /// The task stays as it is.
    Nothing,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) db: Db,
    pub(crate) sessions: Vec<String>,
    pub(crate) logins: usize,
    pub(crate) password: String,
    pub(crate) lies: HashMap<String, VecDeque<Lie>>,
    pub(crate) scripts: VecDeque<Script>,
    /// Methods in the order of their calls.
    pub(crate) calls: Vec<String>,
    /// Request line and headers of transfers.
    pub(crate) heads: Vec<String>,
    /// Bodies of transfers that were read.
    pub(crate) bodies: Vec<Vec<u8>>,
    /// Like version 8.2: no `ignore_vdis`.
    pub(crate) old: bool,
}

pub(crate) struct Host {
    pub(crate) endpoint: Endpoint,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) pem: String,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    coordinator: Arc<Mutex<Option<String>>>,
    vouched: Arc<Mutex<Option<Fingerprint>>>,
    server: AbortOnDropHandle<()>,
}

impl Host {
    /// A pool of one host, its coordinator.
    pub(crate) async fn start() -> Self {
        let host = Self::serve("127.0.0.1:0", Arc::default(), Arc::default(), None).await.unwrap();
        host.lock().password = "secret".to_owned();
        host.add_host("OpaqueRef:h1", &host);
        host.add("pool", "OpaqueRef:pool", json!({"master": "OpaqueRef:h1"}));
        host.add(
            "SR",
            "OpaqueRef:sr",
            json!({"name_label": "nfs", "physical_size": "1000", "physical_utilisation": 400}),
        );
        host.add(
            "PBD",
            "OpaqueRef:pbd1",
            json!({"SR": "OpaqueRef:sr", "host": "OpaqueRef:h1", "currently_attached": true}),
        );
        host
    }

    /// Another host of the same pool, on another loopback address with the same port, as real hosts are.
    pub(crate) async fn supporter(&self, reference: &str) -> Self {
        let coordinator = Some(self.endpoint.host().to_owned());
        let address = format!("127.0.0.2:{}", self.endpoint.port());
        let host = Self::serve(&address, Arc::clone(&self.state), Arc::clone(&self.changed), coordinator).await;
        let host = host.expect("the port is free on every loopback address");
        self.add_host(reference, &host);
        host
    }

    async fn serve(
        address: &str,
        state: Arc<Mutex<State>>,
        changed: Arc<Notify>,
        coordinator: Option<String>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self::serve_on(listener, address, state, changed, coordinator))
    }

    fn serve_on(
        listener: TcpListener,
        address: SocketAddr,
        state: Arc<Mutex<State>>,
        changed: Arc<Notify>,
        coordinator: Option<String>,
    ) -> Self {
        let coordinator = Arc::new(Mutex::new(coordinator));
        let made = rcgen::generate_simple_self_signed(vec![address.ip().to_string()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let vouched = Arc::default();
        let server = tokio::spawn(http::listen(
            listener,
            acceptor,
            http::Wire {
                state: Arc::clone(&state),
                changed: Arc::clone(&changed),
                coordinator: Arc::clone(&coordinator),
                vouched: Arc::clone(&vouched),
            },
        ));
        Self {
            endpoint: Endpoint::parse(&address.to_string()).unwrap(),
            fingerprint: Fingerprint::of_der(made.cert.der()),
            pem: made.cert.pem(),
            state,
            changed,
            coordinator,
            vouched,
            server: AbortOnDropHandle::new(server),
        }
    }

    /// Makes a supporter the coordinator.
    pub(crate) fn promote(&self) {
        *self.coordinator.lock().unwrap() = None;
    }

    /// A supporter says from now on, when asked, that its coordinator has this certificate.
    pub(crate) fn vouch_for_coordinator(&self, fingerprint: Fingerprint) {
        *self.vouched.lock().unwrap() = Some(fingerprint);
    }

    /// Stops, and listens again at the same address with another certificate, as after a renewal.
    pub(crate) async fn renew(self, state_of: &Host) -> Self {
        let address: SocketAddr = self.endpoint.to_string().parse().unwrap();
        drop(self.server);
        loop {
            if let Ok(listener) = TcpListener::bind(address).await {
                let (state, changed) = (Arc::clone(&state_of.state), Arc::clone(&state_of.changed));
                return Self::serve_on(listener, address, state, changed, Some(state_of.endpoint.host().to_owned()));
            }
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn add_host(&self, reference: &str, host: &Host) {
        self.add("host", reference, json!({"address": host.endpoint.host(), "enabled": true, "name_label": reference}));
        let certificate = json!({"type": "host", "host": reference, "fingerprint": host.fingerprint.to_string()});
        self.add("Certificate", &format!("{reference}-certificate"), certificate);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Puts or changes an object.
    pub(crate) fn add(&self, class: &str, reference: &str, record: Value) {
        self.lock().db.put(class, reference, record);
        self.changed.notify_waiters();
    }

    pub(crate) fn remove(&self, class: &str, reference: &str) {
        self.lock().db.delete(class, reference, true);
        self.changed.notify_waiters();
    }

    /// Removes an object, and no event tells.
    pub(crate) fn remove_silently(&self, class: &str, reference: &str) {
        self.lock().db.delete(class, reference, false);
        self.changed.notify_waiters();
    }

    pub(crate) fn lie(&self, method: &str, lie: Lie) {
        self.lock().lies.entry(method.to_owned()).or_default().push_back(lie);
    }

    pub(crate) fn script(&self, script: Script) {
        self.lock().scripts.push_back(script);
    }

    /// As a restarted toolstack: sessions and tasks are gone.
    pub(crate) fn restart(&self) {
        let mut state = self.lock();
        state.sessions.clear();
        state.db.clear("task");
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn called(&self, method: &str) -> usize {
        self.lock().calls.iter().filter(|called| *called == method).count()
    }

    pub(crate) fn options(&self) -> ClientOptions {
        let mut options = ClientOptions::new(self.endpoint.clone(), self.fingerprint, "root", "secret".into());
        options.timeouts = Timeouts {
            connect: Duration::from_secs(5),
            call: Duration::from_secs(5),
            poll: Duration::from_secs(5),
            operation: Duration::from_secs(10),
            task_poll: Duration::from_millis(200),
            first_byte: Duration::from_millis(800),
            idle: Duration::from_millis(800),
            settle: Duration::from_secs(5),
        };
        options
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.options()).await.unwrap()
    }
}
