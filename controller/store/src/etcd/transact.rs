//! Transactions: their translation, and their sending until their outcome is known.

use etcd_client::{
    Client, Compare as EtcdCompare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn as EtcdTxn, TxnOp,
    TxnOpResponse, TxnResponse,
};
use tokio::time::Instant;

use super::cluster::{Cluster, Sent};
use super::failure::Answer;
use super::keys::{Keys, answered_at, revision, signed};
use super::marks::{Marks, Taken, Verdict};
use super::{leases, refusal};
use crate::error::Error;
use crate::limits;
use crate::store::{LeaseId, Revision};
use crate::txn::{Compare, Op, PutLease, Txn, TxnOutcome};

/// Most bytes of an answer: every read as large as a transaction can write it, and room for etcd's own.
const READ_BYTES: usize = limits::MAX_OPERATIONS * limits::MAX_REQUEST_BYTES + (1 << 20);

/// Carries out a transaction. Never sends one again whose outcome is not known.
pub(super) async fn transact(cluster: &Cluster, keys: &Keys, marks: &Marks, txn: &Txn) -> Result<TxnOutcome, Error> {
    limits::check(txn)?;
    let deadline = cluster.deadline();
    let half = deadline - cluster.timeouts().call / 2;
    let answer = match safety(txn) {
        Safety::ReadsOnly => {
            let send = |client: Client| {
                let request = request(keys, txn, None);
                async move { client.kv_client().max_decoding_message_size(READ_BYTES).txn(request).await }
            };
            match cluster.repeat(deadline, send).await? {
                Ok(response) => return outcome(keys, txn, &response, 0),
                Err(answer) => answer,
            }
        }
        Safety::Unmarked => match send(cluster, keys, txn, None, half, deadline).await? {
            Sent::Done(response) => return outcome(keys, txn, &response, 0),
            Sent::Answer(answer) => answer,
            Sent::Lost(reason) => return Err(Error::Unknown { reason, source: None }),
        },
        Safety::Marked => match marked(cluster, keys, marks, txn, half, deadline).await? {
            Ok(outcome) => return Ok(outcome),
            Err(answer) => answer,
        },
    };
    Err(explain(cluster, keys, txn, answer).await)
}

/// What has to be known about a transaction before it is sent a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Safety {
    /// Nothing: it changes nothing.
    ReadsOnly,
    /// Whether it took place; its mark tells.
    Marked,
    /// Whether it took place, which nobody can tell: it only deletes, and perhaps nothing, so that a mark would make a
    /// revision where there should be none.
    Unmarked,
}

fn safety(txn: &Txn) -> Safety {
    if txn.then.is_empty() {
        return Safety::ReadsOnly;
    }
    let surely_there = |key: &str| {
        txn.compares.iter().any(|compare| match compare {
            Compare::Present { key: compared } => compared == key,
            Compare::ModRevision { key: compared, is } | Compare::CreateRevision { key: compared, is } => {
                compared == key && *is > Revision::ZERO
            }
            Compare::Absent { .. } | Compare::PrefixEmpty { .. } => false,
        })
    };
    let changes = txn.then.iter().any(|op| match op {
        Op::Put { .. } => true,
        Op::Delete { key } => surely_there(key),
    });
    if changes { Safety::Marked } else { Safety::Unmarked }
}

