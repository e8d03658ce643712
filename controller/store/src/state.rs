//! The store as a pure state machine: what a transaction, a lease and a page mean. No clock, no input or output, no
//! locks; implementations add those.
//!
//! A change is first planned ([`Delta`]), then made durable by whoever owns the state, then committed. Between plan and
//! commit nothing is visible.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Error;
use crate::limits;
use crate::store::{Event, KeyValue, Lease, LeaseId, Page, RangeRequest, Revision, WatchBatch};
use crate::txn::{Compare, Op, PutLease, Txn, TxnOutcome};

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that wrote it last.
    pub mod_revision: Revision,
    /// How often it was written since it was created.
    pub version: u64,
    /// The lease that it ends with.
    pub lease: Option<LeaseId>,
}

impl Entry {
    fn to_key_value(&self, key: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        }
    }
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// What it held.
    pub before: Option<Entry>,
    /// What it holds.
    pub after: Option<Entry>,
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// It was granted.
    Granted(Lease),
    /// It ended.
    Ended(LeaseId),
}

/// A planned step of the state: to be made durable, then committed to the state that it was planned on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The revision afterwards; the same as before when no key changes.
    pub revision: Revision,
    /// Changes of keys, each key once.
    pub changes: Vec<Change>,
    /// What becomes of a lease.
    pub lease: Option<LeaseChange>,
}

/// How much history is kept for watches and pages of earlier states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Most changes of keys.
    pub changes: usize,
    /// Most bytes of keys and values in them.
    pub bytes: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { changes: 50_000, bytes: 32 << 20 }
    }
}

#[derive(Debug, Default)]
struct LeaseState {
    ttl: Duration,
    keys: BTreeSet<String>,
}

#[derive(Debug)]
struct Logged {
    revision: Revision,
    changes: Vec<Change>,
    bytes: usize,
}

/// Keys, leases and the latest history.
#[derive(Debug, Default)]
pub struct State {
    revision: Revision,
    keys: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, LeaseState>,
    last_lease: u64,
    history: History,
    log: VecDeque<Logged>,
    log_changes: usize,
    log_bytes: usize,
    /// The oldest state that the log leads back to.
    oldest: Revision,
}

impl State {
    /// An empty state that keeps this much history.
    #[must_use]
    pub fn new(history: History) -> Self {
        Self { history, ..Self::default() }
    }

    /// A state that was kept somewhere: without history. `leases` and `last_lease` (the greatest id ever granted) say
    /// which leases live; a key of a lease that does not is refused.
    ///
    /// # Errors
    /// What does not fit together, in words.
    pub fn restore(
        history: History,
        revision: Revision,
        keys: BTreeMap<String, Entry>,
        leases: Vec<Lease>,
        last_lease: u64,
    ) -> Result<Self, String> {
        let mut leases: BTreeMap<LeaseId, LeaseState> =
            leases.into_iter().map(|lease| (lease.id, LeaseState { ttl: lease.ttl, keys: BTreeSet::new() })).collect();
        if leases.last_key_value().is_some_and(|(id, _)| id.0 > last_lease) {
            return Err(format!("a lease has a greater id than {last_lease}, the last one granted"));
        }
        for (key, entry) in &keys {
            if entry.mod_revision > revision || entry.create_revision > entry.mod_revision || entry.version == 0 {
                return Err(format!("the revisions of key {key:?} contradict each other"));
            }
            if let Some(id) = entry.lease {
                let lease =
                    leases.get_mut(&id).ok_or_else(|| format!("key {key:?} has lease {id}, which is not there"))?;
                lease.keys.insert(key.clone());
            }
        }
        Ok(Self { revision, oldest: revision, keys, leases, last_lease, ..Self::new(history) })
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The leases that live, with their time to live.
    pub fn leases(&self) -> impl Iterator<Item = Lease> {
        self.leases.iter().map(|(id, lease)| Lease { id: *id, ttl: lease.ttl })
    }

    /// The time to live of a lease.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`].
    pub fn ttl(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.leases.get(&lease).map(|state| state.ttl).ok_or(Error::LeaseNotFound { lease })
    }

    /// Reads a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<KeyValue> {
        self.keys.get(key).map(|entry| entry.to_key_value(key))
    }

