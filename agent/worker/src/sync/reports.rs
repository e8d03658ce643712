//! What is seen of pools and remotes, until a controller has been told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use coffer_proto::v1::{PoolReport, RemoteReport};
use tokio::sync::Notify;

/// The latest report on each pool and remote. Clones are handles to the same ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reports(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    latest: Mutex<Latest>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Latest {
    version: u64,
    pools: BTreeMap<String, (u64, PoolReport)>,
    remotes: BTreeMap<String, (u64, RemoteReport)>,
}

/// What changed since a version.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct News {
    /// Give this the next time, once these have been told.
    pub(crate) version: u64,
    /// Reports on pools.
    pub(crate) pools: Vec<PoolReport>,
    /// Reports on remotes.
    pub(crate) remotes: Vec<RemoteReport>,
}

impl Reports {
    /// Replaces the report on a pool.
    pub(crate) fn pool(&self, report: PoolReport) {
        self.change(|latest| put(&mut latest.pools, latest.version + 1, report.pool.clone(), report));
    }

    /// Replaces the report on a remote.
    pub(crate) fn remote(&self, report: RemoteReport) {
        self.change(|latest| put(&mut latest.remotes, latest.version + 1, report.remote.clone(), report));
    }

    /// Forgets a pool that is not configured any more.
    pub(crate) fn forget_pool(&self, pool: &str) {
        self.change(|latest| {
            latest.pools.remove(pool);
            false
        });
    }

    /// Forgets a remote that is not configured any more.
    pub(crate) fn forget_remote(&self, remote: &str) {
        self.change(|latest| {
            latest.remotes.remove(remote);
            false
        });
    }

    /// What changed since a version; everything since 0.
    pub(crate) fn since(&self, version: u64) -> News {
        let latest = self.0.latest.lock().unwrap_or_else(PoisonError::into_inner);
        News { version: latest.version, pools: newer(&latest.pools, version), remotes: newer(&latest.remotes, version) }
    }

    /// Returns when something changed since the last time.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn change(&self, change: impl FnOnce(&mut Latest) -> bool) {
        let mut latest = self.0.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if change(&mut latest) {
            latest.version += 1;
            self.0.changed.notify_one();
        }
    }
}

fn put<T: PartialEq>(place: &mut BTreeMap<String, (u64, T)>, version: u64, name: String, report: T) -> bool {
    if place.get(&name).is_some_and(|(_, known)| *known == report) {
        return false;
    }
    place.insert(name, (version, report));
    true
}

fn newer<T: Clone>(reports: &BTreeMap<String, (u64, T)>, version: u64) -> Vec<T> {
    reports.values().filter(|(changed, _)| *changed > version).map(|(_, report)| report.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_told_again() {
        let reports = Reports::default();
        let pool = |connected| PoolReport { pool: "pools/lab".into(), connected, ..PoolReport::default() };
        let remote = RemoteReport { remote: "remotes/nas".into(), ready: true, ..RemoteReport::default() };
        reports.pool(pool(false));
        reports.remote(remote.clone());
        let first = reports.since(0);
        assert_eq!((first.pools.len(), first.remotes.len()), (1, 1));
        reports.remote(remote);
        reports.pool(pool(true));
        let second = reports.since(first.version);
        assert_eq!((second.pools, second.remotes), (vec![pool(true)], vec![]));
        assert_eq!(reports.since(second.version).pools, []);
        reports.forget_pool("pools/lab");
        assert_eq!(reports.since(0).pools, []);
    }
}
