//! The one place where decisions meet the store: the mirror of its content, and commits that wait until it shows them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use coffer_core::{Change, Entry, Guard, State, Write};
use coffer_store::{Compare, Event, LeaseId, Op, PutLease, RangeRequest, Revision, StateStore, Txn};
use futures::StreamExt;
use jiff::Timestamp;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Error;
use crate::board::Board;
use crate::fault::Fault;
use crate::heard::Heard;
use crate::options::{Clock, Limits, Timings};
use crate::sealing::Sealer;

/// How often a decision is made anew when what it was based on changed under it.
const ATTEMPTS: u32 = 30;
/// How long a commit waits for the mirror to show it; after that it is true all the same.
const MIRROR_PATIENCE: Duration = Duration::from_secs(5);
/// How long a commit that came too late waits for the mirror to show why. Not longer: where others use the store too,
/// the revision that it failed at may be of theirs, and never be shown here.
const LATE_PATIENCE: Duration = Duration::from_millis(250);

/// How long a caller waits who has seen more than this controller.
const CATCH_UP: Duration = Duration::from_secs(2);

/// What services and loops share.
#[derive(Debug)]
pub(crate) struct Plane {
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) sealer: Sealer,
    state: RwLock<State>,
    seen: watch::Sender<u64>,
    /// The revision of the newest change that the mirror shows. Unlike the state's own it is of a change of ours, so
    /// that every other controller comes to it as well.
    shown: AtomicU64,
    pub(crate) board: Board,
    pub(crate) heard: Heard,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timings: Timings,
    pub(crate) limits: Limits,
    /// Cancelled when the controller drains.
    pub(crate) stop: CancellationToken,
}

/// A change, with writes beside what the mirror holds: secrets, history, request ids.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    pub(crate) change: Change,
    pub(crate) compares: Vec<Compare>,
    pub(crate) ops: Vec<Op>,
}

impl From<Change> for Effect {
    fn from(change: Change) -> Self {
        Self { change, ..Self::default() }
    }
}

impl Effect {
    fn is_empty(&self) -> bool {
        self.change.is_empty() && self.ops.is_empty()
    }
}

impl Plane {
    /// Reads everything once.
    pub(crate) async fn load(
        store: Arc<dyn StateStore>,
        sealer: Sealer,
        clock: Arc<dyn Clock>,
        timings: Timings,
        limits: Limits,
    ) -> Result<Self, Error> {
        let (state, shown) = list(&*store).await?;
        let seen = watch::Sender::new(state.revision);
        Ok(Self {
            store,
            sealer,
            state: RwLock::new(state),
            seen,
            shown: AtomicU64::new(shown),
            board: Board::default(),
            heard: Heard::default(),
            clock,
            timings,
            limits,
            stop: CancellationToken::new(),
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Looks at the store's content as this controller has seen it last.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state())
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        // Nothing panics while it writes; and what it writes is only a copy.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told of every change of the mirror.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.seen.subscribe()
    }

    /// Follows the store until it fails or the controller stops; returns why it failed.
    pub(crate) async fn follow(&self) -> Option<Error> {
        loop {
            let from = Revision(self.state().revision).next();
            let mut events = match self.store.watch(coffer_core::state::ROOT, from).await {
                Ok(events) => events,
                Err(source) => return Some(Error::Store { doing: "following changes", source }),
            };
            let failure = loop {
                let batch = tokio::select! {
                    () = self.stop.cancelled() => return None,
                    batch = events.next() => batch,
                };
                match batch {
                    Some(Ok(batch)) => {
                        if let Err(error) = self.take_in(batch.events, batch.revision.0) {
                            return Some(error);
                        }
                    }
                    Some(Err(error)) => break error,
                    None => return Some(Error::Part("the watch of the store ended without a reason".into())),
                }
            };
            match failure {
                coffer_store::Error::Compacted { .. } | coffer_store::Error::Unavailable { .. } => {
                    tracing::warn!(error = %failure, "the watch of the store was cut; reading everything again");
                    match list(&*self.store).await {
                        Ok((state, shown)) => self.replace(state, shown),
                        Err(error) => return Some(error),
                    }
                }
                source => return Some(Error::Store { doing: "following changes", source }),
            }
        }
    }

    fn take_in(&self, events: Vec<Event>, revision: u64) -> Result<(), Error> {
        let newest = events.last().map_or(0, |event| event.revision().0);
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                match event {
                    Event::Put(entry) if entry.key.starts_with(coffer_core::state::LIVE) => {
                        state.put(&entry.key, &entry.value, entry.create_revision.0, entry.mod_revision.0)?;
                    }
                    Event::Put(_) => {}
                    Event::Delete { key, revision } => state.delete(&key, revision.0),
                }
            }
            state.revision = revision;
        }
        self.show(newest, revision);
        Ok(())
    }

    fn replace(&self, state: State, shown: u64) {
        let revision = state.revision;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        self.show(shown, revision);
    }

    fn show(&self, newest: u64, revision: u64) {
        self.shown.fetch_max(newest, Ordering::Relaxed);
        self.seen.send_replace(revision);
    }

