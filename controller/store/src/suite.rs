//! What every store must do. An implementation gives a [`Subject`] and calls [`conformance!`](crate::conformance): each
//! case becomes a test of its own. Cases say what they prove in their names.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::time::{sleep, timeout};

use crate::error::Error;
use crate::limits;
use crate::store::{Event, Events, KeyValue, LeaseId, RangeRequest, Revision, StateStore, WatchBatch, list};
use crate::txn::{PutLease, Txn, TxnOutcome};

/// An empty store to be tested, of one test alone: nobody else makes revisions meanwhile, though some may have been
/// made before.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn StateStore>;

    /// Makes the store forget all history up to now.
    async fn compact(&self);
}

/// Makes a test of each case: `conformance!(tokio::test, super::subject().await)`. Where a store is too dear to be made
/// for each, all become one test with a name, on one world, which says at its end which cases failed:
/// `conformance!(tokio::test, name, world = start().await, subject(&world).await)`.
#[macro_export]
macro_rules! conformance {
    ($test:meta, $subject:expr) => {
        mod conformance {
            $crate::conformance!(@cases each $test, $subject);
        }
    };
    ($test:meta, $name:ident, $world:ident = $start:expr, $subject:expr) => {
        #[$test]
        async fn $name() {
            let $world = $start;
            let mut failed: Vec<&str> = Vec::new();
            $crate::conformance!(@cases in_turn failed, $subject);
            assert!(failed.is_empty(), "these cases failed: {failed:?}");
        }
    };
    (@cases $how:ident $what:tt, $subject:expr) => {
        $crate::conformance!(@$how $what, $subject;
            a_key_counts_its_writes_and_knows_the_revisions_that_created_and_wrote_it
            a_transaction_that_changes_nothing_makes_no_revision
            a_transaction_takes_place_as_a_whole_or_not_at_all
            every_compare_holds_exactly_when_it_should
            a_failed_compare_reads_what_is_there_instead
            of_many_that_compare_the_same_revision_one_wins
            the_limits_of_a_transaction_are_enforced_before_anything_happens
            pages_follow_each_other_without_gap_or_repetition
            pages_show_one_state_whatever_changes_between_them
            a_state_that_is_forgotten_or_has_not_come_is_refused
            a_watch_sees_every_change_under_its_prefix_once_and_in_order
            a_watch_resumes_from_any_kept_revision
            a_watch_never_tears_a_revision_apart
            a_watch_from_forgotten_history_ends_and_a_new_list_goes_on
            a_lease_that_nobody_keeps_alive_ends_with_its_keys_in_one_revision
            a_lease_that_is_kept_alive_goes_on
            a_revoked_lease_takes_its_keys_along_and_nothing_else
            a_write_decides_whether_a_key_keeps_changes_or_loses_its_lease
            a_dead_lease_fails_the_whole_transaction
        );
    };
    (@each $test:tt, $subject:expr; $($case:ident)*) => {$(
        #[$test]
        async fn $case() {
            let subject = $subject;
            $crate::suite::$case(&subject).await;
        }
    )*};
    (@in_turn $failed:tt, $subject:expr; $($case:ident)*) => {$(
        let case = async {
            let subject = $subject;
            $crate::suite::$case(&subject).await;
        };
        if ::futures::FutureExt::catch_unwind(::std::panic::AssertUnwindSafe(case)).await.is_err() {
            $failed.push(stringify!($case));
        }
    )*};
}

/// Longest wait for something that must come.
const SOON: Duration = Duration::from_secs(20);

async fn commit(store: &dyn StateStore, txn: Txn) -> TxnOutcome {
    let outcome = store.txn(txn).await.expect("the transaction should not fail");
    assert!(outcome.succeeded, "every compare should hold");
    outcome
}

async fn entry(store: &dyn StateStore, key: &str) -> KeyValue {
    store.get(key).await.expect("reading should not fail").unwrap_or_else(|| panic!("{key} should exist"))
}

async fn is_absent(store: &dyn StateStore, key: &str) -> bool {
    store.get(key).await.expect("reading should not fail").is_none()
}

async fn values(store: &dyn StateStore, prefix: &str) -> Vec<(String, String)> {
    let (entries, _) = list(store, prefix).await.expect("listing should not fail");
    entries.into_iter().map(|entry| (entry.key, String::from_utf8_lossy(&entry.value).into_owned())).collect()
}

