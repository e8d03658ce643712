//! Marks: how to tell whether a transaction took place when its answer was lost.
//!
//! A mark is a key that only one transaction at a time writes. The transaction requires that the mark has the revision
//! that it is known to have, and writes an id of its own there, together with all else. When no answer comes, one more
//! transaction looks: if the id is there, the first one took place, at the mark's revision. If not, the mark is written
//! in the same step, so that the first one cannot take place any more, wherever it still lingers; then it may be sent
//! anew. So a transaction takes place once or not at all, and its caller learns which.
//!
//! Marks are used again and again. They lie under a lease, so that those of a program that is gone go too. Only marks
//! that are younger than half of it are used; one that is gone all the same is noticed, as its revision differs.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::cluster::{Cluster, Sent};
use super::failure::Answer;
use super::keys::Keys;
use super::leases::new_id;
use crate::error::Error;

/// How long marks outlive the program that wrote them.
const LEASE: Duration = Duration::from_secs(60 * 60);
/// How long they are used.
const USE: Duration = Duration::from_secs(30 * 60);
/// Most transactions under way at once, and thus most marks.
const MOST: usize = 64;

/// The marks of this program.
pub(super) struct Marks {
    keys: Keys,
    /// Names this program among all that use the store.
    writer: String,
    free: Mutex<Vec<Mark>>,
    permits: Semaphore,
    lease: tokio::sync::Mutex<Lease>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    id: i64,
    until: Option<Instant>,
    /// The number of the next mark.
    next: u64,
}

/// A mark that no transaction uses. When it is dropped, it is never used again: what was sent with it may still come.
#[derive(Debug)]
pub(super) struct Mark {
    key: Vec<u8>,
    revision: i64,
    until: Instant,
}

/// A mark, and the right to use it.
#[derive(Debug)]
pub(super) struct Taken<'marks> {
    mark: Mark,
    id: String,
    _permit: SemaphorePermit<'marks>,
}

/// What became of a transaction whose answer was lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It took place, at this revision.
    Done(i64),
    /// It did not, and never will.
    NotDone,
    /// The mark is gone, so nobody can tell.
    Unknown,
}

