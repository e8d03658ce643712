//! Fencing: what makes a worker that was given up harmless.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Counts the leases of one virtual machine: each lease has a greater one than all before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the next lease.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Counts the lives of a store: raised when one is brought back from a copy, because its epochs may then repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The token of a lease: stamped into everything that its holder creates. A greater one wins; the incarnation counts
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Fence {
    /// Life of the store.
    pub incarnation: Incarnation,
    /// Lease within it.
    pub epoch: Epoch,
}

impl fmt::Display for Fence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.incarnation, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_life_of_the_store_beats_every_epoch_of_an_earlier_one() {
        let old = Fence { incarnation: Incarnation(1), epoch: Epoch(900) };
        let new = Fence { incarnation: Incarnation(2), epoch: Epoch(1) };
        assert!(new > old);
        assert!(Fence { epoch: old.epoch.next(), ..old } > old);
        assert_eq!(new.to_string(), "2.1");
    }
}
