//! Reads: one key, or a page of a prefix in one state.

use etcd_client::{Client, GetOptions, GetResponse};

use super::cluster::Cluster;
use super::failure::Answer;
use super::keys::{Keys, answered_at, end_of, signed};
use super::{refusal, watch};
use crate::error::Error;
use crate::limits;
use crate::store::{KeyValue, Page, RangeRequest, Revision};

/// Most entries of a page, whatever is asked for.
const PAGE_ENTRIES: usize = 1_000;
/// Most bytes of a page; one of fewer entries is read when it would be larger.
const PAGE_BYTES: usize = 16 << 20;

/// Reads one key.
pub(super) async fn get(cluster: &Cluster, keys: &Keys, key: &str) -> Result<Option<KeyValue>, Error> {
    limits::check_key(key)?;
    let outer = keys.outer(key);
    let read = |mut client: Client| {
        let outer = outer.clone();
        async move { client.get(outer, None).await }
    };
    let found = cluster.repeat(cluster.deadline(), read).await?;
    let mut found = found.map_err(|answer| refusal(cluster, answer))?;
    found.take_kvs().pop().map(|entry| keys.entry(entry)).transpose()
}

/// Reads a page.
pub(super) async fn range(cluster: &Cluster, keys: &Keys, request: &RangeRequest) -> Result<Page, Error> {
    if request.limit == 0 {
        return Err(Error::Invalid { reason: "a page of 0 entries was asked for".to_owned() });
    }
    let end = end_of(&keys.outer(&request.prefix));
    let from = keys.outer(request.from.as_deref().map_or(&request.prefix, |from| from.max(&request.prefix)));
    let mut limit = request.limit.min(PAGE_ENTRIES);
    let deadline = cluster.deadline();
    loop {
        // One more tells where the next page begins.
        let asked = signed(u64::try_from(limit + 1).unwrap_or(u64::MAX));
        let mut options = GetOptions::new().with_range(end.clone()).with_limit(asked);
        if let Some(at) = request.at {
            options = options.with_revision(signed(at.0));
        }
        let read = |client: Client| {
            let (from, options) = (from.clone(), options.clone());
            async move { client.kv_client().max_decoding_message_size(PAGE_BYTES).get(from, Some(options)).await }
        };
        match cluster.repeat(deadline, read).await? {
            Ok(found) => return page(keys, request.at, limit, found),
            Err(Answer::Oversized) if limit > 1 => limit /= 2,
            Err(answer) => return Err(explain(cluster, keys, request.at.unwrap_or_default(), answer).await),
        }
    }
}

fn page(keys: &Keys, at: Option<Revision>, limit: usize, mut found: GetResponse) -> Result<Page, Error> {
    let revision = at.unwrap_or_else(|| answered_at(found.header()));
    let mut entries = found.take_kvs();
    let beyond = if entries.len() > limit { entries.pop() } else { None };
    let next = beyond.map(|entry| keys.inner(entry.key())).transpose()?;
    let entries = entries.into_iter().map(|entry| keys.entry(entry)).collect::<Result<_, _>>()?;
    Ok(Page { entries, revision, next })
}

/// The newest state of the whole cluster.
pub(super) async fn newest(cluster: &Cluster, keys: &Keys) -> Result<Revision, Error> {
    let outer = keys.outer("");
    let read = |mut client: Client| {
        let outer = outer.clone();
        async move { client.get(outer, Some(GetOptions::new().with_count_only())).await }
    };
    let found = cluster.repeat(cluster.deadline(), read).await?;
    Ok(answered_at(found.map_err(|answer| refusal(cluster, answer))?.header()))
}

async fn explain(cluster: &Cluster, keys: &Keys, requested: Revision, answer: Answer) -> Error {
    match answer {
        Answer::Compacted => {
            let oldest = watch::oldest(cluster, keys, requested).await.unwrap_or_else(|| requested.next());
            Error::Compacted { requested, oldest }
        }
        Answer::Future => match newest(cluster, keys).await {
            Ok(newest) => Error::FutureRevision { requested, newest },
            Err(error) => error,
        },
        answer => refusal(cluster, answer),
    }
}
