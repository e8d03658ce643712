//! The session: who is logged in where, how a lost session or a moved coordinator is found again, and every call.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::events::Events;
use crate::hosts::{Hosts, KnownHost, certificate_of};
use crate::link::{Call, Link, Repeat, Slot, Timeouts, recovery};
use crate::records::Host;
use crate::task::task_value;
use crate::transfer::Load;
use crate::transport::{Connection, dial};
use crate::wire::{Malformed, XmlValue};
use crate::{Class, Endpoint, Error, Failure, FailureClass, Fingerprint, Ref};

/// A call is tried this often at most, its repetitions after a lost session or connection included.
const ATTEMPTS: u32 = 3;

/// What a client needs to know about a pool.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Addresses of hosts: first the one whose certificate a person confirmed, which is or knows the coordinator; then
    /// any others that may become it.
    pub hosts: Vec<Endpoint>,
    /// The confirmed certificate. Those of all other hosts follow from what is heard over connections that it secures.
    pub fingerprint: Fingerprint,
    /// [`Client::known_hosts`] of an earlier session under the same confirmed certificate.
    pub learnt: Vec<(Endpoint, Fingerprint)>,
    /// The user, `root` or one with the role vm-power-admin.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// How long each kind of waiting may take.
    pub timeouts: Timeouts,
    /// The longest answer to a call that is read, in bytes.
    pub max_answer: usize,
    /// Who XAPI counts the sessions for.
    pub originator: String,
}

impl ClientOptions {
    /// Options for one host, the rest at its defaults.
    #[must_use]
    pub fn new(host: Endpoint, fingerprint: Fingerprint, user: &str, password: SecretString) -> Self {
        Self {
            hosts: vec![host],
            fingerprint,
            learnt: Vec::new(),
            user: user.to_owned(),
            password,
            timeouts: Timeouts::default(),
            max_answer: 64 << 20,
            originator: "coffer".to_owned(),
        }
    }
}

/// A client of one pool. Cheap to clone; calls of all clones share a session and a connection.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: ClientOptions,
    hosts: Hosts,
    login: Mutex<Login>,
    calls: Slot,
    ids: AtomicU64,
    events: RwLock<Option<Events>>,
    load: Load,
}

struct Login {
    session: Option<Arc<Session>>,
    /// The coordinator as last seen.
    coordinator: Option<Endpoint>,
}

pub(crate) struct Session {
    pub(crate) secret: SecretString,
    pub(crate) coordinator: Endpoint,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("hosts", &self.0.options.hosts).finish_non_exhaustive()
    }
}

impl Client {
    /// Logs in at the coordinator, found from any of the given hosts, and learns the pool's other hosts.
    ///
    /// # Errors
    /// Whatever keeps every given host from letting us in; the most telling one.
    pub async fn connect(options: ClientOptions) -> Result<Self, Error> {
        let client = Self(Arc::new(Inner {
            hosts: Hosts::new(options.hosts.clone(), options.fingerprint, options.learnt.clone()),
            options,
            login: Mutex::new(Login { session: None, coordinator: None }),
            calls: Slot::default(),
            ids: AtomicU64::new(1),
            events: RwLock::new(None),
            load: Load::default(),
        }));
        client.learn_hosts().await?;
        Ok(client)
    }

    /// Ends the session. The client may be used on: it logs in again.
    ///
    /// # Errors
    /// Any error of a call; the session then ends by itself when it is idle long enough.
    pub async fn logout(&self) -> Result<(), Error> {
        let Some(session) = self.0.login.lock().await.session.take() else { return Ok(()) };
        let call = self.prepared("session.logout", Vec::new(), Repeat::Never);
        let secret = session.secret.expose_secret();
        self.link().exchange(&self.0.calls, &session.coordinator, Some(secret), &call).await?;
        Ok(())
    }

    /// The hosts of the pool as last learnt, with the certificates they are pinned to. Given to the next
    /// [`Client::connect`], they let it find the pool when its coordinator has changed.
    #[must_use]
    pub fn known_hosts(&self) -> Vec<KnownHost> {
        self.0.hosts.learnt()
    }

    /// The waiting times in force.
    #[must_use]
    pub fn timeouts(&self) -> &Timeouts {
        &self.0.options.timeouts
    }

    /// Calls a method; the session is put before `params`.
    ///
    /// # Errors
    /// [`Error::Xapi`] when XAPI says no, else what broke.
    pub async fn call(&self, method: &str, params: Vec<Value>, repeat: Repeat) -> Result<Value, Error> {
        self.perform(&self.0.calls, &self.prepared(method, params, repeat)).await
    }

    /// Calls a method and reads its result as `T`.
    ///
    /// # Errors
    /// As [`Client::call`]; [`Error::Answer`] when the result is not a `T`.
    pub async fn call_as<T: DeserializeOwned>(
        &self,
        method: &str,
        params: Vec<Value>,
        repeat: Repeat,
    ) -> Result<T, Error> {
        decoded(method, self.call(method, params, repeat).await?)
    }

