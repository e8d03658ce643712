//! Random lives of a control plane: several controllers that see the past, agents that die, come back and are wrong,
//! operators that change their minds. Every change is checked against the invariants; in the end everything ends.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod event;
mod invariants;
mod world;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_invariants_hold_and_every_run_ends(
        events in proptest::collection::vec(event::event(), 1..160)
    ) {
        let mut world = world::World::new();
        for event in &events {
            world.apply(event);
        }
        world.heal();
    }
}

/// Invariants that hold because nothing happens prove nothing.
#[test]
fn these_lives_are_eventful() {
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..300 {
        let events = proptest::collection::vec(event::event(), 100..160).new_tree(&mut runner).unwrap().current();
        let mut world = world::World::new();
        events.iter().for_each(|event| world.apply(event));
        world.heal();
        for (what, times) in world.seen {
            *seen.entry(what).or_default() += times;
        }
    }
    for what in EVENTFUL {
        assert!(seen.contains_key(what), "in 300 lives it never happened that {what}: {seen:#?}");
    }
}

const EVENTFUL: [&str; 20] = [
    "a busy machine was refused",
    "a change was decided on what was no longer true",
    "a point in use was refused",
    "a point was deleted",
    "a point was hidden to be deleted",
    "a run was folded",
    "a task failed",
    "a task had to be tidied up",
    "a task is tried again",
    "a task succeeded",
    "a task was cancelled",
    "a task was interrupted",
    "a task was skipped",
    "a task was taken over",
    "a zombie was refused",
    "an agent came back in time",
    "an agent was lost while it committed",
    "something left behind was taken on",
    "something was left behind",
    "the last point was refused",
];