    /// Reads a page; see [`StateStore::range`](crate::StateStore::range).
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::Invalid`] for a limit of 0.
    pub fn range(&self, request: &RangeRequest) -> Result<Page, Error> {
        if request.limit == 0 {
            return Err(Error::Invalid { reason: "a page of 0 entries was asked for".to_owned() });
        }
        let at = request.at.unwrap_or(self.revision);
        if at > self.revision {
            return Err(Error::FutureRevision { requested: at, newest: self.revision });
        }
        if at < self.oldest {
            return Err(Error::Compacted { requested: at, oldest: self.oldest });
        }
        let prefix = request.prefix.as_str();
        let from = request.from.as_deref().map_or(prefix, |from| from.max(prefix));
        let from = (Bound::Included(from), Bound::Unbounded);
        // What keys under the prefix held at `at`, of those that changed since.
        let mut then: BTreeMap<&str, Option<&Entry>> = BTreeMap::new();
        for logged in self.log.iter().rev().take_while(|logged| logged.revision > at) {
            for change in logged.changes.iter().filter(|change| change.key.starts_with(prefix)) {
                then.insert(&change.key, change.before.as_ref());
            }
        }
        let unchanged = self.keys.range::<str, _>(from).take_while(|(key, _)| key.starts_with(prefix));
        let mut unchanged = unchanged.filter(|(key, _)| !then.contains_key(key.as_str())).peekable();
        let mut changed = then.range::<str, _>(from).filter_map(|(key, entry)| Some((*key, (*entry)?))).peekable();
        let mut entries = Vec::new();
        let next = loop {
            let first_changed = match (unchanged.peek(), changed.peek()) {
                (None, None) => break None,
                (Some((key, _)), Some((other, _))) => other < &key.as_str(),
                (None, Some(_)) => true,
                (Some(_), None) => false,
            };
            let item =
                if first_changed { changed.next() } else { unchanged.next().map(|(key, entry)| (key.as_str(), entry)) };
            let Some((key, entry)) = item else { break None };
            if entries.len() == request.limit {
                break Some(key.to_owned());
            }
            entries.push(entry.to_key_value(key));
        };
        Ok(Page { entries, revision: at, next })
    }

    /// The changes under a prefix from revision `from` on, whole revisions, until about `most` events are found. The
    /// batch may be without events; its revision says how far it looked.
    ///
    /// # Errors
    /// [`Error::Compacted`] when some of them are not kept any more.
    pub fn changes(&self, prefix: &str, from: Revision, most: usize) -> Result<WatchBatch, Error> {
        if from <= self.oldest {
            return Err(Error::Compacted { requested: from, oldest: self.oldest.next() });
        }
        let mut batch = WatchBatch { revision: Revision(from.0.saturating_sub(1)), events: Vec::new() };
        let begin = self.log.partition_point(|logged| logged.revision < from);
        for logged in self.log.range(begin..) {
            if batch.events.len() >= most {
                return Ok(batch);
            }
            batch.revision = logged.revision;
            let matching = logged.changes.iter().filter(|change| change.key.starts_with(prefix));
            batch.events.extend(matching.map(|change| match &change.after {
                Some(entry) => Event::Put(entry.to_key_value(&change.key)),
                None => Event::Delete { key: change.key.clone(), revision: logged.revision },
            }));
        }
        batch.revision = batch.revision.max(self.revision);
        Ok(batch)
    }

    /// Plans a transaction: its outcome, and what has to be committed for it, if anything.
    ///
    /// # Errors
    /// Limits, [`Error::LeaseNotFound`], [`Error::KeyNotFound`]: nothing of it may take place.
    pub fn plan(&self, txn: &Txn) -> Result<(TxnOutcome, Option<Delta>), Error> {
        limits::check(txn)?;
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            let reads = txn.otherwise.iter().map(|read| self.get(&read.key)).collect();
            return Ok((TxnOutcome { succeeded: false, revision: self.revision, reads }, None));
        }
        let revision = self.revision.next();
        let mut changes = Vec::with_capacity(txn.then.len());
        for op in &txn.then {
            let before = self.keys.get(op.key()).cloned();
            let after = match op {
                Op::Put { key, value, lease } => Some(self.written(key, value, *lease, before.as_ref(), revision)?),
                Op::Delete { .. } if before.is_none() => continue,
                Op::Delete { .. } => None,
            };
            changes.push(Change { key: op.key().to_owned(), before, after });
        }
        if changes.is_empty() {
            return Ok((TxnOutcome { succeeded: true, revision: self.revision, reads: Vec::new() }, None));
        }
        Ok((
            TxnOutcome { succeeded: true, revision, reads: Vec::new() },
            Some(Delta { revision, changes, lease: None }),
        ))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entry = |key: &String| self.keys.get(key);
        match compare {
            Compare::ModRevision { key, is } => entry(key).map_or(Revision::ZERO, |entry| entry.mod_revision) == *is,
            Compare::CreateRevision { key, is } => {
                entry(key).map_or(Revision::ZERO, |entry| entry.create_revision) == *is
            }
            Compare::Absent { key } => entry(key).is_none(),
            Compare::Present { key } => entry(key).is_some(),
            Compare::PrefixEmpty { prefix } => {
                let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
                self.keys.range::<str, _>(from).next().is_none_or(|(key, _)| !key.starts_with(prefix.as_str()))
            }
        }
    }

    fn written(
        &self,
        key: &str,
        value: &Bytes,
        lease: PutLease,
        before: Option<&Entry>,
        revision: Revision,
    ) -> Result<Entry, Error> {
        let lease = match lease {
            PutLease::None => None,
            PutLease::Attach(id) => {
                self.ttl(id)?;
                Some(id)
            }
            PutLease::Keep => before.ok_or_else(|| Error::KeyNotFound { key: key.to_owned() })?.lease,
        };
        Ok(Entry {
            value: value.clone(),
            create_revision: before.map_or(revision, |entry| entry.create_revision),
            mod_revision: revision,
            version: before.map_or(0, |entry| entry.version) + 1,
            lease,
        })
    }

    /// Plans a new lease.
    #[must_use]
    pub fn plan_grant(&self, ttl: Duration) -> (Lease, Delta) {
        let lease = Lease { id: LeaseId(self.last_lease + 1), ttl: limits::granted_ttl(ttl) };
        let delta = Delta { revision: self.revision, changes: Vec::new(), lease: Some(LeaseChange::Granted(lease)) };
        (lease, delta)
    }

    /// Plans the end of a lease and of its keys, by revocation or expiry.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`].
    pub fn plan_end(&self, lease: LeaseId) -> Result<Delta, Error> {
        let state = self.leases.get(&lease).ok_or(Error::LeaseNotFound { lease })?;
        let change = |key: &String| Change { key: key.clone(), before: self.keys.get(key).cloned(), after: None };
        let changes: Vec<Change> = state.keys.iter().map(change).collect();
        let revision = if changes.is_empty() { self.revision } else { self.revision.next() };
        Ok(Delta { revision, changes, lease: Some(LeaseChange::Ended(lease)) })
    }

    /// Makes a planned step visible. `delta` must have been planned on this state as it is now.
    pub fn commit(&mut self, delta: Delta) {
        debug_assert!(delta.revision == self.revision || delta.revision == self.revision.next());
        for change in &delta.changes {
            self.move_between_leases(change);
            match &change.after {
                Some(entry) => drop(self.keys.insert(change.key.clone(), entry.clone())),
                None => drop(self.keys.remove(&change.key)),
            }
        }
        match delta.lease {
            Some(LeaseChange::Granted(lease)) => {
                self.last_lease = self.last_lease.max(lease.id.0);
                self.leases.insert(lease.id, LeaseState { ttl: lease.ttl, keys: BTreeSet::new() });
            }
            Some(LeaseChange::Ended(lease)) => drop(self.leases.remove(&lease)),
            None => {}
        }
        if delta.revision > self.revision {
            self.revision = delta.revision;
            self.log(delta);
        }
    }

    fn move_between_leases(&mut self, change: &Change) {
        let lease = |entry: &Option<Entry>| entry.as_ref().and_then(|entry| entry.lease);
        let (from, to) = (lease(&change.before), lease(&change.after));
        if from == to {
            return;
        }
        if let Some(state) = from.and_then(|id| self.leases.get_mut(&id)) {
            state.keys.remove(&change.key);
        }
        if let Some(state) = to.and_then(|id| self.leases.get_mut(&id)) {
            state.keys.insert(change.key.clone());
        }
    }

    fn log(&mut self, delta: Delta) {
        let size = |entry: &Option<Entry>| entry.as_ref().map_or(0, |entry| entry.value.len());
        let bytes =
            delta.changes.iter().map(|change| change.key.len() + size(&change.before) + size(&change.after)).sum();
        self.log_changes += delta.changes.len();
        self.log_bytes += bytes;
        self.log.push_back(Logged { revision: delta.revision, changes: delta.changes, bytes });
        while self.log_changes > self.history.changes || self.log_bytes > self.history.bytes {
            if !self.forget_oldest() {
                break;
            }
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(logged) = self.log.pop_front() else { return false };
        self.oldest = logged.revision;
        self.log_changes -= logged.changes.len();
        self.log_bytes -= logged.bytes;
        true
    }

    /// Forgets all history: watches and pages of earlier states have to begin anew.
    pub fn compact(&mut self) {
        while self.forget_oldest() {}
    }
}

#[cfg(test)]
mod tests;