    /// Calls `Async.method`, waits for its task to end, removes the task, returns its result. When this is dropped the
    /// pool goes on with the operation.
    ///
    /// # Errors
    /// As [`Client::call`], the failure of the task, or [`Error::TaskVanished`] and [`Error::TaskTimeout`].
    pub async fn operation(&self, method: &str, params: Vec<Value>) -> Result<XmlValue, Error> {
        let started = self.call_as(&format!("Async.{method}"), params, Repeat::IfRefused).await?;
        let outcome = self.task_outcome(&started, method, self.timeouts().operation).await?;
        self.discard_task(&started).await;
        outcome.into_result(method)
    }

    /// As [`Client::operation`], for one that returns an object.
    ///
    /// # Errors
    /// As [`Client::operation`].
    pub async fn operation_ref<C: Class>(&self, method: &str, params: Vec<Value>) -> Result<Ref<C>, Error> {
        task_value(method, self.operation(method, params).await?)
    }

    /// Asks the pool for its hosts and their certificates, over the pinned session. The events of class host are no
    /// substitute: they do not say when a certificate changes.
    ///
    /// # Errors
    /// As [`Client::call`]. A host whose certificate cannot be told is known without one.
    pub async fn learn_hosts(&self) -> Result<Vec<KnownHost>, Error> {
        let hosts = self.all_records::<Host>().await?;
        let port = self.session().await?.coordinator.port();
        let certificates = match self.call("Certificate.get_all_records", Vec::new(), Repeat::Safe).await {
            Ok(certificates) => certificates,
            Err(Error::Xapi(failure)) => {
                tracing::debug!(%failure, "the pool does not list certificates");
                Value::Null
            }
            Err(error) => return Err(error),
        };
        let mut known = Vec::with_capacity(hosts.len());
        for (reference, host) in hosts {
            let Ok(endpoint) = Endpoint::parse_with_port(&host.address, port) else {
                tracing::debug!(host = %reference, "a host without a usable address is left out");
                continue;
            };
            let fingerprint = match certificate_of(&certificates, &reference) {
                Some(fingerprint) => Some(fingerprint),
                None => self.server_certificate(&reference).await?,
            };
            known.push(KnownHost { reference, uuid: host.uuid, name: host.name_label, endpoint, fingerprint });
        }
        self.0.hosts.learn(known.clone());
        Ok(known)
    }