async fn next(events: &mut Events) -> WatchBatch {
    let item = timeout(SOON, events.next()).await.expect("an event should come soon");
    item.expect("the watch should go on").expect("the watch should not fail")
}

async fn next_error(events: &mut Events) -> Error {
    let item = timeout(SOON, events.next()).await.expect("an answer should come soon");
    item.expect("the watch should say why it ends").expect_err("the watch should fail")
}

async fn collect(events: &mut Events, until: Revision) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        let batch = next(events).await;
        all.extend(batch.events);
        if batch.revision >= until {
            return all;
        }
    }
}

fn shown(event: &Event) -> String {
    match event {
        Event::Put(entry) => format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value)),
        Event::Delete { key, .. } => format!("-{key}"),
    }
}

/// See its name.
pub async fn a_key_counts_its_writes_and_knows_the_revisions_that_created_and_wrote_it(subject: &impl Subject) {
    let store = subject.store();
    let created = commit(&*store, Txn::new().put("k", "1").put("other", "1")).await.revision;
    let written = commit(&*store, Txn::new().put("k", "2")).await.revision;
    assert!(written > created);
    let key = entry(&*store, "k").await;
    assert_eq!(
        (key.create_revision, key.mod_revision, key.version, key.value.as_ref()),
        (created, written, 2, b"2".as_ref())
    );
    commit(&*store, Txn::new().delete("k")).await;
    assert!(is_absent(&*store, "k").await);
    let anew = commit(&*store, Txn::new().put("k", "3")).await.revision;
    let key = entry(&*store, "k").await;
    assert_eq!((key.create_revision, key.mod_revision, key.version), (anew, anew, 1));
}

/// See its name.
pub async fn a_transaction_that_changes_nothing_makes_no_revision(subject: &impl Subject) {
    let store = subject.store();
    let before = commit(&*store, Txn::new().put("k", "1")).await.revision;
    assert_eq!(commit(&*store, Txn::new().delete("no such key")).await.revision, before);
    assert_eq!(commit(&*store, Txn::new().if_present("k")).await.revision, before);
    let refused = store.txn(Txn::new().if_absent("k").put("k", "2")).await.expect("a compare that fails is no error");
    assert_eq!((refused.succeeded, refused.revision), (false, before));
    // Writing what is there already is a write all the same.
    assert_eq!(commit(&*store, Txn::new().put("k", "1")).await.revision, before.next());
}

/// See its name.
pub async fn a_transaction_takes_place_as_a_whole_or_not_at_all(subject: &impl Subject) {
    let store = subject.store();
    let revision = commit(&*store, Txn::new().put("a", "1").put("b", "1").put("c", "1")).await.revision;
    let all = Txn::new().if_mod("a", revision).if_mod("b", revision).put("a", "2").delete("b").put("d", "2");
    let outcome = commit(&*store, all.clone()).await;
    for key in ["a", "d"] {
        assert_eq!(entry(&*store, key).await.mod_revision, outcome.revision);
    }
    let after = values(&*store, "").await;
    assert_eq!(after, [("a", "2"), ("c", "1"), ("d", "2")].map(|(key, value)| (key.to_owned(), value.to_owned())));
    let again = store.txn(all).await.expect("a compare that fails is no error");
    assert!(!again.succeeded);
    assert_eq!(values(&*store, "").await, after);
}

/// See its name.
pub async fn every_compare_holds_exactly_when_it_should(subject: &impl Subject) {
    let store = subject.store();
    let created = commit(&*store, Txn::new().put("p/k", "1")).await.revision;
    let written = commit(&*store, Txn::new().put("p/k", "2")).await.revision;
    let none = Revision::ZERO;
    for (txn, holds) in [
        (Txn::new().if_mod("p/k", written), true),
        (Txn::new().if_mod("p/k", created), false),
        (Txn::new().if_mod("p/k", none), false),
        (Txn::new().if_mod("p/x", none), true),
        (Txn::new().if_mod("p/x", written), false),
        (Txn::new().if_created("p/k", created), true),
        (Txn::new().if_created("p/k", written), false),
        (Txn::new().if_created("p/x", none), true),
        (Txn::new().if_absent("p/k"), false),
        (Txn::new().if_absent("p/x"), true),
        (Txn::new().if_present("p/k"), true),
        (Txn::new().if_present("p/x"), false),
        (Txn::new().if_empty("p/"), false),
        (Txn::new().if_empty("p/k"), false),
        (Txn::new().if_empty("p/k/"), true),
        (Txn::new().if_empty("p0"), true),
        (Txn::new().if_empty("o"), true),
        (Txn::new().if_present("p/k").if_absent("p/k"), false),
        (Txn::new(), true),
    ] {
        let outcome = store.txn(txn.clone()).await.expect("a compare that fails is no error");
        assert_eq!(outcome.succeeded, holds, "{txn:?}");
    }
}

