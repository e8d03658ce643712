//! Retrying: named policies, and one loop that follows them.
//!
//! The only file that knows the `backoff` crate, which serves as arithmetic only: waiting is done on tokio's clock (so
//! that paused time works in tests) and the jitter is ours, from a seed (so that simulations repeat).

use std::fmt;
use std::future::Future;
use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often, how fast and how long something is tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Wait before the second attempt.
    pub initial: Duration,
    /// Longest wait between two attempts; waits double until they reach it.
    pub max: Duration,
    /// Share of each wait that is left to chance, from 0 (none) to 1: a wait `w` becomes one of `w·(1-jitter)..=w`.
    pub jitter: f64,
    /// No attempt begins later than this after the first one began. `None`: never give up for time.
    pub give_up_after: Option<Duration>,
    /// Most attempts, the first included. `None`: as many as it takes.
    pub attempts: Option<u32>,
}

impl Policy {
    /// Something that must be reached sooner or later: a controller, the events of a pool. Never gives up.
    pub const RECONNECT: Self = Self {
        initial: Duration::from_millis(200),
        max: Duration::from_secs(30),
        jitter: 0.5,
        give_up_after: None,
        attempts: None,
    };

    /// A request that a person or a step waits for; gives up after half a minute.
    pub const REQUEST: Self = Self {
        initial: Duration::from_millis(100),
        max: Duration::from_secs(3),
        jitter: 0.5,
        give_up_after: Some(Duration::from_secs(30)),
        attempts: None,
    };

    /// Part of a transfer: worth patience, because hours of work stand behind it; gives up after ten minutes.
    pub const TRANSFER: Self = Self {
        initial: Duration::from_millis(500),
        max: Duration::from_secs(30),
        jitter: 0.5,
        give_up_after: Some(Duration::from_secs(600)),
        attempts: None,
    };

    /// A transaction of the store that lost against another one, or whose outcome is not known.
    pub const CONFLICT: Self = Self {
        initial: Duration::from_millis(2),
        max: Duration::from_millis(250),
        jitter: 1.0,
        give_up_after: Some(Duration::from_secs(20)),
        attempts: Some(50),
    };

    /// The same policy with another bound on time.
    #[must_use]
    pub const fn giving_up_after(self, limit: Duration) -> Self {
        Self { give_up_after: Some(limit), ..self }
    }

    /// The same policy with another bound on attempts.
    #[must_use]
    pub const fn with_attempts(self, attempts: u32) -> Self {
        Self { attempts: Some(attempts), ..self }
    }

    /// The waits between attempts, without end. The same seed gives the same waits.
    #[must_use]
    pub fn delays(&self, seed: u64) -> Delays {
        let backoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(self.initial)
            .with_max_interval(self.max)
            .with_multiplier(2.0)
            .with_randomization_factor(0.0)
            .with_max_elapsed_time(None)
            .build();
        Delays { backoff, max: self.max, jitter: self.jitter.clamp(0.0, 1.0), random: StdRng::seed_from_u64(seed) }
    }
}

/// Waits of a [`Policy`], one after the other.
pub struct Delays {
    backoff: ExponentialBackoff,
    max: Duration,
    jitter: f64,
    random: StdRng,
}

impl Delays {
    /// Begins again with the shortest wait; to be called after a success of something that is repeated for ever.
    pub fn reset(&mut self) {
        self.backoff.reset();
    }
}

impl fmt::Debug for Delays {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Delays").field("max", &self.max).field("jitter", &self.jitter).finish_non_exhaustive()
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.backoff.next_backoff().unwrap_or(self.max).min(self.max);
        let kept = 1.0 - self.jitter * self.random.random::<f64>();
        Some(wait.mul_f64(kept))
    }
}

/// Why [`retry`] ended without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped<E> {
    /// The token was cancelled; an attempt that was under way was dropped.
    Cancelled,
    /// The last attempt failed, and the error is not retryable or the policy gives up.
    Failed {
        /// Error of the last attempt.
        error: E,
        /// How many attempts were made.
        attempts: u32,
    },
}

impl<E> Stopped<E> {
    /// The error of the last attempt, or what `cancelled` makes of a cancellation.
    pub fn into_error(self, cancelled: impl FnOnce() -> E) -> E {
        match self {
            Self::Cancelled => cancelled(),
            Self::Failed { error, .. } => error,
        }
    }
}

impl<E> fmt::Display for Stopped<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => formatter.write_str("cancelled"),
            Self::Failed { attempts: 1, .. } => formatter.write_str("failed"),
            Self::Failed { attempts, .. } => write!(formatter, "failed after {attempts} attempts"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Stopped<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Cancelled => None,
            Self::Failed { error, .. } => Some(error),
        }
    }
}

