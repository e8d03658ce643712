//! A lease that is kept alive until it is given up or cannot be kept.
//!
//! Whoever holds something under a lease has to let go of it before the store gives it to somebody else. The time that
//! a lease lives for certain is counted here from the *sending* of the last keep-alive that was answered; the store
//! counts from its arrival, which is later. So the holder knows of the end first, also when it cannot reach the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::error::Error;
use crate::store::{LeaseId, StateStore};

/// What is taken off, as a part of the lease's time, since the clock here may run slower than the store's.
const MARGIN_PART: u32 = 50;
/// How long to wait after a keep-alive that failed, as a part of the lease's time.
const PAUSE_PART: u32 = 20;

/// A lease that is kept alive in the background. Dropped, it is not kept any more and ends by itself.
#[derive(Debug)]
pub struct KeptLease {
    id: LeaseId,
    store: Arc<dyn StateStore>,
    /// Until when it lives for certain; `None`: it is lost.
    certain: watch::Receiver<Option<Instant>>,
    task: JoinHandle<()>,
}

impl KeptLease {
    /// Grants a lease and keeps it. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// As [`StateStore::grant`].
    pub async fn grant(store: Arc<dyn StateStore>, ttl: Duration) -> Result<Self, Error> {
        let sent = Instant::now();
        let lease = store.grant(ttl).await?;
        let (sender, certain) = watch::channel(Some(sent + certain_time(lease.ttl)));
        let task = tokio::spawn(keep(Arc::clone(&store), lease.id, lease.ttl, sent, sender));
        Ok(Self { id: lease.id, store, certain, task })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// True as long as it lives for certain. Once false, it stays so.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.certain.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when the lease is lost: when the store says so, or when its time has passed since the last keep-alive
    /// that is known to have worked.
    pub async fn lost(&self) {
        // The sender goes away only after it has said that the lease is lost.
        drop(self.certain.clone().wait_for(Option::is_none).await);
    }

    /// Ends the lease; its keys go with it.
    ///
    /// # Errors
    /// As [`StateStore::revoke`].
    pub async fn release(self) -> Result<(), Error> {
        self.task.abort();
        self.store.revoke(self.id).await
    }
}

impl Drop for KeptLease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How long after the sending of a keep-alive the lease lives for certain.
fn certain_time(ttl: Duration) -> Duration {
    ttl - ttl / MARGIN_PART
}

async fn keep(
    store: Arc<dyn StateStore>,
    id: LeaseId,
    mut ttl: Duration,
    mut confirmed: Instant,
    certain: watch::Sender<Option<Instant>>,
) {
    let mut next = confirmed + ttl / 3;
    loop {
        let until = confirmed + certain_time(ttl);
        sleep_until(next.min(until)).await;
        let sent = Instant::now();
        match timeout_at(until, store.keep_alive(id)).await {
            // An answer that came, but only was looked at when the time had passed, is too late all the same.
            Ok(Ok(granted)) if Instant::now() < until => {
                (ttl, confirmed, next) = (granted, sent, sent + granted / 3);
                certain.send_replace(Some(confirmed + certain_time(ttl)));
            }
            Ok(Err(error)) if Instant::now() < until && !matches!(error, Error::LeaseNotFound { .. }) => {
                tracing::debug!(%id, %error, "a lease could not be kept alive; trying again");
                next = Instant::now() + ttl / PAUSE_PART;
            }
            outcome => {
                let reason = match outcome {
                    Ok(Err(error)) => error.to_string(),
                    _ => format!("no keep-alive was answered for {ttl:?}"),
                };
                tracing::warn!(%id, reason, "a lease is lost");
                certain.send_replace(None);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failing::FailingStore;
    use crate::{MemoryStore, PutLease, Txn};

    const TTL: Duration = Duration::from_secs(6);

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_kept_until_it_is_released_or_dropped() {
        let store = Arc::new(MemoryStore::new());
        let (released, dropped) =
            (KeptLease::grant(store.clone(), TTL).await.unwrap(), KeptLease::grant(store.clone(), TTL).await.unwrap());
        let txn = Txn::new().put_with("r", "", PutLease::Attach(released.id()));
        store.txn(txn.put_with("d", "", PutLease::Attach(dropped.id()))).await.unwrap();
        tokio::time::sleep(TTL * 10).await;
        assert!(released.is_alive() && dropped.is_alive());
        released.release().await.unwrap();
        assert!(store.get("r").await.unwrap().is_none() && store.get("d").await.unwrap().is_some());
        drop(dropped);
        tokio::time::sleep(TTL + Duration::from_secs(1)).await;
        assert!(store.get("d").await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_cannot_be_confirmed_is_lost_before_the_store_ends_it_and_stays_lost() {
        let memory = Arc::new(MemoryStore::new());
        let store = Arc::new(FailingStore::new(memory.clone()));
        let kept = KeptLease::grant(store.clone(), TTL).await.unwrap();
        memory.txn(Txn::new().put_with("k", "", PutLease::Attach(kept.id()))).await.unwrap();
        tokio::time::sleep(TTL).await;
        store.cut_off(true);
        kept.lost().await;
        assert!(!kept.is_alive());
        assert!(memory.get("k").await.unwrap().is_some(), "the store ended the lease first");
        store.cut_off(false);
        tokio::time::sleep(TTL).await;
        assert!(!kept.is_alive());
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_cut_does_no_harm_and_a_revoked_lease_is_lost_at_once() {
        let memory = Arc::new(MemoryStore::new());
        let store = Arc::new(FailingStore::new(memory.clone()));
        let kept = KeptLease::grant(store.clone(), TTL).await.unwrap();
        store.cut_off(true);
        tokio::time::sleep(TTL / 2).await;
        store.cut_off(false);
        tokio::time::sleep(TTL * 2).await;
        assert!(kept.is_alive());
        let revoked = Instant::now();
        memory.revoke(kept.id()).await.unwrap();
        kept.lost().await;
        assert!(revoked.elapsed() <= TTL / 3);
    }
}
