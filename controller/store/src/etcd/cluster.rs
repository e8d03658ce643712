//! The members of a cluster, one connection each, and the failing over between them.
//!
//! The client library keeps one channel over all endpoints and gives every n-th request to a dead one. Here one member
//! serves until it fails; then the next one does, for all callers and watches.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::failure::{Answer, Failure};
use super::options::{EtcdOptions, EtcdTimeouts};
use crate::error::Error;

/// How long to wait when every member was tried in vain.
const PAUSE: Duration = Duration::from_millis(100);

/// A member and the connection to it.
struct Member {
    endpoint: String,
    client: Mutex<Connection>,
}

#[derive(Clone)]
struct Connection {
    client: Client,
    /// Counts the connections, so that of many calls that fail on one, one replaces it.
    number: u64,
}

/// All members.
pub(super) struct Cluster {
    members: Vec<Member>,
    /// The one that serves.
    current: watch::Sender<usize>,
    options: ConnectOptions,
    timeouts: EtcdTimeouts,
}

/// What became of a request that may be sent once only.
pub(super) enum Sent<T> {
    /// It was done.
    Done(T),
    /// The cluster refused it; nothing was done.
    Answer(Answer),
    /// It may have been done, or may yet be.
    Lost(String),
}

/// Why members did not serve, for the message that names them.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<String, Failure>);

impl Troubles {
    pub(super) fn note(&mut self, endpoint: &str, failure: &Failure) {
        self.0.insert(endpoint.to_owned(), failure.clone());
    }

    /// True when this many members were tried and an operator has to mend something for each.
    pub(super) fn all_refused(&self, members: usize) -> bool {
        self.0.len() == members && self.0.values().all(|failure| matches!(failure, Failure::Refused(_)))
    }

    /// The error when the call is given up and nothing was done.
    pub(super) fn into_error(self, after: Duration) -> Error {
        let each = self.0.iter().map(|(endpoint, failure)| format!("{endpoint}: {}", failure.text()));
        let each = each.collect::<Vec<_>>().join("; ");
        if self.all_refused(self.0.len()) && !self.0.is_empty() {
            return Error::Refused { reason: each };
        }
        Error::Unavailable {
            reason: format!(
                "no endpoint of etcd served within {after:?} ({each}); check that more than half of its members run and \
                 reach each other"
            ),
        }
    }
}

impl Cluster {
    /// Connects to nothing yet.
    pub(super) async fn new(options: &EtcdOptions) -> Result<Self, Error> {
        let client_options = options.client()?;
        let mut members = Vec::with_capacity(options.endpoints.len());
        for endpoint in &options.endpoints {
            let client = open(endpoint, &client_options).await.map_err(|failure| Error::Invalid {
                reason: format!(
                    "etcd's endpoint {endpoint} cannot be used with these certificates: {}",
                    failure.text()
                ),
            })?;
            let client = Mutex::new(Connection { client, number: 0 });
            members.push(Member { endpoint: endpoint.clone(), client });
        }
        let timeouts = options.timeouts.clone();
        Ok(Self { members, current: watch::Sender::new(0), options: client_options, timeouts })
    }

    /// All endpoints, as messages name them.
    pub(super) fn names(&self) -> String {
        self.members.iter().map(|member| member.endpoint.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Each endpoint with the connection to it.
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, &str, Client)> {
        let members = self.members.iter().enumerate();
        members.map(|(index, member)| (index, member.endpoint.as_str(), member.connection().client))
    }

    pub(super) fn timeouts(&self) -> &EtcdTimeouts {
        &self.timeouts
    }

    /// When a call that begins now is given up.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeouts.call
    }

    /// Told when another member serves.
    pub(super) fn serving(&self) -> watch::Receiver<usize> {
        self.current.subscribe()
    }

    /// The endpoint with this number, and the connection to it.
    pub(super) fn member(&self, index: usize) -> (&str, Client) {
        let member = &self.members[index % self.members.len()];
        (&member.endpoint, member.connection().client)
    }

    /// Lets this member serve, if it is there.
    pub(super) fn prefer(&self, index: usize) {
        self.current.send_replace(index % self.members.len());
    }