/// Sends a transaction with a mark, again and again as long as it is certain that it was not done, for half of the
/// time; the rest is for learning what became of it.
async fn marked(
    cluster: &Cluster,
    keys: &Keys,
    marks: &Marks,
    txn: &Txn,
    half: Instant,
    deadline: Instant,
) -> Result<Result<TxnOutcome, Answer>, Error> {
    loop {
        let mut taken = marks.take(cluster, deadline).await?;
        let sent = match send(cluster, keys, txn, Some(&taken), half, deadline).await {
            Ok(sent) => sent,
            Err(error) => {
                marks.give_back(taken);
                return Err(error);
            }
        };
        match sent {
            Sent::Done(response) if response.succeeded() => {
                taken.written(response.header().map_or(0, etcd_client::ResponseHeader::revision));
                marks.give_back(taken);
                return outcome(keys, txn, &response, 1).map(Ok);
            }
            Sent::Done(response) => {
                let found = response.op_responses().into_iter().next();
                let found = if let Some(TxnOpResponse::Get(mut found)) = found { found.take_kvs().pop() } else { None };
                if taken.is_intact(found.as_ref()) {
                    marks.give_back(taken);
                    return outcome(keys, txn, &response, 1).map(Ok);
                }
                // The mark's lease had ended: the transaction failed at the mark, not at what it compares. Dropped
                // here.
            }
            Sent::Answer(answer) => {
                marks.give_back(taken);
                return Ok(Err(answer));
            }
            Sent::Lost(reason) => {
                tracing::info!(reason, "etcd: an answer was lost; looking whether the transaction took place");
                match marks.resolve(cluster, deadline, &mut taken).await {
                    Ok(Verdict::Done(at)) => {
                        marks.give_back(taken);
                        return Ok(Ok(TxnOutcome { succeeded: true, revision: revision(at), reads: Vec::new() }));
                    }
                    Ok(Verdict::NotDone) => {
                        marks.give_back(taken);
                        if Instant::now() >= half {
                            return Err(Error::Unavailable {
                                reason: format!("{reason}; the transaction did not take place"),
                            });
                        }
                    }
                    Ok(Verdict::Unknown) => return Err(Error::Unknown { reason, source: None }),
                    Err(error) => {
                        return Err(Error::Unknown { reason, source: Some(std::sync::Arc::new(error)) });
                    }
                }
            }
        }
    }
}

async fn send(
    cluster: &Cluster,
    keys: &Keys,
    txn: &Txn,
    mark: Option<&Taken<'_>>,
    last_start: Instant,
    deadline: Instant,
) -> Result<Sent<TxnResponse>, Error> {
    let send = |client: Client| {
        let request = request(keys, txn, mark);
        async move { client.kv_client().max_decoding_message_size(READ_BYTES).txn(request).await }
    };
    cluster.once(last_start, deadline, send).await
}

/// The transaction in etcd's terms; what belongs to the mark comes first in each list.
fn request(keys: &Keys, txn: &Txn, mark: Option<&Taken<'_>>) -> EtcdTxn {
    let compares = txn.compares.iter().map(|compare| match compare {
        Compare::ModRevision { key, is } => EtcdCompare::mod_revision(keys.outer(key), CompareOp::Equal, signed(is.0)),
        Compare::CreateRevision { key, is } => {
            EtcdCompare::create_revision(keys.outer(key), CompareOp::Equal, signed(is.0))
        }
        Compare::Absent { key } => EtcdCompare::version(keys.outer(key), CompareOp::Equal, 0),
        Compare::Present { key } => EtcdCompare::version(keys.outer(key), CompareOp::NotEqual, 0),
        // Of a range, every key has to compare so; with none, that holds.
        Compare::PrefixEmpty { prefix } => EtcdCompare::version(keys.outer(prefix), CompareOp::Equal, 0).with_prefix(),
    });
    let changes = txn.then.iter().map(|op| match op {
        Op::Put { key, value, lease } => {
            let options = match lease {
                PutLease::None => PutOptions::new(),
                PutLease::Attach(lease) => PutOptions::new().with_lease(signed(lease.0)),
                PutLease::Keep => PutOptions::new().with_ignore_lease(),
            };
            TxnOp::put(keys.outer(key), value.to_vec(), Some(options))
        }
        Op::Delete { key } => TxnOp::delete(keys.outer(key), Some(DeleteOptions::new())),
    });
    let reads = txn.otherwise.iter().map(|read| TxnOp::get(keys.outer(&read.key), Some(GetOptions::new())));
    EtcdTxn::new()
        .when(mark.map(Taken::compare).into_iter().chain(compares).collect::<Vec<_>>())
        .and_then(mark.map(Taken::put).into_iter().chain(changes).collect::<Vec<_>>())
        .or_else(mark.map(Taken::get).into_iter().chain(reads).collect::<Vec<_>>())
}