    /// The revision of the newest change that the mirror shows.
    pub(crate) fn shown(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }

    /// Waits a moment until the mirror shows a change that somebody has seen at another controller; false when it does
    /// not.
    pub(crate) async fn catches_up(&self, seen: u64) -> bool {
        let mut changes = self.changes();
        let caught_up = changes.wait_for(|revision| *revision >= seen);
        tokio::select! {
            caught_up = tokio::time::timeout(CATCH_UP, caught_up) => if matches!(caught_up, Ok(Ok(_))) {
                return true;
            },
            () = self.stop.cancelled() => return false,
        }
        // A store that was restored from a copy never comes there again: then nobody knows better than this controller.
        let now = self.store.range(RangeRequest::prefix(coffer_core::state::ROOT, 1)).await;
        now.is_ok_and(|now| now.revision.0 < seen)
    }

    /// Waits until the mirror shows a revision.
    async fn shows(&self, revision: u64, patience: Duration) {
        let mut changes = self.changes();
        let shown = tokio::time::timeout(patience, changes.wait_for(|seen| *seen >= revision));
        tokio::select! {
            shown = shown => if shown.is_err() && patience == MIRROR_PATIENCE {
                tracing::warn!(revision, "the mirror of the store lags behind");
            },
            // The mirror stands still then; what was committed is true all the same.
            () = self.stop.cancelled() => {}
        }
    }

    /// Makes a change, if all that it requires still holds. When this returns true, the mirror shows it.
    pub(crate) async fn commit(&self, effect: impl Into<Effect>) -> Result<bool, Fault> {
        let effect = effect.into();
        let wid = Uuid::now_v7().to_string();
        let (txn, mark) = transaction(effect, &wid);
        match self.store.txn(txn).await {
            Ok(outcome) => {
                let patience = if outcome.succeeded { MIRROR_PATIENCE } else { LATE_PATIENCE };
                self.shows(outcome.revision.0, patience).await;
                Ok(outcome.succeeded)
            }
            Err(error) if error.is_unknown() => {
                // Whether it took place is told by the id of the write, and by nothing else.
                let Some(key) = mark else { return Err(Fault::Store(error)) };
                let found = self.store.get(&key).await.map_err(Fault::Store)?;
                let ours = found.filter(|entry| coffer_core::record::write_id(&entry.value).as_deref() == Some(&wid));
                match ours {
                    Some(entry) => {
                        self.shows(entry.mod_revision.0, MIRROR_PATIENCE).await;
                        Ok(true)
                    }
                    None => Ok(false),
                }
            }
            Err(error) => Err(Fault::Store(error)),
        }
    }

    /// Decides and commits; decides anew when what was decided on has changed meanwhile.
    pub(crate) async fn mutate<T, E: Into<Effect>>(
        &self,
        mut decide: impl FnMut(&State, Timestamp) -> Result<(E, T), Fault>,
    ) -> Result<T, Fault> {
        for _ in 0..ATTEMPTS {
            let (effect, answer) = {
                let (effect, answer) = decide(&self.state(), self.now())?;
                (effect.into(), answer)
            };
            if effect.is_empty() || self.commit(effect).await? {
                return Ok(answer);
            }
        }
        Err(Fault::Contended)
    }
}

/// The whole state, and the revision of the newest change in it.
async fn list(store: &dyn StateStore) -> Result<(State, u64), Error> {
    let doing = "reading its content";
    let (entries, revision) =
        coffer_store::list(store, coffer_core::state::LIVE).await.map_err(|source| Error::Store { doing, source })?;
    let mut state = State::default();
    let mut newest = 0;
    for entry in entries {
        newest = newest.max(entry.mod_revision.0);
        state.put(&entry.key, &entry.value, entry.create_revision.0, entry.mod_revision.0)?;
    }
    state.revision = revision.0;
    Ok((state, newest))
}

/// The store's transaction for an effect, and a key whose value tells whether it took place.
fn transaction(effect: Effect, wid: &str) -> (Txn, Option<String>) {
    let mut txn = Txn::new();
    for guard in effect.change.guards {
        txn = match guard {
            Guard::Unchanged(key, modified) => txn.if_mod(key.path(), Revision(modified)),
            Guard::Same(key, created) => txn.if_created(key.path(), Revision(created)),
            Guard::Absent(key) => txn.if_absent(key.path()),
            Guard::NoneUnder(path) => txn.if_empty(path),
        };
    }
    txn.compares.extend(effect.compares);
    let mut mark = None;
    for write in effect.change.writes {
        txn = match write {
            Write::Put(entry) => {
                let path = entry.key().path();
                let lease = match *entry {
                    Entry::Session(_, ref session) => PutLease::Attach(LeaseId(session.lease)),
                    _ => PutLease::None,
                };
                mark.get_or_insert_with(|| path.clone());
                txn.put_with(path, entry.encode(wid), lease)
            }
            Write::Delete(key) => txn.delete(key.path()),
        };
    }
    txn.then.extend(effect.ops);
    (txn, mark)
}
