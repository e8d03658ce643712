//! Single decisions that the simulation does not look at: ticks, places in the queue, the life of a task, what is
//! persisted.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use coffer_core::decide::dispatch::{PATIENCE, Wait, dispatch};
use coffer_core::decide::{TaskKey, tick};
use coffer_core::record::{
    AgentRecord, CursorRecord, JobRecord, LockRecord, OpenRecord, PoolRecord, ReachRecord, RemoteRecord, RunRecord,
    RunState, RunVerdict, ScheduleRecord, SessionRecord, SlotRecord, Subject, TaskRecord, Work,
};
use coffer_core::slot::Dimension;
use coffer_core::task_state::{Event, Lease, Purpose, TaskState, Verdict};
use coffer_core::{Change, Entry, Key, RecordError, State};
use coffer_model::{Job, JobId, RemoteId, RunId, ScheduleId, Selection, TaskId, TaskName, VmUuid};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use uuid::Uuid;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn commit(state: &mut State, change: &Change) {
    assert!(state.commit(change, "w"), "{change:?}");
}

fn job(id: &str, concurrency: u32) -> JobRecord {
    let job = Job {
        id: id.parse().unwrap(),
        display_name: String::new(),
        selection: Selection { pools: ["lab".parse().unwrap()].into(), ..Selection::default() },
        mode: coffer_model::job::Mode::Delta,
        remotes: vec!["nas".parse().unwrap()],
        concurrency: concurrency.try_into().unwrap(),
        manual_retention: 7.try_into().unwrap(),
        max_attempts: 3.try_into().unwrap(),
        paused: false,
    };
    JobRecord { job, created: at("2026-01-01T00:00:00Z") }
}

fn put_job(state: &mut State, id: &str, concurrency: u32) {
    commit(state, &Change::new().put(Entry::Job((id.parse().unwrap(),), job(id, concurrency))));
}

fn scheduled(cron: &str, from: &str) -> (State, JobId, ScheduleId) {
    let mut state = State::default();
    put_job(&mut state, "nightly", 2);
    let (job, schedule): (JobId, ScheduleId) = ("nightly".parse().unwrap(), "daily".parse().unwrap());
    let rule = ScheduleRecord {
        cron: cron.into(),
        time_zone: "UTC".into(),
        retention: 7.try_into().unwrap(),
        paused: false,
        catch_up_seconds: 3600,
    };
    let cursor = CursorRecord { settled: at(from), last: None };
    let parts = (job.clone(), schedule.clone());
    commit(&mut state, &Change::new().put(Entry::Schedule(parts.clone(), rule)).put(Entry::Cursor(parts, cursor)));
    (state, job, schedule)
}

#[test]
fn a_tick_makes_one_run_however_many_controllers_see_it_come() {
    let (mut state, job, schedule) = scheduled("0 2 * * *", "2026-01-01T00:00:00Z");
    let due = at("2026-01-01T02:00:03Z");
    assert_eq!(tick::fire(&state, &job, &schedule, at("2026-01-01T01:59:59Z")).unwrap(), None);
    let first = tick::fire(&state, &job, &schedule, due).unwrap().unwrap();
    let second = tick::fire(&state, &job, &schedule, at("2026-01-01T02:00:09Z")).unwrap().unwrap();
    assert!(state.commit(&second, "a"));
    assert!(!state.commit(&first, "b"), "the same tick must not fire twice");
    assert_eq!(state.runs.len(), 1);
    let run: RunId = "nightly.daily.20260101T020000Z".parse().unwrap();
    assert!(state.run(&run).is_some());
    assert_eq!(tick::fire(&state, &job, &schedule, due).unwrap(), None);
    // A clock that goes back does not fire it again either.
    assert_eq!(tick::fire(&state, &job, &schedule, at("2026-01-01T01:00:00Z")).unwrap(), None);
}

