//! Typed records in a store: keys under one prefix, values as JSON with the number of their schema.
//!
//! A value is `{"schema":1,"data":{…}}`. A reader refuses a schema that is newer than its own, and brings an older one
//! up to date by [`Record::upgrade`].

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::store::{KeyValue, LeaseId, RangeRequest, Revision, StateStore, list};

/// A type that is kept in a store.
pub trait Record: Serialize + DeserializeOwned + Send {
    /// Number of the layout that is written; raised by every change that an older reader would misunderstand.
    const SCHEMA: u32;

    /// Brings data of an older layout up to the current one. The default refuses.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn upgrade(schema: u32, data: serde_json::Value) -> Result<serde_json::Value, String> {
        drop(data);
        Err(format!("schema {schema} is older than {} and there is no way to upgrade it", Self::SCHEMA))
    }
}

/// A record with where it stands and its revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Its key, with the prefix of the keyspace.
    pub key: String,
    /// The record.
    pub value: T,
    /// The revision that created it.
    pub create_revision: Revision,
    /// The revision that wrote it last: what a transaction compares.
    pub mod_revision: Revision,
    /// The lease whose end deletes it.
    pub lease: Option<LeaseId>,
}

#[derive(Serialize)]
struct Written<'a, T> {
    schema: u32,
    data: &'a T,
}

#[derive(Deserialize)]
struct Found {
    schema: u32,
    data: serde_json::Value,
}

/// The value that a record is kept as.
///
/// # Errors
/// [`Error::Record`] when it cannot be JSON (a map with keys that are not text).
pub fn encode<T: Record>(key: &str, record: &T) -> Result<Bytes, Error> {
    let written = Written { schema: T::SCHEMA, data: record };
    serde_json::to_vec(&written)
        .map(Bytes::from)
        .map_err(|error| Error::Record { key: key.to_owned(), reason: error.to_string() })
}

/// Reads a record back.
///
/// # Errors
/// [`Error::Record`] when it is not one, or newer than this program.
pub fn decode<T: Record>(entry: KeyValue) -> Result<Versioned<T>, Error> {
    let KeyValue { key, value, create_revision, mod_revision, lease, .. } = entry;
    match parse(&value) {
        Ok(value) => Ok(Versioned { key, value, create_revision, mod_revision, lease }),
        Err(reason) => Err(Error::Record { key, reason }),
    }
}

fn parse<T: Record>(value: &[u8]) -> Result<T, String> {
    let Found { schema, data } = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let data = match schema.cmp(&T::SCHEMA) {
        std::cmp::Ordering::Equal => data,
        std::cmp::Ordering::Less => T::upgrade(schema, data)?,
        std::cmp::Ordering::Greater => {
            return Err(format!("schema {schema} is newer than {}: use a newer version of Coffer", T::SCHEMA));
        }
    };
    serde_json::from_value(data).map_err(|error| error.to_string())
}

/// A prefix of a store, read as typed records. Writes are plain transactions with keys from [`Keyspace::key`] and
/// values from [`encode`].
#[derive(Debug, Clone)]
pub struct Keyspace {
    store: Arc<dyn StateStore>,
    prefix: String,
}

impl Keyspace {
    /// The keys of `store` beneath `prefix`, as `/coffer/v1`.
    pub fn new(store: Arc<dyn StateStore>, prefix: impl Into<String>) -> Self {
        let mut prefix = prefix.into();
        prefix.truncate(prefix.trim_end_matches('/').len());
        Self { store, prefix }
    }

    /// The store beneath.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn StateStore> {
        &self.store
    }

    /// The whole key of a path: `jobs/nightly` is `/coffer/v1/jobs/nightly`.
    #[must_use]
    pub fn key(&self, path: &str) -> String {
        format!("{}/{path}", self.prefix)
    }

    /// The path of a whole key; `None` when it lies elsewhere.
    #[must_use]
    pub fn path<'key>(&self, key: &'key str) -> Option<&'key str> {
        key.strip_prefix(&self.prefix)?.strip_prefix('/')
    }

    /// Reads one record.
    ///
    /// # Errors
    /// As [`StateStore::get`] and [`decode`].
    pub async fn get<T: Record>(&self, path: &str) -> Result<Option<Versioned<T>>, Error> {
        self.store.get(&self.key(path)).await?.map(decode).transpose()
    }

    /// Reads all records whose path begins so, and says at which revision.
    ///
    /// # Errors
    /// As [`list`] and [`decode`].
    pub async fn list<T: Record>(&self, path_prefix: &str) -> Result<(Vec<Versioned<T>>, Revision), Error> {
        let (entries, revision) = list(self.store.as_ref(), &self.key(path_prefix)).await?;
        Ok((entries.into_iter().map(decode).collect::<Result<_, _>>()?, revision))
    }

    /// Reads a page of records; `from` is a path. Returns the path of the next page, if there is one.
    ///
    /// # Errors
    /// As [`StateStore::range`] and [`decode`].
    pub async fn page<T: Record>(
        &self,
        path_prefix: &str,
        from: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<RecordPage<T>, Error> {
        let request = RangeRequest { prefix: self.key(path_prefix), from: from.map(|path| self.key(path)), limit, at };
        let page = self.store.range(request).await?;
        let next = page.next.as_deref().and_then(|key| self.path(key)).map(str::to_owned);
        let records = page.entries.into_iter().map(decode).collect::<Result<_, _>>()?;
        Ok(RecordPage { records, revision: page.revision, next })
    }
}

/// A page of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordPage<T> {
    /// The records, by key.
    pub records: Vec<Versioned<T>>,
    /// The state that was read.
    pub revision: Revision,
    /// Path of the next page; `None` on the last.
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Job {
        name: String,
        limit: u32,
    }

    impl Record for Job {
        const SCHEMA: u32 = 2;

        fn upgrade(schema: u32, mut data: serde_json::Value) -> Result<serde_json::Value, String> {
            let job = data.as_object_mut().filter(|_| schema == 1).ok_or("not a job of schema 1")?;
            job.insert("limit".to_owned(), 2.into());
            Ok(data)
        }
    }

    fn check(value: &str) -> Result<Job, String> {
        let entry = KeyValue {
            key: "k".to_owned(),
            value: Bytes::copy_from_slice(value.as_bytes()),
            create_revision: Revision(1),
            mod_revision: Revision(2),
            version: 2,
            lease: None,
        };
        decode(entry).map(|record| record.value).map_err(|error| error.to_string())
    }

    #[test]
    fn older_records_are_upgraded_and_newer_or_broken_ones_refused_with_their_key() {
        let job = Job { name: "nightly".to_owned(), limit: 2 };
        let written = String::from_utf8(encode("k", &job).unwrap().to_vec()).unwrap();
        assert_eq!(written, r#"{"schema":2,"data":{"name":"nightly","limit":2}}"#);
        assert_eq!(check(&written).unwrap(), job);
        assert_eq!(check(r#"{"schema":1,"data":{"name":"nightly"}}"#).unwrap(), job);
        assert!(
            check(r#"{"schema":3,"data":{}}"#).unwrap_err().contains("key \"k\" cannot be read: schema 3 is newer")
        );
        assert!(check(r#"{"schema":0,"data":{}}"#).unwrap_err().contains("not a job of schema 1"));
        assert!(check("garbage").unwrap_err().contains("\"k\""));
    }
}
