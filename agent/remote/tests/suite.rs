//! The one suite that every kind of remote must pass.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use coffer_remote::commit::{self, CommitRecord, Decider, Decision, State, Verdict};
use coffer_remote::{Error, FailingRemote, Fault, LocalRemote, MemoryRemote, ObjectName, Remote};
use uuid::Uuid;

fn name(name: &str) -> ObjectName {
    ObjectName::new(name).unwrap()
}

fn body(parts: &[&'static [u8]]) -> Vec<Bytes> {
    parts.iter().map(|part| Bytes::from_static(part)).collect()
}

/// Everything that a remote promises. The remote is empty.
async fn suite(remote: Arc<dyn Remote>) {
    assert!(!remote.describe().is_empty());
    assert!(remote.capabilities().create_exclusive);
    absent_objects_are_said_to_be_absent(&*remote).await;
    objects_come_back_whole_and_in_parts(&*remote).await;
    a_name_is_published_once(&*remote).await;
    folders_are_listed_sorted_at_any_depth(&*remote).await;
    of_racing_creates_one_wins(&remote).await;
    tasks_are_decided_once(&remote).await;
}

async fn absent_objects_are_said_to_be_absent(remote: &dyn Remote) {
    let absent = name("nowhere/at/all");
    assert!(matches!(remote.read(&absent).await, Err(Error::NotFound { .. })));
    assert!(matches!(remote.read_range(&absent, 0..1).await, Err(Error::NotFound { .. })));
    assert!(matches!(remote.stat(&absent).await, Err(Error::NotFound { .. })));
    assert_eq!(remote.list(&absent).await.unwrap(), []);
    remote.delete(&absent).await.unwrap();
    assert_eq!(coffer_remote::read_if_present(remote, &absent).await.unwrap(), None);
}

async fn objects_come_back_whole_and_in_parts(remote: &dyn Remote) {
    let object = name("parts/one");
    remote.create(&object, body(&[b"Hello", b"", b", ", b"world"])).await.unwrap();
    assert_eq!(remote.read(&object).await.unwrap(), "Hello, world");
    assert_eq!(remote.read_range(&object, 7..12).await.unwrap(), "world");
    assert_eq!(remote.read_range(&object, 12..12).await.unwrap(), "");
    for beyond in [7..13, 13..14, 0..u64::MAX, u64::MAX - 1..u64::MAX] {
        let error = remote.read_range(&object, beyond.clone()).await.unwrap_err();
        assert!(matches!(error, Error::OutOfRange { size: 12, .. }), "{beyond:?}: {error}");
    }
    let info = remote.stat(&object).await.unwrap();
    assert_eq!((info.name.as_str(), info.size), ("parts/one", 12));
    let age = SystemTime::now().duration_since(info.modified).unwrap_or_default();
    assert!(age < Duration::from_secs(60));
    let large = Bytes::from((0..3_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    let parts = (0..large.len()).step_by(9999).map(|start| large.slice(start..large.len().min(start + 9999))).collect();
    remote.create(&name("parts/large"), parts).await.unwrap();
    assert_eq!(remote.read(&name("parts/large")).await.unwrap(), large);
    remote.create(&name("parts/empty"), Vec::new()).await.unwrap();
    assert_eq!(remote.read(&name("parts/empty")).await.unwrap(), "");
}

async fn a_name_is_published_once(remote: &dyn Remote) {
    let object = name("once/object");
    remote.create(&object, body(&[b"first"])).await.unwrap();
    let error = remote.create(&object, body(&[b"second"])).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }) && !error.is_retryable(), "{error}");
    assert_eq!(remote.read(&object).await.unwrap(), "first");
    remote.delete(&object).await.unwrap();
    remote.delete(&object).await.unwrap();
    assert!(matches!(remote.read(&object).await, Err(Error::NotFound { .. })));
    remote.create(&object, body(&[b"third"])).await.unwrap();
    assert_eq!(remote.read(&object).await.unwrap(), "third");
}

async fn folders_are_listed_sorted_at_any_depth(remote: &dyn Remote) {
    for object in ["list/b", "list/a/2", "list/a/1", "list/a-b", "listed/x"] {
        remote.create(&name(object), body(&[b"x"])).await.unwrap();
    }
    let names =
        |infos: Vec<coffer_remote::ObjectInfo>| infos.into_iter().map(|info| info.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(remote.list(&name("list")).await.unwrap()), ["list/a-b", "list/a/1", "list/a/2", "list/b"]);
    assert_eq!(names(remote.list(&name("list/a")).await.unwrap()), ["list/a/1", "list/a/2"]);
}