    /// Lets the next member serve, unless this one does no longer.
    pub(super) fn leave(&self, index: usize, failure: &Failure) {
        let next = (index + 1) % self.members.len();
        let moved = self.current.send_if_modified(|current| {
            let moves = *current == index && next != index;
            if moves {
                *current = next;
            }
            moves
        });
        if moved {
            let (from, to) = (&self.members[index].endpoint, &self.members[next].endpoint);
            tracing::info!(from, to, reason = failure.text(), "etcd: going on at another endpoint");
        }
    }

    /// A request that may be repeated without harm, until a member answers it.
    pub(super) async fn repeat<T, Request, Response>(
        &self,
        deadline: Instant,
        request: Request,
    ) -> Result<Result<T, Answer>, Error>
    where
        Request: Fn(Client) -> Response,
        Response: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut troubles = Troubles::default();
        loop {
            match self.send(deadline, deadline, &mut troubles, &request).await? {
                Sent::Done(value) => return Ok(Ok(value)),
                Sent::Answer(answer) => return Ok(Err(answer)),
                Sent::Lost(_) => sleep(PAUSE).await,
            }
        }
    }

    /// A request that may be done once only: it is given to another member only when it was certainly not done, and to
    /// none after `last_start`, so that there is time left for an answer.
    pub(super) async fn once<T, Request, Response>(
        &self,
        last_start: Instant,
        deadline: Instant,
        request: Request,
    ) -> Result<Sent<T>, Error>
    where
        Request: Fn(Client) -> Response,
        Response: Future<Output = Result<T, etcd_client::Error>>,
    {
        self.send(last_start, deadline, &mut Troubles::default(), &request).await
    }

    async fn send<T, Request, Response>(
        &self,
        last_start: Instant,
        deadline: Instant,
        troubles: &mut Troubles,
        request: &Request,
    ) -> Result<Sent<T>, Error>
    where
        Request: Fn(Client) -> Response,
        Response: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut tried = 0;
        loop {
            if Instant::now() >= last_start {
                return Err(self.give_up(std::mem::take(troubles)));
            }
            let index = *self.current.borrow();
            let member = &self.members[index];
            let connection = member.connection();
            let patience = self.timeouts.request.min(deadline.saturating_duration_since(Instant::now()));
            let failure = match timeout(patience, request(connection.client)).await {
                Ok(Ok(value)) => return Ok(Sent::Done(value)),
                Ok(Err(error)) => Failure::from(error),
                Err(_) => {
                    // The connection may lead nowhere, and say so only after a quarter of an hour.
                    self.replace(member, connection.number).await;
                    Failure::silence(patience)
                }
            };
            if let Failure::Answer(answer) = failure {
                return Ok(Sent::Answer(answer));
            }
            tracing::debug!(endpoint = member.endpoint, reason = failure.text(), "a request to etcd failed");
            troubles.note(&member.endpoint, &failure);
            self.leave(index, &failure);
            if let Failure::Lost(text) = failure {
                return Ok(Sent::Lost(format!("{}: {text}", member.endpoint)));
            }
            tried += 1;
            if tried % self.members.len() == 0 {
                if troubles.all_refused(self.members.len()) {
                    return Err(self.give_up(std::mem::take(troubles)));
                }
                sleep(PAUSE).await;
            }
        }
    }

    /// The error for a call that is given up and that did nothing.
    pub(super) fn give_up(&self, troubles: Troubles) -> Error {
        if troubles.0.is_empty() {
            let reason = format!("there was no time left to ask etcd at {}", self.names());
            return Error::Unavailable { reason };
        }
        troubles.into_error(self.timeouts.call)
    }

    async fn replace(&self, member: &Member, number: u64) {
        let Ok(client) = open(&member.endpoint, &self.options).await else { return };
        let mut connection = member.client.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.number == number {
            *connection = Connection { client, number: number + 1 };
        }
    }
}

impl Member {
    fn connection(&self) -> Connection {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Prepares a connection; it is made when it is first used.
async fn open(endpoint: &str, options: &ConnectOptions) -> Result<Client, Failure> {
    Client::connect([endpoint], Some(options.clone())).await.map_err(Failure::from)
}