/// See its name.
pub async fn a_failed_compare_reads_what_is_there_instead(subject: &impl Subject) {
    let store = subject.store();
    commit(&*store, Txn::new().put("a", "1").put("b", "1")).await;
    let txn = Txn::new().if_absent("a").put("a", "2").or_read("b").or_read("none").or_read("a");
    let outcome = store.txn(txn.clone()).await.expect("a compare that fails is no error");
    assert!(!outcome.succeeded);
    let (a, b) = (entry(&*store, "a").await, entry(&*store, "b").await);
    assert_eq!(outcome.reads, [Some(b), None, Some(a)]);
    let txn = Txn::new().if_present("a").or_read("a");
    assert_eq!(commit(&*store, txn).await.reads, []);
}

/// See its name.
pub async fn of_many_that_compare_the_same_revision_one_wins(subject: &impl Subject) {
    let store = subject.store();
    let mut revision = Revision::ZERO;
    for _round in 0..5 {
        let contenders = (0..8).map(|contender: u32| {
            let store = Arc::clone(&store);
            let txn =
                Txn::new().if_mod("k", revision).put("k", contender.to_string()).put(format!("won/{contender}"), "");
            async move { store.txn(txn).await.expect("a compare that fails is no error") }
        });
        let outcomes = futures::future::join_all(contenders).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.succeeded).count(), 1);
        revision = entry(&*store, "k").await.mod_revision;
        let winner = String::from_utf8_lossy(&entry(&*store, "k").await.value).into_owned();
        assert_eq!(entry(&*store, &format!("won/{winner}")).await.mod_revision, revision);
    }
}

/// See its name.
pub async fn the_limits_of_a_transaction_are_enforced_before_anything_happens(subject: &impl Subject) {
    let store = subject.store();
    let most = limits::MAX_OPERATIONS;
    let puts = |count: usize| (0..count).fold(Txn::new(), |txn, number| txn.put(format!("k{number}"), ""));
    let compares = |count: usize| (0..count).fold(Txn::new(), |txn, number| txn.if_absent(format!("x{number}")));
    let both = Txn { compares: compares(most).compares, ..puts(most) };
    commit(&*store, both).await;
    let too_many = store.txn(puts(most + 1)).await.expect_err("too many changes should be refused");
    assert!(matches!(too_many, Error::TooManyOperations { .. }), "{too_many:?}");
    let too_many = store.txn(compares(most + 1).put("n", "")).await.expect_err("too many compares should be refused");
    assert!(matches!(too_many, Error::TooManyOperations { .. }), "{too_many:?}");
    commit(&*store, Txn::new().put("large", vec![7; limits::MAX_REQUEST_BYTES - 1000])).await;
    assert_eq!(entry(&*store, "large").await.value.len(), limits::MAX_REQUEST_BYTES - 1000);
    let too_large = Txn::new().put("n", vec![7; limits::MAX_REQUEST_BYTES]);
    let too_large = store.txn(too_large).await.expect_err("too much should be refused");
    assert!(matches!(too_large, Error::TooLarge { .. }), "{too_large:?}");
    let twice = store.txn(Txn::new().put("n", "1").delete("n")).await.expect_err("a key cannot change twice");
    assert!(matches!(twice, Error::DuplicateKey { .. }), "{twice:?}");
    let empty = store.txn(Txn::new().put("", "1").put("n", "")).await.expect_err("a key cannot be empty");
    assert!(matches!(empty, Error::Invalid { .. }), "{empty:?}");
    assert!(is_absent(&*store, "n").await);
}

