//! One pool: its certificate looked at, logged in to, followed, its inventory told.

use std::sync::Arc;
use std::time::Duration;

use coffer_model::PoolId;
use coffer_model::names::Named;
use coffer_proto::v1::{PoolAccess, PoolReport};
use coffer_xapi::{Client, ClientOptions, Endpoint, Error, EventHealth, Events, Fingerprint, Timeouts};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{BETWEEN_ATTEMPTS, Standing, Surroundings, inventory};
use crate::halt::Trouble;
use crate::hypervisor::{Hypervisor, XapiPool};
use crate::sync::Link;

/// How often a certificate is looked at that nobody has confirmed yet, and a pool that went away.
const LOOK: Duration = Duration::from_secs(5);
/// Changes in a pool come in bursts.
const SETTLE: Duration = Duration::from_millis(500);
/// How long the end of a session may take.
const LOG_OUT: Duration = Duration::from_secs(2);

/// Why a pool cannot be used, and the certificate seen on the way.
struct Seen {
    trouble: Trouble,
    fingerprint: Option<Fingerprint>,
}

impl From<Error> for Seen {
    fn from(error: Error) -> Self {
        let fingerprint = match &error {
            Error::CertificateChanged { seen, .. } => Some(*seen),
            _ => None,
        };
        let trouble = match &error {
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

/// Keeps a pool connected until `stop`, then ends the session.
pub(super) async fn keep(
    id: PoolId,
    access: PoolAccess,
    around: Surroundings,
    standing: watch::Sender<Standing<Arc<dyn Hypervisor>>>,
    stop: CancellationToken,
) {
    let mut keeper = Keeper { id, access, around, standing, stop: stop.clone(), client: None };
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
}

impl Keeper {
    async fn work(&mut self) {
        let mut delays = BETWEEN_ATTEMPTS.delays(rand::random());
        loop {
            match self.connect().await {
                Ok((client, pinned, events)) => {
                    delays.reset();
                    tracing::info!(pool = %self.id, "pool is connected");
                    self.follow(client, pinned, events).await;
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
        options.hosts = hosts.into_iter().map(|host| (host, pinned)).collect();
        let client = Client::connect(options).await?;
        self.client = Some(client.clone());
        let events = Events::start(&client).await?;
        Ok((client, pinned, events))
    }

    /// Tells what happens to a pool, as long as it is followed.
    async fn follow(&self, client: Client, pinned: Fingerprint, mut events: Events) {
        let pool = XapiPool::new(client, self.around.authority.clone(), self.around.buffers.clone());
        self.standing.send_replace(Standing::Usable(Arc::new(pool)));
        let telling = tell_inventory(self.around.link.clone(), self.id.clone(), events.clone());
        let watching = async {
            loop {
                match events.health() {
                    EventHealth::Live => self.report(PoolReport {
                        connected: true,
                        fingerprint: pinned.to_string(),
                        ..PoolReport::default()
                    }),
                    EventHealth::Stale { reason, .. } => {
                        let seen = self.away(pinned, &reason).await;
                        self.report_problem(&seen);
                    }
                }
                // While it is away nothing may change here but its certificate.
                if let Ok(Err(_)) = tokio::time::timeout(LOOK, events.changed()).await {
                    return;
                }
            }
        };
        tokio::select! {
            () = watching => {}
            () = telling => {}
        }
    }

    /// Why a pool went away: its certificates changed, or something else.
    async fn away(&self, pinned: Fingerprint, reason: &str) -> Seen {
        let mut changed = None;
        for host in self.access.hosts.iter().filter_map(|host| Endpoint::parse(host).ok()) {
            match coffer_xapi::probe(&host, Timeouts::default()).await {
                Ok(seen) if seen == pinned => {
                    changed = None;
                    break;
                }
                Ok(seen) if changed.is_none() => {
                    changed = Some(Error::CertificateChanged { host, expected: pinned, seen })
                }
                Ok(_) | Err(_) => {}
            }
        }
        changed.map_or_else(
            || Seen {
                trouble: Trouble::new(
                    "POOL_UNREACHABLE",
                    format!("the pool is away: {reason}"),
                    "look whether its hosts are up and can be reached from the agent's machine",
                )
                .passing(),
                fingerprint: None,
            },
            Seen::from,
        )
    }

    fn unusable(&self, seen: Seen) {
        tracing::warn!(pool = %self.id, reason = seen.trouble.reason(), "pool cannot be used: {}", seen.trouble);
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

/// Tells controllers what a pool holds: once in every session, and when it changes.
async fn tell_inventory(link: Link, id: PoolId, mut events: Events) {
    let mut sessions = link.sessions();
    let mut told = None;
    let mut delays = BETWEEN_ATTEMPTS.delays(rand::random());
    loop {
        let session = sessions.borrow_and_update().clone();
        let parts = inventory::parts(&id.name(), &events.inventory());
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
            changed = events.changed() => if changed.is_err() { return },
            changed = sessions.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(SETTLE).await;
    }
}