impl Marks {
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            keys,
            writer: format!("{:016x}", rand::random::<u64>()),
            free: Mutex::default(),
            permits: Semaphore::new(MOST),
            lease: tokio::sync::Mutex::new(Lease { id: 0, until: None, next: 0 }),
        }
    }

    /// Takes a mark for one transaction.
    pub(super) async fn take(&self, cluster: &Cluster, deadline: Instant) -> Result<Taken<'_>, Error> {
        let waiting = tokio::time::timeout_at(deadline, self.permits.acquire());
        let permit = match waiting.await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => {
                let reason = format!("{MOST} transactions wait for etcd at {} already", cluster.names());
                return Err(Error::Unavailable { reason });
            }
        };
        let mark = match self.free() {
            Some(mark) => mark,
            None => self.create(cluster, deadline).await?,
        };
        Ok(Taken { mark, id: format!("{:032x}", rand::random::<u128>()), _permit: permit })
    }

    fn free(&self) -> Option<Mark> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        std::iter::from_fn(|| free.pop()).find(|mark| mark.until > now)
    }

    /// A new mark. Nothing is lost when an answer is: what was made then is never used.
    async fn create(&self, cluster: &Cluster, deadline: Instant) -> Result<Mark, Error> {
        loop {
            let (lease, until, number) = self.lease(cluster, deadline).await?;
            let key = self.keys.mark(&self.writer, number);
            let put = |mut client: etcd_client::Client| {
                let key = key.clone();
                async move { client.put(key, "", Some(PutOptions::new().with_lease(lease))).await }
            };
            match cluster.once(deadline, deadline, put).await? {
                Sent::Done(response) => {
                    let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
                    return Ok(Mark { key, revision, until });
                }
                Sent::Answer(Answer::LeaseNotFound) => self.lease.lock().await.until = None,
                Sent::Answer(answer) => return Err(super::refusal(cluster, answer)),
                Sent::Lost(reason) if Instant::now() >= deadline => return Err(Error::Unavailable { reason }),
                Sent::Lost(_) => {}
            }
        }
    }

    async fn lease(&self, cluster: &Cluster, deadline: Instant) -> Result<(i64, Instant, u64), Error> {
        let mut lease = self.lease.lock().await;
        let now = Instant::now();
        let until = match lease.until.filter(|until| *until > now) {
            Some(until) => until,
            None => {
                let id = new_id();
                let ttl = i64::try_from(LEASE.as_secs()).unwrap_or(i64::MAX);
                let grant = |mut client: etcd_client::Client| async move {
                    client.lease_grant(ttl, Some(LeaseGrantOptions::new().with_id(id))).await.map(drop)
                };
                match cluster.repeat(deadline, grant).await? {
                    Ok(()) | Err(Answer::LeaseExists) => {}
                    Err(answer) => return Err(super::refusal(cluster, answer)),
                }
                lease.id = id;
                *lease.until.insert(now + USE)
            }
        };
        lease.next += 1;
        Ok((lease.id, until, lease.next))
    }

    /// What became of the transaction that was sent with this mark. May be asked again and again.
    pub(super) async fn resolve(
        &self,
        cluster: &Cluster,
        deadline: Instant,
        taken: &mut Taken<'_>,
    ) -> Result<Verdict, Error> {
        let (key, id) = (&taken.mark.key, &taken.id);
        let look = |mut client: etcd_client::Client| {
            let blocked = TxnOp::put(key.clone(), "", Some(PutOptions::new().with_ignore_lease()));
            let txn = Txn::new()
                .when([Compare::value(key.clone(), CompareOp::Equal, id.clone())])
                .and_then([TxnOp::get(key.clone(), Some(GetOptions::new()))])
                .or_else([blocked]);
            async move { client.txn(txn).await }
        };
        let response = match cluster.repeat(deadline, look).await? {
            Ok(response) => response,
            Err(Answer::KeyNotFound) => return Ok(Verdict::Unknown),
            Err(answer) => return Err(super::refusal(cluster, answer)),
        };
        if !response.succeeded() {
            taken.mark.revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
            return Ok(Verdict::NotDone);
        }
        let found = response.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(mut response) => response.take_kvs().pop(),
            _ => None,
        });
        let Some(found) = found else { return Ok(Verdict::Unknown) };
        taken.mark.revision = found.mod_revision();
        Ok(Verdict::Done(found.mod_revision()))
    }

    /// Lets another transaction use the mark. Only when it is certain what became of the one before.
    pub(super) fn give_back(&self, taken: Taken<'_>) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(taken.mark);
    }
}

impl Taken<'_> {
    /// Required by the transaction: that the mark is as it was left.
    pub(super) fn compare(&self) -> Compare {
        Compare::mod_revision(self.mark.key.clone(), CompareOp::Equal, self.mark.revision)
    }

    /// Written by the transaction.
    pub(super) fn put(&self) -> TxnOp {
        TxnOp::put(self.mark.key.clone(), self.id.clone(), Some(PutOptions::new().with_ignore_lease()))
    }

    /// Read when the transaction does not take place.
    pub(super) fn get(&self) -> TxnOp {
        TxnOp::get(self.mark.key.clone(), Some(GetOptions::new()))
    }

    /// The transaction took place at this revision.
    pub(super) fn written(&mut self, revision: i64) {
        self.mark.revision = revision;
    }

    /// True when the mark is as it was left: then it was not the mark that a transaction failed at.
    pub(super) fn is_intact(&self, found: Option<&etcd_client::KeyValue>) -> bool {
        found.is_some_and(|found| found.mod_revision() == self.mark.revision)
    }
}