/// See its name.
pub async fn pages_follow_each_other_without_gap_or_repetition(subject: &impl Subject) {
    let store = subject.store();
    let keys: Vec<String> = (0..25).map(|number| format!("p/{number:02}")).collect();
    let txn = keys.iter().fold(Txn::new().put("o/1", "").put("p", "").put("q", ""), |txn, key| txn.put(key, ""));
    commit(&*store, txn).await;
    for limit in [1, 2, 7, 24, 25, 26, 1000] {
        let mut request = RangeRequest::prefix("p/", limit);
        let mut seen = Vec::new();
        loop {
            let page = store.range(request.clone()).await.expect("a page should be read");
            assert!(page.entries.len() <= limit);
            seen.extend(page.entries.iter().map(|entry| entry.key.clone()));
            match request.after(&page) {
                Some(next) => request = next,
                None => break,
            }
        }
        assert_eq!(seen, keys, "with a limit of {limit}");
    }
    let none = store.range(RangeRequest::prefix("nothing/", 10)).await.expect("a page should be read");
    assert_eq!((none.entries.len(), none.next), (0, None));
    let zero = store.range(RangeRequest::prefix("p/", 0)).await.expect_err("a page of nothing makes no sense");
    assert!(matches!(zero, Error::Invalid { .. }), "{zero:?}");
}

/// See its name.
pub async fn pages_show_one_state_whatever_changes_between_them(subject: &impl Subject) {
    let store = subject.store();
    for key in ["p/a", "p/b", "p/c", "p/d", "p/e"] {
        commit(&*store, Txn::new().put(key, "old")).await;
    }
    let first = RangeRequest::prefix("p/", 2);
    let mut request = first.clone();
    let mut seen = Vec::new();
    let mut round = 0;
    loop {
        let page = store.range(request.clone()).await.expect("a page should be read");
        seen.extend(
            page.entries.iter().map(|entry| (entry.key.clone(), String::from_utf8_lossy(&entry.value).into_owned())),
        );
        round += 1;
        let change = Txn::new()
            .put("p/aa", "new")
            .put("p/d", format!("new {round}"))
            .delete("p/e")
            .put(format!("p/z{round}"), "new");
        commit(&*store, change).await;
        commit(&*store, Txn::new().delete("p/c").put("p/bb", "new")).await;
        match request.after(&page) {
            Some(next) => request = next,
            None => break,
        }
    }
    let old = ["p/a", "p/b", "p/c", "p/d", "p/e"].map(|key| (key.to_owned(), "old".to_owned()));
    assert_eq!(seen, old);
    assert_eq!(values(&*store, "p/").await.len(), 8);
}

/// See its name.
pub async fn a_state_that_is_forgotten_or_has_not_come_is_refused(subject: &impl Subject) {
    let store = subject.store();
    let old = commit(&*store, Txn::new().put("k", "1")).await.revision;
    let new = commit(&*store, Txn::new().put("k", "2")).await.revision;
    let at = |revision| RangeRequest { at: Some(revision), ..RangeRequest::prefix("k", 10) };
    let page = store.range(at(old)).await.expect("the state is still kept");
    assert_eq!((page.entries[0].value.as_ref(), page.revision), (b"1".as_ref(), old));
    let future = store.range(at(new.next())).await.expect_err("the state has not come");
    assert!(matches!(future, Error::FutureRevision { .. }), "{future:?}");
    subject.compact().await;
    let forgotten = store.range(at(old)).await.expect_err("the state is forgotten");
    assert!(matches!(forgotten, Error::Compacted { .. }), "{forgotten:?}");
    assert_eq!(store.range(at(new)).await.expect("the newest state is there").entries[0].value.as_ref(), b"2");
}

/// See its name.
pub async fn a_watch_sees_every_change_under_its_prefix_once_and_in_order(subject: &impl Subject) {
    let store = subject.store();
    commit(&*store, Txn::new().put("p/old", "")).await;
    let (_, revision) = list(&*store, "p/").await.expect("listing should not fail");
    let mut events = store.watch("p/", revision.next()).await.expect("watching should begin");
    let writer = async {
        let mut last = Revision::ZERO;
        for number in 0..50 {
            commit(&*store, Txn::new().put("elsewhere", number.to_string())).await;
            last = commit(&*store, Txn::new().put(format!("p/{number:02}"), number.to_string())).await.revision;
        }
        commit(&*store, Txn::new().delete("p/old")).await.revision.max(last)
    };
    let watcher = async {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != "-p/old") {
            let batch = next(&mut events).await;
            assert!(batch.events.iter().all(|event| event.revision() <= batch.revision));
            assert!(batch.events.is_sorted_by_key(Event::revision));
            seen.extend(batch.events.iter().map(shown));
        }
        seen
    };
    let (_, seen) = tokio::join!(writer, watcher);
    let expected: Vec<String> =
        (0..50).map(|number| format!("p/{number:02}={number}")).chain(["-p/old".to_owned()]).collect();
    assert_eq!(seen, expected);
}

