//! Where things lie in etcd, and how its keys become ours.
//!
//! Beneath the prefix: `state/` and the key for what callers keep, `writes/` for the marks that tell whether a
//! transaction took place (see [`marks`](super::marks)).

use bytes::Bytes;
use etcd_client::ResponseHeader;

use crate::error::Error;
use crate::store::{KeyValue, LeaseId, Revision};

/// The part of etcd that is ours.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    state: String,
    writes: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { state: format!("{prefix}/state/"), writes: format!("{prefix}/writes/") }
    }

    /// A caller's key or prefix, in etcd.
    pub(super) fn outer(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.state).into_bytes()
    }

    /// The mark with this number of a writer.
    pub(super) fn mark(&self, writer: &str, number: u64) -> Vec<u8> {
        format!("{}{writer}/{number}", self.writes).into_bytes()
    }

    /// A caller's key, from etcd.
    pub(super) fn inner(&self, key: &[u8]) -> Result<String, Error> {
        let inner = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&self.state));
        inner.map(str::to_owned).ok_or_else(|| Error::Record {
            key: String::from_utf8_lossy(key).into_owned(),
            reason: "its name is not one that this program gives; somebody else writes below its prefix in etcd"
                .to_owned(),
        })
    }

    /// A caller's entry, from etcd.
    pub(super) fn entry(&self, entry: etcd_client::KeyValue) -> Result<KeyValue, Error> {
        let (create_revision, mod_revision) = (revision(entry.create_revision()), revision(entry.mod_revision()));
        let (version, lease) = (number(entry.version()), number(entry.lease()));
        let (key, value) = entry.into_key_value();
        Ok(KeyValue {
            key: self.inner(&key)?,
            value: Bytes::from(value),
            create_revision,
            mod_revision,
            version,
            lease: (lease != 0).then_some(LeaseId(lease)),
        })
    }
}

/// The first key after all that begin with `prefix`, which holds something else than `0xff`.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// Revisions, versions and leases are signed in etcd's protocol, but never negative.
pub(super) fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

pub(super) fn revision(value: i64) -> Revision {
    Revision(number(value))
}

/// The revision that an answer was given at.
pub(super) fn answered_at(header: Option<&ResponseHeader>) -> Revision {
    revision(header.map_or(0, ResponseHeader::revision))
}

/// A number of ours in etcd's protocol. What is too large there names nothing that exists.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_see_nothing_of_the_prefix_and_nothing_beside_it() {
        let keys = Keys::new("/coffer/berlin");
        assert_eq!(keys.outer("/coffer/v1/live/x"), b"/coffer/berlin/state//coffer/v1/live/x");
        for key in ["k", "/coffer/v1/live/x", "ä/\u{10FFFF}", "state/", "\0"] {
            assert_eq!(keys.inner(&keys.outer(key)).unwrap(), key);
        }
        for foreign in
            [&b"/coffer/berlin/writes/x/1"[..], b"/coffer/berlin2/state/k", b"k", b"/coffer/berlin/state/\xff"]
        {
            assert!(keys.inner(foreign).unwrap_err().to_string().contains("somebody else"), "{foreign:?}");
        }
        assert!(!keys.mark("w", 1).starts_with(&keys.outer("")));
    }

    #[test]
    fn a_prefix_ends_before_the_next_one_begins() {
        for (prefix, end) in [
            (&b"a/"[..], &b"a0"[..]),
            (b"a\xff", b"b"),
            (b"a\xff\xff", b"b"),
            ("k\u{10FFFF}".as_bytes(), b"k\xf4\x8f\xbf\xc0"),
        ] {
            assert_eq!(end_of(prefix), end);
        }
    }
}
