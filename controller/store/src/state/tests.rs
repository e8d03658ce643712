//! Whatever transactions come, pages of every kept state and changes from every kept revision are right.

use super::*;
use proptest::prelude::*;

/// What the state held at a revision, kept the simple way.
type Snapshot = BTreeMap<String, Entry>;

#[derive(Debug, Clone)]
enum Action {
    Txn(Vec<(u8, Option<u8>, u8)>),
    Grant,
    End(u8),
}

fn action() -> impl Strategy<Value = Action> {
    let change = (0_u8..12, prop::option::weighted(0.7, any::<u8>()), 0_u8..4);
    prop_oneof![
        8 => prop::collection::vec(change, 1..5).prop_map(Action::Txn),
        1 => Just(Action::Grant),
        1 => (0_u8..6).prop_map(Action::End),
    ]
}

/// Keys of two prefixes, one of which continues the other.
fn key(number: u8) -> String {
    format!("{}{number}", ["a/", "a/b/", "b/"][usize::from(number % 3)])
}

fn txn(changes: &[(u8, Option<u8>, u8)], state: &State) -> Txn {
    let leases: Vec<LeaseId> = state.leases().map(|lease| lease.id).collect();
    let mut seen = BTreeSet::new();
    changes.iter().filter(|(number, ..)| seen.insert(*number)).fold(Txn::new(), |txn, (number, value, lease)| {
        let lease = leases.get(usize::from(*lease)).map_or(PutLease::None, |id| PutLease::Attach(*id));
        match value {
            Some(value) => txn.put_with(key(*number), vec![*value], lease),
            None => txn.delete(key(*number)),
        }
    })
}

fn delta(action: &Action, state: &State) -> Option<Delta> {
    match action {
        Action::Txn(changes) => state.plan(&txn(changes, state)).unwrap().1,
        Action::Grant => Some(state.plan_grant(Duration::from_secs(10)).1),
        Action::End(id) => state.plan_end(LeaseId(u64::from(*id))).ok(),
    }
}

fn read_all(state: &State, prefix: &str, limit: usize, at: Revision) -> Result<Vec<KeyValue>, Error> {
    let mut request = RangeRequest { at: Some(at), ..RangeRequest::prefix(prefix, limit) };
    let mut all = Vec::new();
    loop {
        let mut page = state.range(&request)?;
        assert_eq!(page.revision, at);
        all.append(&mut page.entries);
        match request.after(&page) {
            Some(next) => request = next,
            None => return Ok(all),
        }
    }
}

fn under(snapshot: &Snapshot, prefix: &str) -> Vec<KeyValue> {
    let matching = snapshot.iter().filter(|(key, _)| key.starts_with(prefix));
    matching.map(|(key, entry)| entry.to_key_value(key)).collect()
}

fn invariants(state: &State) {
    for (key, entry) in &state.keys {
        assert!(entry.create_revision <= entry.mod_revision && entry.mod_revision <= state.revision);
        assert!(entry.lease.is_none_or(|lease| state.leases[&lease].keys.contains(key)), "{key}");
    }
    for (lease, of) in &state.leases {
        assert!(of.keys.iter().all(|key| state.keys[key].lease == Some(*lease)), "{lease}");
    }
    assert_eq!(state.log_changes, state.log.iter().map(|logged| logged.changes.len()).sum::<usize>());
    assert_eq!(state.log_bytes, state.log.iter().map(|logged| logged.bytes).sum::<usize>());
    assert!(state.log_changes <= state.history.changes);
}

proptest! {
    #[test]
    fn pages_and_changes_agree_with_snapshots_of_every_revision(
        actions in prop::collection::vec(action(), 1..60), limit in 1_usize..5, kept in 5_usize..60,
    ) {
        let mut state = State::new(History { changes: kept, bytes: 1 << 20 });
        let mut snapshots: BTreeMap<Revision, Snapshot> = [(Revision::ZERO, Snapshot::new())].into();
        for action in &actions {
            let Some(delta) = delta(action, &state) else { continue };
            state.commit(delta);
            invariants(&state);
            snapshots.insert(state.revision(), state.keys.clone());
        }
        let newest = state.revision();
        prop_assert_eq!(u64::try_from(snapshots.len()).unwrap(), newest.0 + 1);
        for prefix in ["", "a/", "a/b/", "b/", "c"] {
            for (revision, snapshot) in &snapshots {
                match read_all(&state, prefix, limit, *revision) {
                    Ok(entries) => prop_assert_eq!(entries, under(snapshot, prefix)),
                    Err(error) => {
                        let is_compacted = matches!(error, Error::Compacted { .. });
                        prop_assert!(is_compacted && *revision < state.oldest);
                    }
                }
                // The changes after a kept revision lead from its snapshot to the newest one.
                if *revision < state.oldest {
                    continue;
                }
                let mut replica: BTreeMap<String, KeyValue> =
                    under(snapshot, prefix).into_iter().map(|entry| (entry.key.clone(), entry)).collect();
                let mut next = revision.next();
                while next <= newest {
                    let batch = state.changes(prefix, next, 3).unwrap();
                    prop_assert!(batch.revision >= next);
                    next = batch.revision.next();
                    for event in batch.events {
                        match event {
                            Event::Put(entry) => drop(replica.insert(entry.key.clone(), entry)),
                            Event::Delete { key, .. } => prop_assert!(replica.remove(&key).is_some(), "{key}"),
                        }
                    }
                }
                prop_assert_eq!(replica.into_values().collect::<Vec<_>>(), under(&snapshots[&newest], prefix));
            }
        }
        // What is kept elsewhere makes the same state again.
        let leases: Vec<Lease> = state.leases().collect();
        let again = State::restore(state.history, newest, state.keys.clone(), leases, state.last_lease).unwrap();
        invariants(&again);
        prop_assert_eq!(again.keys, state.keys);
    }
}

#[test]
fn a_state_that_contradicts_itself_is_not_restored() {
    let entry = |create, modified, lease| Entry {
        value: Bytes::new(),
        create_revision: Revision(create),
        mod_revision: Revision(modified),
        version: 1,
        lease,
    };
    let check = |entry: Entry| {
        let keys = [("k".to_owned(), entry)].into();
        State::restore(History::default(), Revision(5), keys, Vec::new(), 0).map(drop)
    };
    assert_eq!(check(entry(1, 5, None)), Ok(()));
    assert!(check(entry(1, 6, None)).unwrap_err().contains("\"k\""));
    assert!(check(entry(3, 2, None)).is_err());
    assert!(check(entry(1, 1, Some(LeaseId(7)))).unwrap_err().contains("lease 7"));
    let lease = Lease { id: LeaseId(3), ttl: Duration::from_secs(2) };
    assert!(State::restore(History::default(), Revision(1), BTreeMap::new(), vec![lease], 2).is_err());
}