/// See its name.
pub async fn a_watch_resumes_from_any_kept_revision(subject: &impl Subject) {
    let store = subject.store();
    let mut revisions = Vec::new();
    for number in 0..10 {
        revisions.push(commit(&*store, Txn::new().put("k", number.to_string())).await.revision);
    }
    let last = *revisions.last().expect("ten were made");
    for (number, revision) in revisions.iter().enumerate() {
        let mut events = store.watch("k", *revision).await.expect("watching should begin");
        let seen: Vec<String> = collect(&mut events, last).await.iter().map(shown).collect();
        let expected: Vec<String> = (number..10).map(|number| format!("k={number}")).collect();
        assert_eq!(seen, expected);
    }
    // From the future, nothing is seen before it comes.
    let mut events = store.watch("k", last.next().next()).await.expect("watching should begin");
    commit(&*store, Txn::new().put("k", "too early")).await;
    commit(&*store, Txn::new().put("k", "wanted")).await;
    assert_eq!(next(&mut events).await.events.iter().map(shown).collect::<Vec<_>>(), ["k=wanted"]);
}

/// See its name.
pub async fn a_watch_never_tears_a_revision_apart(subject: &impl Subject) {
    let store = subject.store();
    let (mut first, mut last) = (None, Revision::ZERO);
    for round in 0..10 {
        let txn = (0..100).fold(Txn::new(), |txn, number| txn.put(format!("k{number:03}"), round.to_string()));
        last = commit(&*store, txn).await.revision;
        first.get_or_insert(last);
    }
    let mut events = store.watch("k", first.unwrap_or(last)).await.expect("watching should begin");
    let mut seen = 0;
    while seen < 1000 {
        let batch = next(&mut events).await;
        let mut counts = std::collections::BTreeMap::new();
        for event in &batch.events {
            *counts.entry(event.revision()).or_insert(0) += 1;
        }
        assert!(counts.values().all(|count| *count == 100), "{counts:?}");
        seen += batch.events.len();
        assert!(batch.revision <= last);
    }
}

/// See its name.
pub async fn a_watch_from_forgotten_history_ends_and_a_new_list_goes_on(subject: &impl Subject) {
    let store = subject.store();
    let first = commit(&*store, Txn::new().put("k", "1")).await.revision;
    commit(&*store, Txn::new().put("k", "2")).await;
    subject.compact().await;
    let mut events = store.watch("k", first).await.expect("the stream says it, not the call");
    let error = next_error(&mut events).await;
    assert!(matches!(error, Error::Compacted { requested, .. } if requested == first), "{error:?}");
    assert!(timeout(SOON, events.next()).await.expect("the stream should end").is_none());
    let (entries, revision) = list(&*store, "k").await.expect("listing should not fail");
    assert_eq!(entries.len(), 1);
    let mut events = store.watch("k", revision.next()).await.expect("watching should begin");
    commit(&*store, Txn::new().put("k", "3")).await;
    assert_eq!(next(&mut events).await.events.iter().map(shown).collect::<Vec<_>>(), ["k=3"]);
}

/// See its name.
pub async fn a_lease_that_nobody_keeps_alive_ends_with_its_keys_in_one_revision(subject: &impl Subject) {
    let store = subject.store();
    let lease = store.grant(Duration::from_millis(1500)).await.expect("a lease should be granted");
    assert!(lease.ttl >= Duration::from_millis(1500), "{lease:?}");
    let attach = PutLease::Attach(lease.id);
    let txn = Txn::new().put_with("s/a", "", attach).put_with("s/b", "", attach).put("s/c", "");
    let revision = commit(&*store, txn).await.revision;
    assert_eq!(entry(&*store, "s/a").await.lease, Some(lease.id));
    let mut events = store.watch("s/", revision.next()).await.expect("watching should begin");
    let batch = next(&mut events).await;
    assert_eq!(batch.events.iter().map(shown).collect::<Vec<_>>(), ["-s/a", "-s/b"]);
    assert_eq!(batch.events[0].revision(), batch.events[1].revision());
    assert_eq!(values(&*store, "s/").await.len(), 1);
    let late = store.keep_alive(lease.id).await.expect_err("the lease is over");
    assert!(matches!(late, Error::LeaseNotFound { lease: id } if id == lease.id), "{late:?}");
}

