//! The one writer of a local store: takes commands in order, plans each on the state, makes it durable, then visible.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::state::{Delta, State};
use crate::store::{Lease, LeaseId, Revision};
use crate::txn::{Txn, TxnOutcome};

/// Where a writer makes its steps durable.
pub(crate) trait Journal: Send + 'static {
    /// Makes a step durable. Any error means that the store can go no further.
    fn commit(&mut self, delta: &Delta) -> Result<(), Error>;
}

/// What a writer is asked for.
#[derive(Debug)]
pub(crate) enum Command {
    Txn(Txn),
    Grant(Duration),
    KeepAlive(LeaseId),
    Revoke(LeaseId),
    /// End the leases whose time is over.
    Expire,
    Close,
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum Reply {
    Txn(TxnOutcome),
    Granted(Lease),
    KeptAlive(Duration),
    Done,
}

/// How far the store has come, for those who wait for more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) revision: Revision,
    pub(crate) closed: Option<Error>,
}

/// What readers and the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: RwLock<State>,
    pub(crate) head: watch::Sender<Head>,
    /// When the next lease ends.
    pub(crate) next_expiry: watch::Sender<Option<Instant>>,
}

impl Shared {
    pub(crate) fn new(state: State) -> Arc<Self> {
        let head = Head { revision: state.revision(), closed: None };
        Arc::new(Self {
            state: RwLock::new(state),
            head: watch::Sender::new(head),
            next_expiry: watch::Sender::new(None),
        })
    }

    /// The committed state, to read. A panic elsewhere cannot have left it half changed: commits do not panic.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses when the store is closed or broken.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        self.head.borrow().closed.clone().map_or(Ok(()), Err)
    }

    fn close(&self, why: Error) {
        self.head.send_modify(|head| head.closed = head.closed.take().or(Some(why)));
    }
}

/// The writer.
pub(crate) struct Writer<J> {
    journal: J,
    shared: Arc<Shared>,
    /// When each living lease ends.
    deadlines: BTreeMap<LeaseId, Instant>,
}

impl<J: Journal> Writer<J> {
    /// A writer of the state in `shared`. Every lease in it gets its full time from now: nobody could keep it alive
    /// while nobody wrote.
    pub(crate) fn new(journal: J, shared: Arc<Shared>, now: Instant) -> Self {
        let deadlines = shared.state().leases().map(|lease| (lease.id, now + lease.ttl)).collect();
        let writer = Self { journal, shared, deadlines };
        writer.announce_expiry();
        writer
    }

    /// Does what a command asks for. `now` is on the clock that leases are measured by.
    pub(crate) fn execute(&mut self, command: Command, now: Instant) -> Result<Reply, Error> {
        self.shared.check_open()?;
        let reply = match command {
            Command::Txn(txn) => {
                let (outcome, delta) = self.shared.state().plan(&txn)?;
                if let Some(delta) = delta {
                    self.commit(delta)?;
                }
                Reply::Txn(outcome)
            }
            Command::Grant(ttl) => {
                let (lease, delta) = self.shared.state().plan_grant(ttl);
                self.commit(delta)?;
                self.deadlines.insert(lease.id, now + lease.ttl);
                Reply::Granted(lease)
            }
            Command::KeepAlive(lease) => {
                let ttl = self.shared.state().ttl(lease)?;
                self.deadlines.insert(lease, now + ttl);
                Reply::KeptAlive(ttl)
            }
            Command::Revoke(lease) => {
                self.end(lease)?;
                Reply::Done
            }
            Command::Expire => {
                let over: Vec<LeaseId> =
                    self.deadlines.iter().filter(|(_, deadline)| **deadline <= now).map(|(lease, _)| *lease).collect();
                for lease in over {
                    self.end(lease)?;
                }
                Reply::Done
            }
            Command::Close => {
                self.shared.close(Error::Closed { reason: "it was asked to close".to_owned() });
                Reply::Done
            }
        };
        self.announce_expiry();
        Ok(reply)
    }

    fn end(&mut self, lease: LeaseId) -> Result<(), Error> {
        let delta = self.shared.state().plan_end(lease)?;
        self.commit(delta)?;
        self.deadlines.remove(&lease);
        Ok(())
    }

    fn commit(&mut self, delta: Delta) -> Result<(), Error> {
        if let Err(error) = self.journal.commit(&delta) {
            // What is durable is not known to agree with what is visible: only opening the store anew can tell.
            self.shared.close(Error::Closed { reason: format!("it broke before: {error}") });
            return Err(error);
        }
        let revision = delta.revision;
        self.shared.state_mut().commit(delta);
        self.shared.head.send_if_modified(|head| std::mem::replace(&mut head.revision, revision) != revision);
        Ok(())
    }

    fn announce_expiry(&self) {
        let next = self.deadlines.values().min().copied();
        self.shared.next_expiry.send_if_modified(|known| std::mem::replace(known, next) != next);
    }
}

impl<J> Drop for Writer<J> {
    /// Watchers outlive the store: they have to learn that nothing more will come.
    fn drop(&mut self) {
        self.shared.close(Error::Closed { reason: "it was dropped".to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails from the nth commit on.
    struct Failing(u32);

    impl Journal for Failing {
        fn commit(&mut self, _: &Delta) -> Result<(), Error> {
            self.0 = self.0.saturating_sub(1);
            if self.0 == 0 {
                Err(Error::Unknown { reason: "the disk is gone".to_owned(), source: None })
            } else {
                Ok(())
            }
        }
    }

    #[tokio::test]
    async fn after_a_commit_of_unknown_outcome_nothing_is_shown_or_done_any_more() {
        let shared = Shared::new(State::default());
        let now = Instant::now();
        let mut writer = Writer::new(Failing(2), Arc::clone(&shared), now);
        writer.execute(Command::Txn(Txn::new().put("a", "1")), now).unwrap();
        let failed = writer.execute(Command::Txn(Txn::new().put("a", "2")), now).unwrap_err();
        assert!(failed.is_unknown());
        assert_eq!(shared.state().revision(), Revision(1));
        let after = writer.execute(Command::Grant(Duration::from_secs(5)), now).unwrap_err();
        assert!(matches!(&after, Error::Closed { reason } if reason.contains("the disk is gone")), "{after:?}");
        assert!(matches!(shared.check_open(), Err(Error::Closed { .. })));
        assert!(shared.head.borrow().closed.is_some(), "watchers should be told");
    }
}