/// Calls `op` until it succeeds, fails for good (`is_retryable` says no), the policy gives up or `cancel` is cancelled.
///
/// A cancellation drops the attempt under way at its next await: `op` must be cancellation-safe. A deadline for one
/// attempt is the business of `op`.
///
/// # Errors
/// [`Stopped`], with the error of the last attempt.
pub async fn retry<T, E, F>(
    policy: Policy,
    cancel: &CancellationToken,
    is_retryable: impl FnMut(&E) -> bool,
    op: impl FnMut() -> F,
) -> Result<T, Stopped<E>>
where
    F: Future<Output = Result<T, E>>,
    E: fmt::Display,
{
    retry_seeded(policy, rand::random(), cancel, is_retryable, op).await
}

/// [`retry`] with a chosen seed of the jitter, for simulations.
///
/// # Errors
/// As [`retry`].
pub async fn retry_seeded<T, E, F>(
    policy: Policy,
    seed: u64,
    cancel: &CancellationToken,
    mut is_retryable: impl FnMut(&E) -> bool,
    mut op: impl FnMut() -> F,
) -> Result<T, Stopped<E>>
where
    F: Future<Output = Result<T, E>>,
    E: fmt::Display,
{
    let begin = Instant::now();
    let mut delays = policy.delays(seed);
    let mut attempts = 0_u32;
    loop {
        attempts = attempts.saturating_add(1);
        let Some(result) = cancel.run_until_cancelled(op()).await else {
            return Err(Stopped::Cancelled);
        };
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let wait = delays.next().unwrap_or(policy.max);
        let too_late = policy.give_up_after.is_some_and(|limit| begin.elapsed() + wait > limit);
        let too_often = policy.attempts.is_some_and(|most| attempts >= most);
        if too_late || too_often || !is_retryable(&error) {
            return Err(Stopped::Failed { error, attempts });
        }
        tracing::debug!(attempt = attempts, wait_ms = wait.as_millis(), %error, "will try again");
        if cancel.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return Err(Stopped::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const PLAIN: Policy = Policy {
        initial: Duration::from_millis(200),
        max: Duration::from_secs(30),
        jitter: 0.0,
        give_up_after: None,
        attempts: None,
    };

    #[test]
    fn waits_double_until_they_reach_the_longest_and_stay_there() {
        let waits: Vec<u128> = PLAIN.delays(1).take(10).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
    }

    #[test]
    fn jitter_only_shortens_and_repeats_with_its_seed() {
        let policy = Policy { jitter: 0.5, ..PLAIN };
        let waits: Vec<Duration> = policy.delays(7).take(20).collect();
        assert_eq!(waits, policy.delays(7).take(20).collect::<Vec<_>>());
        assert_ne!(waits, policy.delays(8).take(20).collect::<Vec<_>>());
        for (wait, whole) in waits.iter().zip(PLAIN.delays(7)) {
            assert!(*wait <= whole && *wait >= whole / 2, "{wait:?} of {whole:?}");
        }
    }

    #[test]
    fn waits_begin_anew_after_a_reset() {
        let mut delays = PLAIN.delays(1);
        assert_eq!(delays.nth(5), Some(Duration::from_millis(6400)));
        delays.reset();
        assert_eq!(delays.next(), Some(Duration::from_millis(200)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_passing_failure_is_tried_again_until_it_succeeds() {
        let calls = Cell::new(0_u32);
        let result: Result<u32, Stopped<&str>> = retry(
            Policy::REQUEST,
            &CancellationToken::new(),
            |_| true,
            || {
                calls.set(calls.get() + 1);
                let call = calls.get();
                async move { if call < 4 { Err("not yet") } else { Ok(call) } }
            },
        )
        .await;
        assert_eq!(result, Ok(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_for_good_is_not_tried_again() {
        let result: Result<(), _> =
            retry(Policy::RECONNECT, &CancellationToken::new(), |_| false, || async { Err("no such thing") }).await;
        assert_eq!(result, Err(Stopped::Failed { error: "no such thing", attempts: 1 }));
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_begins_after_the_policy_has_given_up() {
        let begin = Instant::now();
        let last = Cell::new(begin);
        let limit = Duration::from_secs(10);
        let result: Result<(), _> = retry(
            PLAIN.giving_up_after(limit),
            &CancellationToken::new(),
            |_| true,
            || {
                last.set(Instant::now());
                async { Err("down") }
            },
        )
        .await;
        assert_eq!(result, Err(Stopped::Failed { error: "down", attempts: 6 }));
        assert!(last.get() - begin <= limit);
        let result: Result<(), _> =
            retry(PLAIN.with_attempts(3), &CancellationToken::new(), |_| true, || async { Err("down") }).await;
        assert_eq!(result, Err(Stopped::Failed { error: "down", attempts: 3 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancellation_ends_a_wait_and_an_attempt_at_once() {
        let cancel = CancellationToken::new();
        let begin = Instant::now();
        let stop = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            cancel.cancel();
        };
        let (waiting, hanging, ()) = tokio::join!(
            retry(PLAIN, &cancel, |_: &&str| true, || async { Err::<(), _>("down") }),
            retry(PLAIN, &cancel, |_: &&str| true, std::future::pending::<Result<(), &str>>),
            stop,
        );
        assert_eq!((waiting, hanging), (Err(Stopped::Cancelled), Err(Stopped::Cancelled)));
        assert_eq!(begin.elapsed(), Duration::from_millis(50));
    }
}