async fn of_racing_creates_one_wins(remote: &Arc<dyn Remote>) {
    for round in 0..20 {
        let object = name(&format!("race/{round}"));
        let racers = (0..4_u8).map(|racer| {
            let (remote, object) = (remote.clone(), object.clone());
            tokio::spawn(async move { remote.create(&object, vec![Bytes::from(vec![racer; 1000])]).await })
        });
        let mut winners = 0;
        for (racer, result) in futures_of(racers).await.into_iter().enumerate() {
            match result {
                Ok(()) => {
                    winners += 1;
                    assert_eq!(remote.read(&object).await.unwrap(), vec![u8::try_from(racer).unwrap(); 1000]);
                }
                Err(Error::AlreadyExists { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(winners, 1);
    }
}

async fn futures_of<T>(tasks: impl Iterator<Item = tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        results.push(task.await.unwrap());
    }
    results
}

async fn tasks_are_decided_once(remote: &Arc<dyn Remote>) {
    let vm = Uuid::new_v4();
    let mut decided = Vec::new();
    for round in 0..10_u64 {
        let task = Uuid::new_v4();
        assert_eq!(commit::read(&**remote, vm, task).await.unwrap(), State::Undecided { torn: 0 });
        let rivals = [
            CommitRecord::commit(vm, task, (1, round), "ab".repeat(32), "cd".repeat(32)),
            CommitRecord::abort(vm, task, (1, round + 1)),
        ];
        let tasks = rivals.clone().map(|record| {
            let remote = remote.clone();
            tokio::spawn(async move { commit::decide(&*remote, &record, Decider::Writer).await.unwrap() })
        });
        let decisions = futures_of(tasks.into_iter()).await;
        let winner = decisions[0].record().clone();
        assert_eq!(decisions[1].record(), &winner);
        assert_eq!(decisions.iter().filter(|decision| matches!(decision, Decision::Won(_))).count(), 1);
        assert_eq!(commit::read(&**remote, vm, task).await.unwrap(), State::Decided(winner.clone()));
        // Asking again with the same nonce tells the same.
        for (record, decision) in rivals.iter().zip(&decisions) {
            assert_eq!(&commit::decide(&**remote, record, Decider::Writer).await.unwrap(), decision);
        }
        decided.push(winner);
    }
    let mut listed = commit::list(&**remote, Some(vm)).await.unwrap();
    listed.sort_by_key(|record| record.epoch);
    decided.sort_by_key(|record| record.epoch);
    assert_eq!(listed.len(), decided.len());
    assert!(commit::list(&**remote, Some(Uuid::new_v4())).await.unwrap().is_empty());
    assert!(commit::list(&**remote, None).await.unwrap().len() >= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_in_memory_passes_the_suite() {
    suite(Arc::new(MemoryRemote::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_remote_passes_the_suite_and_leaves_no_temporary_file() {
    let folder = tempfile::tempdir().unwrap();
    let remote = LocalRemote::open(folder.path()).await.unwrap();
    suite(Arc::new(remote.clone())).await;
    assert_eq!(std::fs::read_dir(folder.path().join("coffer/tmp")).unwrap().count(), 0);
    assert!(remote.space().await.unwrap().unwrap().available > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapper_that_does_not_fail_passes_the_suite() {
    suite(Arc::new(FailingRemote::new(MemoryRemote::new()))).await;
}

#[tokio::test]
async fn a_lost_answer_is_read_back() {
    for at in 0..4 {
        let remote = FailingRemote::new(MemoryRemote::new());
        let record = CommitRecord::abort(Uuid::new_v4(), Uuid::new_v4(), (1, 1));
        remote.inject(Some(Fault::AfterEffect { at }));
        match commit::decide(&remote, &record, Decider::Writer).await {
            Ok(decision) => assert!(at > 0 && matches!(decision, Decision::Won(_))),
            Err(error) => {
                assert!(at == 0 && matches!(error, Error::Undecided { .. }) && error.is_retryable(), "{error}")
            }
        }
        remote.inject(Some(Fault::AfterEffectOnce { at: 0 }));
        let rival = CommitRecord { verdict: Verdict::Commit, nonce: Uuid::new_v4(), ..record.clone() };
        assert_eq!(commit::decide(&remote, &rival, Decider::Writer).await.unwrap(), Decision::Lost(record.clone()));
        remote.inject(None);
        assert_eq!(commit::decide(&remote, &record, Decider::Writer).await.unwrap(), Decision::Won(record));
    }
}

#[tokio::test]
async fn a_torn_record_is_undecided_until_the_recoverer_decides_past_it() {
    for torn in ["", "{", "{\"version\":1}", "{\"version\":1,\"verdict\":\"com", "garbage"] {
        let remote = MemoryRemote::new();
        let (vm, task) = (Uuid::new_v4(), Uuid::new_v4());
        remote.overwrite(&name(&format!("coffer/commits/{vm}/{task}.json")), Bytes::from_static(torn.as_bytes()));
        assert_eq!(commit::read(&remote, vm, task).await.unwrap(), State::Undecided { torn: 1 });
        let record = CommitRecord::commit(vm, task, (1, 1), String::new(), String::new());
        assert!(matches!(commit::decide(&remote, &record, Decider::Writer).await, Err(Error::Damaged { .. })));
        let abort = CommitRecord::abort(vm, task, (1, 2));
        let decision = commit::decide(&remote, &abort, Decider::Recoverer).await.unwrap();
        assert_eq!(decision, Decision::Won(abort.clone()));
        let second = commit::decide(&remote, &CommitRecord::abort(vm, task, (1, 3)), Decider::Recoverer).await.unwrap();
        assert_eq!(second, Decision::Lost(abort.clone()));
        assert_eq!(commit::list(&remote, None).await.unwrap(), [abort]);
    }
}

#[tokio::test]
async fn records_of_a_newer_version_are_refused_not_ignored() {
    let remote = MemoryRemote::new();
    let (vm, task) = (Uuid::new_v4(), Uuid::new_v4());
    remote.overwrite(&name(&format!("coffer/commits/{vm}/{task}.json")), Bytes::from_static(b"{\"version\":2}"));
    assert!(matches!(commit::read(&remote, vm, task).await, Err(Error::UnknownVersion { found: 2, .. })));
    let abort = CommitRecord::abort(vm, task, (1, 2));
    assert!(matches!(commit::decide(&remote, &abort, Decider::Recoverer).await, Err(Error::UnknownVersion { .. })));
}

#[tokio::test]
async fn a_full_remote_says_so_and_what_to_do() {
    let remote = FailingRemote::new(MemoryRemote::new());
    remote.inject(Some(Fault::FullAfter { bytes: 10 }));
    remote.create(&name("fits"), body(&[b"0123456789"])).await.unwrap();
    let error = remote.create(&name("more"), body(&[b"x"])).await.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }) && !error.is_retryable());
    assert!(error.advice().contains("free space"));
}