#[test]
fn a_tick_that_finds_the_run_before_it_unfinished_is_written_down_as_skipped() {
    let (mut state, job, schedule) = scheduled("0 * * * *", "2026-01-01T00:30:00Z");
    for hour in ["01", "02"] {
        let now = at(&format!("2026-01-01T{hour}:00:01Z"));
        let change = tick::fire(&state, &job, &schedule, now).unwrap().unwrap();
        commit(&mut state, &change);
    }
    let states: Vec<_> = state.runs.values().map(|run| run.record.state.clone()).collect();
    assert_eq!(states, [RunState::Planning { planned: 0 }, RunState::Ended { verdict: RunVerdict::Skipped }]);
    let skipped = &state.run(&"nightly.daily.20260101T020000Z".parse().unwrap()).unwrap().record;
    assert!(skipped.message.contains("nightly.daily.20260101T010000Z"), "{}", skipped.message);
}

#[test]
fn after_a_long_night_only_the_newest_tick_is_made_up_for_and_only_when_it_is_not_too_old() {
    let (state, job, schedule) = scheduled("0 * * * *", "2026-01-01T00:30:00Z");
    let mut late = state.clone();
    let change = tick::fire(&late, &job, &schedule, at("2026-01-01T09:20:00Z")).unwrap().unwrap();
    commit(&mut late, &change);
    assert_eq!(late.runs.keys().map(|(run,)| run.as_str()).collect::<Vec<_>>(), ["nightly.daily.20260101T090000Z"]);

    let (mut state, job, schedule) = scheduled("0 2 * * *", "2026-01-01T00:30:00Z");
    let change = tick::fire(&state, &job, &schedule, at("2026-01-01T09:20:00Z")).unwrap().unwrap();
    commit(&mut state, &change);
    assert!(state.runs.is_empty(), "seven hours late is too late");
    assert_eq!(tick::fire(&state, &job, &schedule, at("2026-01-01T10:00:00Z")).unwrap(), None);
}

/// A state with an agent, a pool and a remote of one slot, two jobs, and tasks in the order given: of which job, and
/// since how many seconds they wait.
fn queue(tasks: &[(&str, i64)], now: Timestamp) -> (State, Vec<TaskKey>) {
    let mut state = State::default();
    put_job(&mut state, "a", 1);
    put_job(&mut state, "b", 1);
    let (lab, nas): (_, RemoteId) = ("lab".parse().unwrap(), "nas".parse().unwrap());
    let pool = PoolRecord {
        display_name: String::new(),
        hosts: vec!["h".into()],
        username: "root".into(),
        fingerprint: String::new(),
        max_concurrent_tasks: 0,
    };
    let remote = RemoteRecord {
        display_name: String::new(),
        local_path: "/srv".into(),
        chunk_size_bytes: 0,
        max_concurrent_tasks: 2,
    };
    let rack = || ("rack-1".parse().unwrap(),);
    let session = SessionRecord { session: "s".into(), instance: "i".into(), boot_id: "b".into(), lease: 1 };
    let agent = AgentRecord { version: "0".into(), hostname: "h".into(), capacity: 9, session_start: now };
    let reach = ReachRecord {
        session: "s".into(),
        pools: [coffer_model::PoolId::clone(&lab)].into(),
        remotes: [nas.clone()].into(),
        draining: false,
    };
    let mut change = Change::new()
        .put(Entry::Pool((lab.clone(),), pool))
        .put(Entry::Remote((nas.clone(),), remote))
        .put(Entry::Session(rack(), session))
        .put(Entry::Agent(rack(), agent))
        .put(Entry::Reach(rack(), reach));
    let mut names = Vec::new();
    for (number, (of, waited)) in (1_u128..).zip(tasks) {
        let vm = VmUuid::new(Uuid::from_u128(number));
        let run = RunId::by_hand(Uuid::from_u128(number));
        let name = (run.clone(), TaskId::new(Uuid::from_u128(number)));
        let since = now.checked_sub(SignedDuration::from_secs(*waited)).unwrap();
        let work = Work::Backup { job: of.parse().unwrap(), schedule: None, remotes: vec![nas.clone()] };
        let task = TaskRecord::new(0, Subject::Vm { pool: lab.clone(), vm }, "vm".into(), work, 3, since);
        let mut record = RunRecord::new(tick::backup_plan(&job(of, 1).job, None), since);
        record.state = RunState::Active;
        change = change
            .put(Entry::Run((run,), record))
            .put(Entry::Task(name.clone(), task))
            .put(Entry::Open(name.clone(), OpenRecord {}));
        names.push(name);
    }
    commit(&mut state, &change);
    (state, names)
}

