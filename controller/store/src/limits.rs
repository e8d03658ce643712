//! Limits of a transaction: etcd's defaults, less what the etcd store adds of its own, enforced by every implementation
//! so that what works on one works on all.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::Error;
use crate::txn::{Compare, Op, Txn};

/// Most entries of each list of a transaction. etcd takes 128; one is for the mark that tells whether a transaction
/// took place whose answer was lost.
pub const MAX_OPERATIONS: usize = 127;
/// Most bytes of a transaction: keys, values and [`OPERATION_BYTES`] for each entry. etcd takes 1.5 MiB; 64 KiB are for
/// the prefix that each key has there.
pub const MAX_REQUEST_BYTES: usize = 1_472 * 1_024;
/// What an entry of a transaction counts beside its key and value, in bytes; more than it takes on the wire.
pub const OPERATION_BYTES: usize = 32;
/// Most bytes of a key.
pub const MAX_KEY_BYTES: usize = 1_024;
/// Shortest time to live of a lease.
pub const MIN_TTL: Duration = Duration::from_secs(2);
/// Longest time to live of a lease.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Checks a transaction against all limits; looks at nothing but the transaction.
///
/// # Errors
/// The first limit that it breaks.
pub fn check(txn: &Txn) -> Result<(), Error> {
    for (list, count) in [("compares", txn.compares.len()), ("changes", txn.then.len()), ("reads", txn.otherwise.len())]
    {
        if count > MAX_OPERATIONS {
            return Err(Error::TooManyOperations { list, count, most: MAX_OPERATIONS });
        }
    }
    let mut bytes = 0;
    for compare in &txn.compares {
        let (Compare::ModRevision { key, .. }
        | Compare::CreateRevision { key, .. }
        | Compare::Absent { key }
        | Compare::Present { key }
        | Compare::PrefixEmpty { prefix: key }) = compare;
        check_key(key)?;
        bytes += key.len() + OPERATION_BYTES;
    }
    let mut keys = HashSet::with_capacity(txn.then.len());
    for op in &txn.then {
        check_key(op.key())?;
        if !keys.insert(op.key()) {
            return Err(Error::DuplicateKey { key: op.key().to_owned() });
        }
        let value = match op {
            Op::Put { value, .. } => value.len(),
            Op::Delete { .. } => 0,
        };
        bytes += op.key().len() + value + OPERATION_BYTES;
    }
    for read in &txn.otherwise {
        check_key(&read.key)?;
        bytes += read.key.len() + OPERATION_BYTES;
    }
    if bytes > MAX_REQUEST_BYTES {
        return Err(Error::TooLarge { bytes, most: MAX_REQUEST_BYTES });
    }
    Ok(())
}

/// Checks a key.
///
/// # Errors
/// When it is empty or too long.
pub fn check_key(key: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::Invalid { reason: "a key is empty".to_owned() });
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(Error::Invalid { reason: format!("a key has {} bytes; at most {MAX_KEY_BYTES}", key.len()) });
    }
    Ok(())
}

/// The time to live that is granted when `asked` is asked for: whole seconds, not less than asked, within bounds.
#[must_use]
pub fn granted_ttl(asked: Duration) -> Duration {
    let whole = if asked.subsec_nanos() == 0 { asked.as_secs() } else { asked.as_secs().saturating_add(1) };
    Duration::from_secs(whole).clamp(MIN_TTL, MAX_TTL)
}