    async fn server_certificate(&self, host: &Ref<Host>) -> Result<Option<Fingerprint>, Error> {
        match self.call_as::<String>("host.get_server_certificate", vec![json!(host)], Repeat::Safe).await {
            Ok(pem) => Ok(Some(Fingerprint::of_pem(&pem)?)),
            Err(Error::Xapi(failure)) => {
                tracing::debug!(%host, %failure, "the certificate of a host is not known");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The coordinator as last logged in to.
    pub async fn coordinator(&self) -> Option<Endpoint> {
        self.0.login.lock().await.coordinator.clone()
    }

    /// Looks whether the coordinator and the host that a person confirmed still show their certificates; sends them
    /// nothing. A certificate that was learnt may have been renewed: then the pool is asked.
    ///
    /// # Errors
    /// [`Error::CertificateChanged`] with the host; an error of [`Client::learn_hosts`]. That a host cannot be reached
    /// is none.
    pub async fn look_at_certificates(&self) -> Result<(), Error> {
        let coordinator = self.session().await?.coordinator.clone();
        self.look_at_certificate(&coordinator).await?;
        match self.hosts().confirmed() {
            Some(confirmed) if *confirmed != coordinator => self.look_at_certificate(confirmed).await,
            _ => Ok(()),
        }
    }

    async fn look_at_certificate(&self, host: &Endpoint) -> Result<(), Error> {
        match self.dial_pinned(host).await {
            Err(Error::Connect { .. } | Error::Timeout { .. } | Error::Transport { .. } | Error::Tls { .. }) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// A connection of its own. When a learnt certificate has changed, the pool is asked for the new one.
    pub(crate) async fn dial_pinned(&self, host: &Endpoint) -> Result<Connection, Error> {
        match dial(host, self.hosts(), self.timeouts()).await {
            Err(Error::CertificateChanged { .. } | Error::UnknownHost { .. }) if !self.hosts().is_confirmed(host) => {
                self.learn_hosts().await?;
                dial(host, self.hosts(), self.timeouts()).await
            }
            outcome => outcome,
        }
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.0.hosts
    }

    pub(crate) fn load(&self) -> &Load {
        &self.0.load
    }

    pub(crate) fn events(&self) -> Option<Events> {
        self.0.events.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn follow_tasks_with(&self, events: Events) {
        *self.0.events.write().unwrap_or_else(PoisonError::into_inner) = Some(events);
    }

    pub(crate) fn prepared(&self, method: &str, params: Vec<Value>, repeat: Repeat) -> Call {
        Call { method: method.to_owned(), params, repeat, timeout: self.timeouts().call, asks_for_coordinator: false }
    }

    /// Carries out a call over the connection of `slot`, with a new session or connection where the first was lost.
    pub(crate) async fn perform(&self, slot: &Slot, call: &Call) -> Result<Value, Error> {
        let mut attempt = 1;
        loop {
            let session = self.session().await?;
            let secret = session.secret.expose_secret();
            let error = match self.link().exchange(slot, &session.coordinator, Some(secret), call).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let recovery = recovery(&error, call.repeat);
            if recovery.new_session {
                self.forget(&session).await;
            }
            if !recovery.again || attempt >= ATTEMPTS {
                return Err(error);
            }
            tracing::debug!(method = call.method, %error, attempt, "a call is repeated");
            attempt += 1;
        }
    }

    /// The session in force, or a new one.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut login = self.0.login.lock().await;
        if let Some(session) = &login.session {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(self.log_in(login.coordinator.as_ref()).await?);
        login.coordinator = Some(session.coordinator.clone());
        login.session = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Gives up a session that proved bad, unless a newer one took its place.
    pub(crate) async fn forget(&self, session: &Arc<Session>) {
        let mut login = self.0.login.lock().await;
        if login.session.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            login.session = None;
        }
    }

    /// Tries the coordinator as last seen, then every other known host; a supporter names the coordinator.
    async fn log_in(&self, last: Option<&Endpoint>) -> Result<Session, Error> {
        let mut candidates: Vec<Endpoint> = last.cloned().into_iter().collect();
        candidates.extend(self.0.hosts.endpoints());
        let mut tried: Vec<Endpoint> = Vec::new();
        let mut worst: Option<Error> = None;
        while let Some(host) = next_untried(&candidates, &tried) {
            tried.push(host.clone());
            let error = match self.log_in_at(&host).await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            tracing::debug!(%host, %error, "no session");
            match error.class() {
                Some(FailureClass::Permission) => return Err(error),
                Some(FailureClass::NotCoordinator) => match self.coordinator_named_by(&error, &host) {
                    Ok(coordinator) => candidates.insert(0, coordinator),
                    Err(unknown) => worst = Some(more_telling(worst, unknown)),
                },
                _ => worst = Some(more_telling(worst, error)),
            }
        }
        Err(worst.unwrap_or(Error::Address { given: String::new(), reason: "no host is given" }))
    }

    async fn log_in_at(&self, host: &Endpoint) -> Result<Session, Error> {
        let password = self.0.options.password.expose_secret();
        let params = vec![json!(self.0.options.user), json!(password), json!("1.0"), json!(self.0.options.originator)];
        let call = self.prepared("session.login_with_password", params, Repeat::Never);
        let call = Call { asks_for_coordinator: true, ..call };
        let slot = Slot::default();
        match self.link().exchange(&slot, host, None, &call).await {
            Ok(Value::String(secret)) if !secret.is_empty() => {
                tracing::debug!(%host, "logged in");
                Ok(Session { secret: secret.into(), coordinator: host.clone() })
            }
            Ok(_) => Err(Error::Answer { what: call.method, source: Malformed::Shape("a session is not a reference") }),
            Err(Error::Xapi(failure)) => Err(failure.without(password).into()),
            Err(error) => Err(error),
        }
    }

    /// Where `HOST_IS_SLAVE` sends us. The supporter has shown its certificate, so that its word on the coordinator's
    /// counts; hosts before 8.3 give none, and then it must be known from elsewhere.
    fn coordinator_named_by(&self, error: &Error, supporter: &Endpoint) -> Result<Endpoint, Error> {
        let failure = error.failure();
        let address = failure.and_then(|failure: &Failure| failure.params.first());
        let coordinator = Endpoint::parse_with_port(address.map_or("", String::as_str), supporter.port())?;
        match failure.and_then(|failure| failure.coordinator) {
            Some(fingerprint) => self.0.hosts.vouch(coordinator.clone(), fingerprint),
            None if self.0.hosts.accepted(&coordinator).is_err() => {
                return Err(Error::UnknownCoordinator { supporter: supporter.clone(), coordinator });
            }
            None => {}
        }
        Ok(coordinator)
    }

    fn link(&self) -> Link<'_> {
        Link {
            hosts: &self.0.hosts,
            timeouts: &self.0.options.timeouts,
            max_answer: self.0.options.max_answer,
            ids: &self.0.ids,
        }
    }
}

pub(crate) fn decoded<T: DeserializeOwned>(method: &str, value: Value) -> Result<T, Error> {
    serde_json::from_value(value)
        .map_err(|source| Error::Answer { what: method.to_owned(), source: Malformed::Json(source) })
}

fn next_untried(candidates: &[Endpoint], tried: &[Endpoint]) -> Option<Endpoint> {
    candidates.iter().find(|candidate| !tried.contains(candidate)).cloned()
}

/// Of two reasons for no session, the one that a person should see: a host that answers no rather than one that is
/// away.
fn more_telling(first: Option<Error>, second: Error) -> Error {
    match first {
        None | Some(Error::Connect { .. }) => second,
        Some(first) => first,
    }
}