/// What an answer says; `skip` results of it belong to the mark.
fn outcome(keys: &Keys, txn: &Txn, response: &TxnResponse, skip: usize) -> Result<TxnOutcome, Error> {
    let (succeeded, revision) = (response.succeeded(), answered_at(response.header()));
    let mut reads = Vec::new();
    if !succeeded {
        for result in response.op_responses().into_iter().skip(skip) {
            let found = if let TxnOpResponse::Get(mut found) = result { found.take_kvs().pop() } else { None };
            reads.push(found.map(|entry| keys.entry(entry)).transpose()?);
        }
        if reads.len() != txn.otherwise.len() {
            let reason = format!("etcd answered {} reads, not {}", reads.len(), txn.otherwise.len());
            return Err(Error::Invalid { reason });
        }
    }
    Ok(TxnOutcome { succeeded, revision, reads })
}

/// The error for an answer, with the lease or key that etcd does not name.
async fn explain(cluster: &Cluster, keys: &Keys, txn: &Txn, answer: Answer) -> Error {
    let attached = txn.then.iter().filter_map(|op| match op {
        Op::Put { lease: PutLease::Attach(lease), .. } => Some(*lease),
        _ => None,
    });
    match answer {
        Answer::LeaseNotFound => {
            let first = attached.clone().next().unwrap_or(LeaseId(0));
            let lease = leases::first_dead(cluster, attached).await.ok().flatten().unwrap_or(first);
            Error::LeaseNotFound { lease }
        }
        Answer::KeyNotFound => Error::KeyNotFound { key: first_absent(cluster, keys, txn).await },
        Answer::TooLarge => {
            let bytes = txn.then.iter().map(|op| match op {
                Op::Put { key, value, .. } => key.len() + value.len(),
                Op::Delete { key } => key.len(),
            });
            Error::TooLarge { bytes: bytes.sum(), most: limits::MAX_REQUEST_BYTES }
        }
        answer => refusal(cluster, answer),
    }
}

/// The first key that should keep its lease and does not exist.
async fn first_absent(cluster: &Cluster, keys: &Keys, txn: &Txn) -> String {
    let mut kept = txn.then.iter().filter_map(|op| match op {
        Op::Put { key, lease: PutLease::Keep, .. } => Some(key),
        _ => None,
    });
    let first = kept.clone().next().cloned().unwrap_or_default();
    loop {
        let Some(key) = kept.next() else { return first };
        let outer = keys.outer(key);
        let look = |mut client: Client| {
            let outer = outer.clone();
            async move { client.get(outer, Some(GetOptions::new().with_count_only())).await.map(|found| found.count()) }
        };
        if let Ok(Ok(0)) = cluster.repeat(cluster.deadline(), look).await {
            return key.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_marked_exactly_when_it_makes_a_revision_for_certain() {
        for (txn, expected) in [
            (Txn::new(), Safety::ReadsOnly),
            (Txn::new().if_present("a").or_read("a"), Safety::ReadsOnly),
            (Txn::new().put("a", ""), Safety::Marked),
            (Txn::new().delete("a").put("b", ""), Safety::Marked),
            (Txn::new().delete("a"), Safety::Unmarked),
            (Txn::new().if_present("b").delete("a"), Safety::Unmarked),
            (Txn::new().if_mod("a", Revision::ZERO).delete("a"), Safety::Unmarked),
            (Txn::new().if_absent("a").delete("a"), Safety::Unmarked),
            (Txn::new().if_present("a").delete("a"), Safety::Marked),
            (Txn::new().if_mod("a", Revision(3)).delete("a").delete("b"), Safety::Marked),
            (Txn::new().if_created("b", Revision(3)).delete("a").delete("b"), Safety::Marked),
        ] {
            assert_eq!(safety(&txn), expected, "{txn:?}");
        }
    }
}
