//! One pool: its certificates looked at, logged in to, followed, its inventory told.

use std::sync::Arc;
use std::time::Duration;

use coffer_model::PoolId;
use coffer_model::names::Named;
use coffer_proto::v1::{PoolAccess, PoolHost, PoolReport};
use coffer_xapi::{Client, ClientOptions, Endpoint, Error, EventHealth, Events, Fingerprint, Inventory, Timeouts};
use secrecy::SecretString;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{BETWEEN_ATTEMPTS, Standing, Surroundings, inventory};
use crate::halt::{Trouble, chain};
use crate::hypervisor::{Hypervisor, XapiPool};

/// How often the certificates of a pool that is followed are looked at, and its hosts learnt anew where these changed.
const LOOK: Duration = Duration::from_secs(10);
/// Changes in a pool come in bursts.
const SETTLE: Duration = Duration::from_millis(500);
/// How long the end of a session may take.
const LOG_OUT: Duration = Duration::from_secs(2);

/// Why a pool cannot be used, and the certificate seen on the way.
struct Seen {
    trouble: Trouble,
    fingerprint: Option<Fingerprint>,
}

impl From<&Error> for Seen {
    fn from(error: &Error) -> Self {
        let fingerprint = match error {
            Error::CertificateChanged { seen, .. } => Some(*seen),
            _ => None,
        };
        let trouble = match error {
            Error::Xapi(failure) if failure.is("SESSION_AUTHENTICATION_FAILED") => Trouble::new(
                "WRONG_PASSWORD",
                "the pool does not accept this user and password",
                "correct the user or the password of the pool",
            ),
            _ => error.into(),
        };
        Self { trouble, fingerprint }
    }
}

impl From<Error> for Seen {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

/// Keeps a pool connected until `stop`, then ends the session.
pub(super) async fn keep(
    id: PoolId,
    access: PoolAccess,
    around: Surroundings,
    standing: watch::Sender<Standing<Arc<dyn Hypervisor>>>,
    stop: CancellationToken,
) {
    let learnt = access.members.iter().filter_map(pin_in).collect();
    let mut keeper = Keeper { id, access, around, standing, stop: stop.clone(), client: None, learnt, trouble: None };
    stop.run_until_cancelled(keeper.work()).await;
    if let Some(client) = keeper.client
        && let Ok(Err(error)) = tokio::time::timeout(LOG_OUT, client.logout()).await
    {
        tracing::debug!(pool = %keeper.id, %error, "the session was not ended");
    }
}

struct Keeper {
    id: PoolId,
    access: PoolAccess,
    around: Surroundings,
    standing: watch::Sender<Standing<Arc<dyn Hypervisor>>>,
    stop: CancellationToken,
    client: Option<Client>,
    /// What the pool last said of its hosts' certificates, here or to another agent.
    learnt: Vec<(Endpoint, Fingerprint)>,
    /// Why it could not be used the last time.
    trouble: Option<Trouble>,
}

/// A host that the pool vouched for. What cannot be read counts as unknown: then nothing is sent to that host.
fn pin_in(host: &PoolHost) -> Option<(Endpoint, Fingerprint)> {
    Some((Endpoint::parse(&host.address).ok()?, host.fingerprint.parse().ok()?))
}

impl Keeper {
    async fn work(&mut self) {
        let mut delays = BETWEEN_ATTEMPTS.delays(rand::random());
        loop {
            match self.connect().await {
                Ok((client, pinned, events)) => {
                    delays.reset();
                    self.trouble = None;
                    tracing::info!(pool = %self.id, "pool is connected");
                    let ended = self.follow(client.clone(), pinned, events).await;
                    self.learnt =
                        client.known_hosts().into_iter().filter_map(|h| Some((h.endpoint, h.fingerprint?))).collect();
                    self.unusable(ended);
                }
                Err(seen) => self.unusable(seen),
            }
            tokio::time::sleep(delays.next().unwrap_or(BETWEEN_ATTEMPTS.max)).await;
        }
    }

    /// Logs in, where a person has said which certificate is right. Else only looks at it and sends nothing.
    async fn connect(&mut self) -> Result<(Client, Fingerprint, Events), Seen> {
        let mut hosts = Vec::with_capacity(self.access.hosts.len());
        for host in &self.access.hosts {
            hosts.push(Endpoint::parse(host)?);
        }
        let Some(first) = hosts.first() else {
            return Err(Error::Address { given: String::new(), reason: "no host is given" }.into());
        };
        if self.access.fingerprint.is_empty() {
            let seen = coffer_xapi::probe(first, Timeouts::default()).await?;
            let trouble = Trouble::new(
                "UNTRUSTED",
                format!("nobody has confirmed the certificate of {first} yet; no password was sent"),
                "compare the fingerprint with the one on the host's console, then set it for the pool",
            );
            return Err(Seen { trouble, fingerprint: Some(seen) });
        }
        let pinned: Fingerprint = self.access.fingerprint.parse()?;
        let password = SecretString::from(self.access.password.as_str());
        let mut options = ClientOptions::new(first.clone(), pinned, &self.access.username, password);
        options.hosts = hosts;
        options.learnt.clone_from(&self.learnt);
        let client = Client::connect(options).await?;
        self.client = Some(client.clone());
        let events = Events::start(&client).await?;
        Ok((client, pinned, events))
    }