fn take(state: &mut State, dimension: Dimension, id: &str, number: u32) {
    let holder = TaskName { run: RunId::by_hand(Uuid::from_u128(99)), task: TaskId::new(Uuid::from_u128(99)) };
    commit(state, &Change::new().put(Entry::Slot((dimension, id.into(), number), SlotRecord { holder })));
}

#[test]
fn who_came_first_goes_first_and_the_others_say_what_they_wait_for() {
    let now = at("2026-01-01T00:00:00Z");
    let (state, names) = queue(&[("a", 10), ("a", 30), ("b", 20), ("b", 5)], now);
    let result = dispatch(&state, now);
    let leased: Vec<_> = result.changes.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(leased, [names[1].clone(), names[2].clone()]);
    assert_eq!(result.waits[&names[0]].to_string(), "a slot of job a (1 of 1 in use)");
    assert_eq!(result.waits[&names[3]].to_string(), "a slot of job b (1 of 1 in use)");
}

#[test]
fn who_needs_much_is_not_passed_by_for_ever() {
    let now = at("2026-01-01T00:00:00Z");
    // The first waits for its job's slot and will need the remote's last one; the second needs only the latter.
    let waited = PATIENCE.as_secs() + 1;
    for (patience, passes) in [(10, true), (waited, false)] {
        let (mut state, names) = queue(&[("a", patience), ("b", 5)], now);
        take(&mut state, Dimension::Job, "a", 0);
        take(&mut state, Dimension::Remote, "nas", 0);
        let result = dispatch(&state, now);
        assert_eq!(result.changes.iter().any(|(name, _)| *name == names[1]), passes);
        assert!(matches!(result.waits[&names[0]], Wait::Slot { .. }));
        assert_eq!(matches!(result.waits.get(&names[1]), Some(Wait::Turn(_))), !passes);
    }
}

#[test]
fn a_limit_that_was_lowered_drains_before_anything_is_given_again() {
    let now = at("2026-01-01T00:00:00Z");
    let (mut state, names) = queue(&[("a", 5)], now);
    // The remote allows two; of four before, units 0 and 1 are free again, 2 and 3 are not.
    take(&mut state, Dimension::Remote, "nas", 2);
    take(&mut state, Dimension::Remote, "nas", 3);
    assert!(matches!(&dispatch(&state, now).waits[&names[0]], Wait::Slot { used: 2, height: 2, .. }));
    commit(&mut state, &Change::new().delete(Key::Slot(Dimension::Remote, "nas".into(), 3)));
    assert_eq!(dispatch(&state, now).changes.len(), 1);
}

#[test]
fn an_agent_that_is_full_or_reaches_nothing_is_waited_for_in_words() {
    let now = at("2026-01-01T00:00:00Z");
    let (mut state, names) = queue(&[("a", 5)], now);
    let key = ("rack-1".parse().unwrap(),);
    let mut agent = state.agents[&key].record.clone();
    agent.capacity = 0;
    commit(&mut state, &Change::new().put(Entry::Agent(key.clone(), agent)));
    assert_eq!(dispatch(&state, now).waits[&names[0]].to_string(), "an agent with room for one more task");
    let mut reach = state.reaches[&key].record.clone();
    reach.pools.clear();
    commit(&mut state, &Change::new().put(Entry::Reach(key, reach)));
    let wait = dispatch(&state, now).waits[&names[0]].to_string();
    assert_eq!(wait, "an agent that reaches pool lab and remote nas");
}

