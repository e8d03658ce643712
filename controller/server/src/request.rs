//! Request ids: a repeated request is answered as the first one was, and not done again.

use coffer_core::record::{decode, encode};
use coffer_store::{Compare, Op, PutLease, RangeRequest, StateStore};
use jiff::{SignedDuration, Timestamp};
use prost::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fault::Fault;
use crate::plane::{Effect, Plane};

/// How long a request is remembered.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);

/// A request with an id, not done before.
#[derive(Clone, Debug)]
pub(crate) struct Fresh {
    key: Option<String>,
    digest: u64,
}

/// What is known of a request.
pub(crate) enum Known {
    /// It is new, or has no id.
    Fresh(Fresh),
    /// It was done: this is the name of what it made.
    Done(String),
}

/// The persisted form. Key `request/{method}/{uuid}`.
#[derive(Serialize, Deserialize)]
struct RequestRecord {
    digest: u64,
    made: String,
    time: Timestamp,
}

fn prefix() -> String {
    format!("{}request/", coffer_core::state::ROOT)
}

/// The first 64 bits of a message's SHA-256.
pub(crate) fn digest(message: &impl Message) -> u64 {
    let hash = Sha256::digest(message.encode_to_vec());
    hash.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Looks a request up. `request` is what identifies its content, without passwords: its digest lies in the store. What a
/// known one made is shown by the mirror when this returns.
pub(crate) async fn look_up(plane: &Plane, method: &str, id: &str, request: &impl Message) -> Result<Known, Fault> {
    let digest = digest(request);
    if id.is_empty() {
        return Ok(Known::Fresh(Fresh { key: None, digest }));
    }
    let uuid = uuid::Uuid::try_parse(id).map_err(|_| Fault::invalid("request_id", "must be a UUID, or empty"))?;
    let key = format!("{}{method}/{uuid}", prefix());
    Ok(match recall(plane, &key, digest).await? {
        Some(made) => Known::Done(made),
        None => Known::Fresh(Fresh { key: Some(key), digest }),
    })
}

/// The name of what a request made, if it was done.
async fn recall(plane: &Plane, key: &str, digest: u64) -> Result<Option<String>, Fault> {
    let Some(found) = plane.store.get(key).await.map_err(Fault::Store)? else { return Ok(None) };
    let record: RequestRecord =
        decode(key, &found.value).map_err(|error| Fault::Broken { what: key.to_owned(), source: error.into() })?;
    if record.digest != digest {
        return Err(Fault::invalid("request_id", "was used for another request; take a new UUID"));
    }
    // The store may be ahead of the mirror, in which who asks will look: the first request is perhaps not answered yet.
    if !plane.catches_up(found.mod_revision.0).await {
        return Err(Fault::Contended);
    }
    Ok(Some(record.made))
}

impl Fresh {
    /// Remembers what the request makes, in the same transaction.
    pub(crate) fn remember(&self, mut effect: Effect, made: &str, now: Timestamp) -> Effect {
        if let Some(key) = &self.key {
            let record = RequestRecord { digest: self.digest, made: made.to_owned(), time: now };
            effect.compares.push(Compare::Absent { key: key.clone() });
            effect.ops.push(Op::Put { key: key.clone(), value: encode(&record, "").into(), lease: PutLease::None });
        }
        effect
    }

    /// What became of the request. `Some`: a repetition that ran beside it was first, and made what is named.
    pub(crate) async fn settle(&self, plane: &Plane, done: Result<(), Fault>) -> Result<Option<String>, Fault> {
        match (done, &self.key) {
            (Err(fault @ (Fault::Contended | Fault::AlreadyExists { .. })), Some(key)) => {
                recall(plane, key, self.digest).await?.ok_or(fault).map(Some)
            }
            (done, _) => done.map(|()| None),
        }
    }
}

/// Requests that need not be remembered any more; at most a transaction's worth.
pub(crate) async fn outdated(store: &dyn StateStore, now: Timestamp) -> Result<Vec<Op>, Fault> {
    let mut ops = Vec::new();
    let mut request = RangeRequest::prefix(prefix(), 500);
    loop {
        let page = store.range(request.clone()).await.map_err(Fault::Store)?;
        for entry in &page.entries {
            let old = decode::<RequestRecord>(&entry.key, &entry.value)
                .map_or(true, |record| now.duration_since(record.time) > REMEMBERED);
            if old && ops.len() < 100 {
                ops.push(Op::Delete { key: entry.key.clone() });
            }
        }
        match request.after(&page) {
            Some(next) if ops.len() < 100 => request = next,
            _ => return Ok(ops),
        }
    }
}
