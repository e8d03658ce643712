//! Waiting for a condition, with a deadline: never for an amount of time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longest that anything in a scenario may take before it counts as not happening.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until the answer is `Some`, and returns what is in it. Fails with `what` after two minutes.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut last_error = None;
    while start.elapsed() < PATIENCE {
        match ask().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => last_error = None,
            Err(error) => last_error = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    match last_error {
        Some(error) => Err(error.context(format!("{what} did not happen within {PATIENCE:?}"))),
        None => bail!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// As [`until`], for a plain condition.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    until(what, async || Ok(condition().await?.then_some(()))).await
}
