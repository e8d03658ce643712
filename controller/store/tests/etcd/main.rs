//! The etcd store on real members of etcd: the conformance suite, lost answers, dead and paused members,
//! certificates.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod access;
mod certificates;
mod conformance;
mod failover;
mod leases;
mod lost_answers;
mod members;
mod proxy;
mod watches;

use std::future::Future;
use std::time::Duration;

/// Longest that a test waits for something.
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks again and again until there is something to see.
async fn eventually<T, Look, Seen>(what: &str, mut look: Look) -> T
where
    Look: FnMut() -> Seen,
    Seen: Future<Output = Option<T>>,
{
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what} should have come"))
}
