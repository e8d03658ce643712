//! What the agent may do at an instant, counted from the last Sync that a controller answered well.
//!
//! A controller gives the tasks of a silent agent away only when it is certain that the agent does nothing any more.
//! The agent's half of that promise: after `authority` nothing irreversible, after `hard_stop` no input or output at
//! all.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coffer_runtime::boottime::BootInstant;
use tokio::sync::watch;

/// The two deadlines of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Nothing irreversible later than this after the last good Sync was sent.
    pub(crate) authority: Duration,
    /// No input or output later than this.
    pub(crate) hard_stop: Duration,
}

/// What is allowed at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Everything.
    Full,
    /// Reading and writing data that nobody sees yet; no change in a pool, no publication, no deletion.
    DataOnly,
    /// Nothing: somebody else may hold the tasks.
    Stopped,
}

/// The last proof that the tasks are ours, and for how long it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof {
    terms: Terms,
    sent: BootInstant,
}

impl Proof {
    /// A proof by a Sync that was sent at `sent`.
    pub(crate) fn new(terms: Terms, sent: BootInstant) -> Self {
        Self { terms, sent }
    }

    /// What it allows at `now`.
    pub(crate) fn standing(&self, now: BootInstant) -> Standing {
        let age = now.saturating_since(self.sent);
        if age >= self.terms.hard_stop {
            Standing::Stopped
        } else if age >= self.terms.authority {
            Standing::DataOnly
        } else {
            Standing::Full
        }
    }
}

/// The current proof, shared by everything that works on tasks. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    proof: Arc<Mutex<Option<Proof>>>,
    changed: Arc<watch::Sender<()>>,
    clock: fn() -> BootInstant,
}

impl Authority {
    /// No proof yet.
    pub(crate) fn new() -> Self {
        Self::with_clock(BootInstant::now)
    }

    fn with_clock(clock: fn() -> BootInstant) -> Self {
        Self { proof: Arc::default(), changed: Arc::new(watch::channel(()).0), clock }
    }

    /// A Sync that was sent at `sent` has been answered well. An older one than the last changes nothing.
    pub(crate) fn renew(&self, terms: Terms, sent: BootInstant) {
        {
            let mut proof = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
            if proof.is_none_or(|current| current.sent <= sent) {
                *proof = Some(Proof::new(terms, sent));
            }
        }
        self.changed.send_replace(());
    }

    /// What is allowed now.
    pub(crate) fn standing(&self) -> Standing {
        let proof = *self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        proof.map_or(Standing::Stopped, |proof| proof.standing((self.clock)()))
    }

    /// Returns once everything is allowed. Call it immediately before each irreversible step. It waits through a
    /// partition; whoever waits is dropped when the tasks are lost.
    pub(crate) async fn full(&self) {
        let mut changed = self.changed.subscribe();
        while self.standing() != Standing::Full {
            // The sender lives in `self`: this fails never, and a failure would only mean another look.
            let _ = changed.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> BootInstant {
        BootInstant::since_boot(Duration::from_millis(millis))
    }

    const TERMS: Terms = Terms { authority: Duration::from_secs(20), hard_stop: Duration::from_secs(120) };

    #[test]
    fn authority_ends_before_input_and_output_do() {
        let proof = Proof::new(TERMS, at(1_000));
        for (now, standing) in [
            (0, Standing::Full),
            (20_999, Standing::Full),
            (21_000, Standing::DataOnly),
            (120_999, Standing::DataOnly),
            (121_000, Standing::Stopped),
        ] {
            assert_eq!(proof.standing(at(now)), standing, "at {now} ms");
        }
    }

    #[test]
    fn without_a_sync_nothing_is_allowed() {
        assert_eq!(Authority::new().standing(), Standing::Stopped);
    }

    #[test]
    fn an_answer_that_arrives_late_does_not_shorten_what_a_later_one_gave() {
        let authority = Authority::with_clock(|| at(25_000));
        authority.renew(TERMS, at(10_000));
        authority.renew(TERMS, at(1_000));
        assert_eq!(authority.standing(), Standing::Full);
    }

    #[tokio::test]
    async fn an_irreversible_step_waits_for_the_next_good_sync() {
        let authority = Authority::with_clock(|| at(100_000));
        authority.renew(TERMS, at(50_000));
        let waiting = tokio::spawn({
            let authority = authority.clone();
            async move { authority.full().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        authority.renew(TERMS, at(99_000));
        waiting.await.unwrap();
    }

    proptest! {
        #[test]
        fn what_is_allowed_only_shrinks_with_time(authority in 0u64..100, more in 0u64..100, one in 0u64..300, two in 0u64..300) {
            let terms = Terms {
                authority: Duration::from_secs(authority),
                hard_stop: Duration::from_secs(authority + more),
            };
            let proof = Proof::new(terms, at(0));
            let rank = |second: u64| match proof.standing(at(second * 1_000)) {
                Standing::Full => 0,
                Standing::DataOnly => 1,
                Standing::Stopped => 2,
            };
            prop_assert!(rank(one.min(two)) <= rank(one.max(two)));
        }
    }
}
