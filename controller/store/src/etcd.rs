//! A store in an etcd cluster, for several controllers.
//!
//! `etcd-client` speaks the protocol; what it leaves to its users is here: failing over between endpoints
//! (`etcd/cluster.rs`), telling an answer from an outcome that nobody knows (`etcd/failure.rs`), learning whether a
//! transaction took place whose answer was lost (`etcd/marks.rs`), watches that go on elsewhere (`etcd/watch.rs`).
//! Nothing here decides anything: a cluster's word is all there is.
//!
//! Revisions are those of the whole cluster: they may jump when others use it too, but never go back.

mod cluster;
mod failure;
mod keys;
mod leases;
mod marks;
pub mod options;
mod probe;
mod read;
mod transact;
pub mod version;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::time::timeout;

use crate::error::Error;
use crate::store::{Events, KeyValue, Lease, LeaseId, Page, RangeRequest, Revision, StateStore};
use crate::txn::{Txn, TxnOutcome};
use cluster::{Cluster, Troubles};
use failure::{Answer, Failure};
use keys::Keys;
use marks::Marks;
use options::EtcdOptions;

/// A store in an etcd cluster. Clones are the same store.
#[derive(Clone)]
pub struct EtcdStore {
    cluster: Arc<Cluster>,
    keys: Keys,
    marks: Arc<Marks>,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EtcdStore")
            .field("endpoints", &self.cluster.names())
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Connects to a cluster, and sees that it serves. Endpoints that do not answer, versions with known bugs and
    /// alarms are warned of.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::Credential`] when the options cannot be used, [`Error::Refused`] when the
    /// members and we do not accept each other's certificates, [`Error::Unavailable`] when no majority of the members
    /// answers.
    pub async fn connect(options: EtcdOptions) -> Result<Self, Error> {
        options.check()?;
        let cluster = Cluster::new(&options).await?;
        let keys = Keys::new(&options.prefix);
        look_around(&cluster, &options).await?;
        let revision = read::newest(&cluster, &keys).await?;
        tracing::info!(%options, %revision, "the state store is in etcd");
        let marks = Arc::new(Marks::new(keys.clone()));
        Ok(Self { cluster: Arc::new(cluster), keys, marks })
    }
}

/// Asks each member for itself, warns of what should be mended, and lets one serve that answers.
async fn look_around(cluster: &Cluster, options: &EtcdOptions) -> Result<(), Error> {
    let patience = cluster.timeouts().request;
    let asked = cluster.each().map(|(index, endpoint, mut client)| async move {
        let answer = match timeout(patience, client.status()).await {
            Ok(answer) => answer.map_err(Failure::from),
            Err(_) => Err(Failure::silence(patience)),
        };
        let answer = match answer {
            Err(Failure::Lost(text)) => Err(probe::refusal(options, endpoint).await.unwrap_or(Failure::Lost(text))),
            answer => answer,
        };
        (index, endpoint, answer)
    });
    let (mut troubles, mut clusters, mut first) = (Troubles::default(), BTreeMap::new(), None);
    for (index, endpoint, answer) in join_all(asked).await {
        match answer {
            Ok(status) => {
                first.get_or_insert(index);
                clusters.entry(status.header().map_or(0, etcd_client::ResponseHeader::cluster_id)).or_insert(endpoint);
                if let Some(warning) = version::warning(status.version()) {
                    tracing::warn!(endpoint, "etcd: {warning}");
                }
                for error in status.errors() {
                    tracing::warn!(endpoint, error, "etcd: the member reports a trouble");
                }
            }
            Err(failure) => {
                tracing::warn!(endpoint, reason = failure.text(), "etcd: the endpoint does not answer");
                troubles.note(endpoint, &failure);
            }
        }
    }
    let Some(first) = first else { return Err(troubles.into_error(patience)) };
    if clusters.len() > 1 {
        let endpoints = clusters.into_values().collect::<Vec<_>>().join(" and ");
        return Err(Error::Invalid {
            reason: format!("the etcd endpoints {endpoints} belong to different clusters; give those of one cluster"),
        });
    }
    cluster.prefer(first);
    Ok(())
}

/// The error for an answer that has no special meaning where it was given.
fn refusal(cluster: &Cluster, answer: Answer) -> Error {
    let names = cluster.names();
    match answer {
        Answer::Full => Error::Full {
            reason: format!(
                "etcd at {names} has reached its quota; compact its history, defragment its members, then disarm the alarm"
            ),
        },
        Answer::Denied(reason) => Error::Refused {
            reason: format!(
                "{names}: {reason}; let the user of the client certificate read and write below the prefix"
            ),
        },
        answer => Error::Invalid { reason: format!("etcd at {names} does not do this: {answer:?}") },
    }
}

#[async_trait]
impl StateStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        read::get(&self.cluster, &self.keys, key).await
    }

    async fn range(&self, request: RangeRequest) -> Result<Page, Error> {
        read::range(&self.cluster, &self.keys, &request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        transact::transact(&self.cluster, &self.keys, &self.marks, &txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        leases::grant(&self.cluster, ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        leases::keep_alive(&self.cluster, lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        leases::revoke(&self.cluster, lease).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, Error> {
        watch::follow(Arc::clone(&self.cluster), self.keys.clone(), prefix, from).await
    }
}