/// See its name.
pub async fn a_lease_that_is_kept_alive_goes_on(subject: &impl Subject) {
    let store = subject.store();
    let lease = store.grant(Duration::from_secs(2)).await.expect("a lease should be granted");
    commit(&*store, Txn::new().put_with("k", "", PutLease::Attach(lease.id))).await;
    // Half again as long as it would live alone.
    for _ in 0..6 {
        sleep(lease.ttl / 4).await;
        assert_eq!(store.keep_alive(lease.id).await.expect("the lease should live"), lease.ttl);
    }
    assert!(!is_absent(&*store, "k").await);
    // Its end would make a revision in the midst of another case.
    store.revoke(lease.id).await.expect("the lease should live");
}

/// See its name.
pub async fn a_revoked_lease_takes_its_keys_along_and_nothing_else(subject: &impl Subject) {
    let store = subject.store();
    let gone = store.grant(Duration::from_secs(60)).await.expect("a lease should be granted");
    let kept = store.grant(Duration::from_secs(60)).await.expect("a lease should be granted");
    assert_ne!(gone.id, kept.id);
    let txn = Txn::new()
        .put_with("a", "", PutLease::Attach(gone.id))
        .put_with("b", "", PutLease::Attach(kept.id))
        .put("c", "");
    let before = commit(&*store, txn).await.revision;
    store.revoke(gone.id).await.expect("the lease should live");
    let keys: Vec<String> = values(&*store, "").await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["b", "c"]);
    let again = store.revoke(gone.id).await.expect_err("the lease is over");
    assert!(matches!(again, Error::LeaseNotFound { .. }), "{again:?}");
    // A lease without keys ends without a revision.
    let empty = store.grant(Duration::from_secs(60)).await.expect("a lease should be granted");
    store.revoke(empty.id).await.expect("the lease should live");
    assert_eq!(commit(&*store, Txn::new().put("d", "")).await.revision, before.next().next());
}

/// See its name.
pub async fn a_write_decides_whether_a_key_keeps_changes_or_loses_its_lease(subject: &impl Subject) {
    let store = subject.store();
    let one = store.grant(Duration::from_secs(60)).await.expect("a lease should be granted");
    let two = store.grant(Duration::from_secs(60)).await.expect("a lease should be granted");
    let txn = ["kept", "moved", "lost", "gone"]
        .into_iter()
        .fold(Txn::new(), |txn, key| txn.put_with(key, "1", PutLease::Attach(one.id)));
    commit(&*store, txn).await;
    let txn = Txn::new()
        .put_with("kept", "2", PutLease::Keep)
        .put_with("moved", "2", PutLease::Attach(two.id))
        .put("lost", "2");
    commit(&*store, txn).await;
    let leases =
        [entry(&*store, "kept").await.lease, entry(&*store, "moved").await.lease, entry(&*store, "lost").await.lease];
    assert_eq!(leases, [Some(one.id), Some(two.id), None]);
    store.revoke(one.id).await.expect("the lease should live");
    let keys: Vec<String> = values(&*store, "").await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["lost", "moved"]);
}

/// See its name.
pub async fn a_dead_lease_fails_the_whole_transaction(subject: &impl Subject) {
    let store = subject.store();
    let never = LeaseId(u64::from(u32::MAX));
    for txn in [
        Txn::new().put("a", "").put_with("b", "", PutLease::Attach(never)),
        Txn::new().put("a", "").put_with("b", "", PutLease::Keep),
    ] {
        let error = store.txn(txn).await.expect_err("there is no such lease");
        assert!(matches!(error, Error::LeaseNotFound { .. } | Error::KeyNotFound { .. }), "{error:?}");
    }
    assert_eq!(values(&*store, "").await, []);
}
