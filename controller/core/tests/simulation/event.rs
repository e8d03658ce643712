//! What may happen, in any order, to anybody.

use proptest::prelude::*;

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Somebody runs a job.
    Run { job: usize },
    /// Somebody verifies restore points.
    Verify { point: usize },
    /// Somebody deletes restore points.
    Delete { point: usize },
    /// One verifies what another one deletes.
    VerifyAndDelete { point: usize },
    /// Two delete, each what the other one leaves.
    DeleteTwice,
    /// Somebody changes the concurrency of a job.
    Limit { job: usize, most: u32 },
    /// Somebody cancels a run.
    Cancel { run: usize, age: usize },
    /// An agent registers, as a new process or the same one.
    Register { agent: usize, fresh: bool },
    /// A session ends.
    Expire { agent: usize },
    /// A controller that sees what was true `age` changes ago does its duties.
    Duties { age: usize, count: usize },
    /// An agent does something with a task that it believes to hold.
    Work { belief: usize, what: Where },
    /// Time goes by.
    Wait { seconds: u32 },
}

#[derive(Clone, Debug)]
pub(crate) enum Where {
    Step,
    Open(u8),
    Close(u8),
    Grant { snapshot: u8 },
    Retention { age: usize },
    End(End),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Success,
    Passing,
    Lasting,
    Cancelled,
    Skipped,
}

fn work() -> impl Strategy<Value = Where> {
    prop_oneof![
        2 => Just(Where::Step),
        3 => (0..3_u8).prop_map(Where::Open),
        4 => (0..3_u8).prop_map(Where::Close),
        6 => (0..2_u8).prop_map(|snapshot| Where::Grant { snapshot }),
        3 => (0..4_usize).prop_map(|age| Where::Retention { age }),
        5 => Just(Where::End(End::Success)),
        1 => Just(Where::End(End::Passing)),
        1 => Just(Where::End(End::Lasting)),
        1 => Just(Where::End(End::Cancelled)),
        1 => Just(Where::End(End::Skipped)),
    ]
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..2_usize).prop_map(|job| Event::Run { job }),
        1 => (0..6_usize).prop_map(|point| Event::Verify { point }),
        1 => (0..6_usize).prop_map(|point| Event::Delete { point }),
        1 => (0..6_usize).prop_map(|point| Event::VerifyAndDelete { point }),
        1 => Just(Event::DeleteTwice),
        1 => (0..2_usize, 1..4_u32).prop_map(|(job, most)| Event::Limit { job, most }),
        1 => (0..4_usize, 0..3_usize).prop_map(|(run, age)| Event::Cancel { run, age }),
        3 => (0..2_usize, any::<bool>()).prop_map(|(agent, fresh)| Event::Register { agent, fresh }),
        2 => (0..2_usize).prop_map(|agent| Event::Expire { agent }),
        12 => (0..5_usize, 1..4_usize).prop_map(|(age, count)| Event::Duties { age, count }),
        24 => (0..8_usize, work()).prop_map(|(belief, what)| Event::Work { belief, what }),
        2 => (1..7200_u32).prop_map(|seconds| Event::Wait { seconds }),
    ]
}
