//! Waiting for what must come.

use std::future::Future;
use std::time::Duration;

/// Longest that a test waits for something.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Looks again and again until there is something to see.
pub(crate) async fn eventually<T, Look, Seen>(what: &str, mut look: Look) -> T
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