#[test]
fn the_epoch_goes_on_where_the_machine_left_it() {
    let now = at("2026-01-01T00:00:00Z");
    let (mut state, names) = queue(&[("a", 5)], now);
    let machine = ("lab".parse().unwrap(), VmUuid::new(Uuid::from_u128(1)));
    commit(&mut state, &Change::new().put(Entry::VmLock(machine, LockRecord { epoch: 41, holder: None })));
    let (_, change) = dispatch(&state, now).changes.remove(0);
    commit(&mut state, &change);
    assert_eq!(state.task(&names[0]).unwrap().record.epoch, 42);
}

#[test]
fn what_a_newer_version_wrote_is_refused_and_not_guessed_at() {
    let path = Key::Job("nightly".parse().unwrap()).path();
    assert_eq!(path, "/coffer/v1/live/job/nightly");
    let mut state = State::default();
    let newer = br#"{"schema":2,"wid":"x","body":{}}"#;
    assert!(matches!(state.put(&path, newer, 1, 1), Err(RecordError::TooNew { found: 2, .. })));
    assert!(matches!(state.put(&path, b"{", 1, 1), Err(RecordError::Malformed { .. })));
    let unknown = "/coffer/v1/live/job/nightly/more";
    assert!(matches!(state.put(unknown, newer, 1, 1), Err(RecordError::UnknownKey { .. })));
    assert_eq!(state, State::default());
}

#[test]
fn an_old_event_does_not_undo_a_newer_one() {
    let key = Key::Job("nightly".parse().unwrap());
    let entry = |concurrency| Entry::Job(("nightly".parse().unwrap(),), job("nightly", concurrency)).encode("w");
    let mut state = State::default();
    state.put(&key.path(), &entry(5), 1, 7).unwrap();
    state.put(&key.path(), &entry(1), 1, 3).unwrap();
    state.delete(&key.path(), 6);
    assert_eq!(state.jobs.values().next().unwrap().record.job.concurrency.get(), 5);
    state.delete(&key.path(), 8);
    assert_eq!(state, State::default());
}

fn an_event() -> impl Strategy<Value = Event> {
    let lease = |session: u8| Lease {
        agent: "rack-1".parse().unwrap(),
        session: session.to_string(),
        instance: "i".into(),
        purpose: Purpose::Work,
    };
    prop_oneof![
        any::<u8>().prop_map(move |session| Event::Leased(lease(session))),
        Just(Event::Worked),
        Just(Event::Granted),
        Just(Event::SessionLost),
        any::<u8>().prop_map(|session| Event::SessionBack { session: session.to_string() }),
        Just(Event::TakenOver(Purpose::Recover)),
        Just(Event::Retry { not_before: Timestamp::UNIX_EPOCH }),
        Just(Event::Ended(Verdict::Failed)),
    ]
}

proptest! {
    #[test]
    fn no_order_of_events_leads_a_task_astray(events in proptest::collection::vec(an_event(), 0..40)) {
        let mut state = TaskState::Waiting { not_before: None };
        for event in events {
            let before = state.clone();
            match state.clone().after(event.clone()) {
                Err(refused) => {
                    prop_assert!(!refused.to_string().is_empty());
                    continue;
                }
                Ok(after) => state = after,
            }
            prop_assert!(before.verdict().is_none(), "{event:?} moved a task that was over");
            // A publication may have begun: nothing but an end or a new delivery lets that be forgotten.
            if matches!(before, TaskState::Committing { .. } | TaskState::Disconnected { committing: true, .. }) {
                let kept = matches!(state, TaskState::Committing { .. } | TaskState::Disconnected { committing: true, .. });
                let left = matches!(event, Event::TakenOver(_) | Event::Retry { .. } | Event::Ended(_));
                prop_assert!(kept || left, "{before:?} became {state:?} by {event:?}");
            }
            // Only a lease gives a task to an agent.
            if before.lease().is_none() && state.lease().is_some() {
                prop_assert!(matches!(event, Event::Leased(_)));
            }
        }
    }
}
