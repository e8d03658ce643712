//! A decision, ready to become one transaction: what must still be true, and what is then written.

use crate::state::{Entry, Key, State, Versioned};

/// What must hold for a change to take place. All of it was read; a stale reading only makes the change fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key was last written by this revision.
    Unchanged(Key, u64),
    /// The key was made by this revision, and may have been written since.
    Same(Key, u64),
    /// The key does not exist.
    Absent(Key),
    /// No key begins with this path.
    NoneUnder(String),
}

/// A write of a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Writes a record.
    Put(Box<Entry>),
    /// Deletes a key; nothing happens when it does not exist.
    Delete(Key),
}

/// What must hold, and what is then written, all or nothing.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Change {
    /// What must hold.
    pub guards: Vec<Guard>,
    /// What is written. No key twice.
    pub writes: Vec<Write>,
}

/// Most guards, and most writes, of a change; what etcd takes.
pub const MOST: usize = 128;

impl Change {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires that the key was not written since it was read.
    pub fn unchanged<T>(mut self, key: Key, read: &Versioned<T>) -> Self {
        self.require(Guard::Unchanged(key, read.modified));
        self
    }

    /// Requires that the key is still the one that was read, whatever its value.
    pub fn same<T>(mut self, key: Key, read: &Versioned<T>) -> Self {
        self.require(Guard::Same(key, read.created));
        self
    }

    /// Requires that the key was not written since it was read, or does not exist when it did not.
    pub fn unchanged_or_absent<T>(mut self, key: Key, read: Option<&Versioned<T>>) -> Self {
        self.require(
            read.map_or_else(|| Guard::Absent(key.clone()), |found| Guard::Unchanged(key.clone(), found.modified)),
        );
        self
    }

    /// Requires that the key does not exist.
    pub fn absent(mut self, key: Key) -> Self {
        self.require(Guard::Absent(key));
        self
    }

    /// Requires that no key begins with the path.
    pub fn none_under(mut self, path: String) -> Self {
        self.require(Guard::NoneUnder(path));
        self
    }

    /// Writes a record.
    pub fn put(mut self, entry: Entry) -> Self {
        self.writes.push(Write::Put(Box::new(entry)));
        self
    }

    /// Deletes a key.
    pub fn delete(mut self, key: Key) -> Self {
        self.writes.push(Write::Delete(key));
        self
    }

    fn require(&mut self, guard: Guard) {
        if !self.guards.contains(&guard) {
            self.guards.push(guard);
        }
    }

    /// True when it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

impl State {
    /// True when every guard holds here.
    #[must_use]
    pub fn allows(&self, change: &Change) -> bool {
        change.guards.iter().all(|guard| match guard {
            Guard::Unchanged(key, modified) => self.revisions(key).1 == *modified,
            Guard::Same(key, created) => self.revisions(key).0 == *created,
            Guard::Absent(key) => self.revisions(key) == (0, 0),
            Guard::NoneUnder(path) => !self.keys().iter().any(|key| key.path().starts_with(path)),
        })
    }

    /// Does what a store does with a change: all of it when every guard holds, otherwise nothing. True when it was
    /// done.
    ///
    /// The values go through their persisted form, so that a simulation built on this sees what a store would give
    /// back.
    pub fn commit(&mut self, change: &Change, wid: &str) -> bool {
        if change.guards.len() > MOST || change.writes.len() > MOST || !self.allows(change) {
            return false;
        }
        if change.writes.is_empty() {
            return true;
        }
        self.revision += 1;
        let revision = self.revision;
        for write in &change.writes {
            match write {
                Write::Put(entry) => {
                    let key = entry.key();
                    let created = match self.revisions(&key).0 {
                        0 => revision,
                        known => known,
                    };
                    self.put(&key.path(), &entry.encode(wid), created, revision)
                        .expect("what was encoded can be decoded");
                }
                Write::Delete(key) => self.delete(&key.path(), revision),
            }
        }
        true
    }
}