    /// Tells what happens to a pool, as long as it is followed; returns why it is no longer.
    async fn follow(&self, client: Client, pinned: Fingerprint, mut events: Events) -> Seen {
        let pool = XapiPool::new(client.clone(), self.around.authority.clone(), self.around.buffers.clone());
        self.standing.send_replace(Standing::Usable(Arc::new(pool)));
        let learnt = Notify::new();
        let telling = tell_inventory(self, &client, pinned, events.clone(), &learnt);
        let looking = look_at_certificates(&client, &learnt);
        let watching = async {
            // Of a pool that is followed: what is wrong with a part of it.
            let mut partly = None;
            let mut looking = std::pin::pin!(looking);
            loop {
                match events.health() {
                    EventHealth::Live => self.report_connected(&events.inventory(), pinned, partly.as_ref()),
                    EventHealth::Stale { error, .. } => self.report_problem(&away(&error)),
                }
                tokio::select! {
                    changed = events.changed() => if let Err(error) = changed { return error.into() },
                    seen = &mut looking => {
                        match seen {
                            Looked::AllWell => partly = None,
                            Looked::Partly(seen) => partly = Some(seen),
                            Looked::Stop(seen) => return seen,
                        }
                        looking.set(look_at_certificates(&client, &learnt));
                    }
                }
            }
        };
        tokio::select! {
            ended = watching => ended,
            ended = telling => ended,
        }
    }

    fn report_connected(&self, inventory: &Inventory, pinned: Fingerprint, partly: Option<&Seen>) {
        let seen = partly.and_then(|seen| seen.fingerprint).unwrap_or(pinned);
        self.report(PoolReport {
            connected: true,
            problem: partly.map(|seen| seen.trouble.to_problem()),
            fingerprint: seen.to_string(),
            pool_uuid: inventory.pool.to_string(),
            ..PoolReport::default()
        });
    }

    fn unusable(&mut self, seen: Seen) {
        // It is tried again for ever: what was said once is not said at every attempt.
        if self.trouble.replace(seen.trouble.clone()).as_ref() != Some(&seen.trouble) {
            tracing::warn!(pool = %self.id, reason = seen.trouble.reason(), "pool cannot be used: {}", seen.trouble);
        }
        self.report_problem(&seen);
        self.standing.send_replace(Standing::Unusable(seen.trouble));
    }

    fn report_problem(&self, seen: &Seen) {
        self.report(PoolReport {
            problem: Some(seen.trouble.to_problem()),
            fingerprint: seen.fingerprint.map(|fingerprint| fingerprint.to_string()).unwrap_or_default(),
            ..PoolReport::default()
        });
    }

    fn report(&self, report: PoolReport) {
        // Of a place that was replaced meanwhile nothing is to be told.
        if !self.stop.is_cancelled() {
            self.around.reports.pool(PoolReport { pool: self.id.name(), ..report });
        }
    }
}

/// Why a pool went away: something that a person has to mend, or something that passes.
fn away(error: &Error) -> Seen {
    let seen = Seen::from(error);
    if !seen.trouble.is_retryable() {
        return seen;
    }
    let trouble = Trouble::new(
        "POOL_UNREACHABLE",
        format!("the pool is away: {}", chain(error)),
        "look whether its hosts are up and can be reached from the agent's machine",
    );
    Seen { trouble: trouble.passing(), ..seen }
}

/// What a look at the certificates of a pool that is followed showed.
enum Looked {
    AllWell,
    /// The confirmed host is not the coordinator and shows another certificate: the rest of the pool can be worked
    /// with.
    Partly(Seen),
    /// The coordinator shows another certificate: nothing more may be said to it.
    Stop(Seen),
}

/// Waits, then looks. Connections that are open stay open when a host gets another certificate, so that an idle pool
/// would be followed on for days.
async fn look_at_certificates(client: &Client, learnt: &Notify) -> Looked {
    tokio::time::sleep(LOOK).await;
    let before = client.known_hosts();
    let looked = match client.look_at_certificates().await {
        Err(error @ Error::CertificateChanged { .. }) => {
            let coordinator = client.coordinator().await;
            let is_coordinator =
                matches!(&error, Error::CertificateChanged { host, .. } if coordinator.as_ref() == Some(host));
            if is_coordinator { Looked::Stop(error.into()) } else { Looked::Partly(error.into()) }
        }
        // What else goes wrong shows in the events.
        Ok(()) | Err(_) => Looked::AllWell,
    };
    if client.known_hosts() != before {
        learnt.notify_one();
    }
    looked
}

/// Tells controllers what a pool holds: once in every session, and when it changes. Returns when it is not followed any
/// more.
async fn tell_inventory(
    keeper: &Keeper,
    client: &Client,
    pinned: Fingerprint,
    mut events: Events,
    learnt: &Notify,
) -> Seen {
    let (id, link) = (&keeper.id, &keeper.around.link);
    let mut sessions = link.sessions();
    let mut told = None;
    let mut delays = BETWEEN_ATTEMPTS.delays(rand::random());
    loop {
        let session = sessions.borrow_and_update().clone();
        let parts = inventory::parts(&id.name(), &events.inventory(), &client.known_hosts(), pinned);
        let now = (session, parts);
        if now.0.is_some() && told.as_ref() != Some(&now) {
            if let Err(status) = link.report_inventory(now.1.clone()).await {
                tracing::warn!(pool = %id, code = ?status.code(), "the inventory was not taken: {}", status.message());
                tokio::time::sleep(delays.next().unwrap_or(BETWEEN_ATTEMPTS.max)).await;
                continue;
            }
            delays.reset();
            told = Some(now);
        }
        tokio::select! {
            changed = events.changed() => if let Err(error) = changed { return error.into() },
            // The sender lives as long as the link.
            _ = sessions.changed() => {}
            () = learnt.notified() => {}
        }
        tokio::time::sleep(SETTLE).await;
    }
}
