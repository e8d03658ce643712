//! Says in lines what changed. Pure: remembers what it said, so that a picture that comes again (after a connection
//! broke) is not told again.

use std::collections::{BTreeMap, BTreeSet};

use coffer_proto::v1;
use jiff::{SignedDuration, Timestamp};

use super::picture::Picture;
use crate::show::View;
use crate::show::runs::{log_entry, subject, what};
use crate::show::text::{clock, count, duration, id, plain, size, took, transfer};

/// Least time between two lines of progress of one task.
const PROGRESS: SignedDuration = SignedDuration::from_secs(10);

/// What was said of a task.
#[derive(Debug, Default)]
struct Said {
    state: Option<(i32, u32)>,
    waits_for: String,
    /// Steps whose end was told: attempt, name, state.
    steps: BTreeSet<(u32, String, i32)>,
    log: BTreeSet<(i64, i32, String)>,
    progress: Option<Timestamp>,
}

/// Tells a run as it goes.
#[derive(Debug, Default)]
pub(crate) struct Narrator {
    has_begun: bool,
    cancel_told: bool,
    said: BTreeMap<String, Said>,
}

impl Narrator {
    /// What is new in the picture, in lines; with lines of progress where no bars show it.
    pub(crate) fn tell(&mut self, picture: &Picture, view: &View, with_progress: bool) -> Vec<String> {
        let now = prost_types::Timestamp { seconds: view.now.as_second(), nanos: 0 };
        let now = clock(Some(&now), &view.zone);
        let mut lines = Vec::new();
        if let Some(run) = &picture.run {
            if !std::mem::replace(&mut self.has_begun, true) {
                // They are not planned yet when a run has just begun.
                let tasks = Some(picture.tasks.len()).filter(|tasks| *tasks > 0);
                let tasks = tasks.map_or_else(String::new, |tasks| format!(", {}", count(tasks, "task")));
                lines.push(format!("{now} {}: {}{tasks}", id(&run.name), what(run)));
            }
            if run.cancel_requested && !std::mem::replace(&mut self.cancel_told, true) {
                lines.push(format!("{now} cancelling"));
            }
        }
        for task in &picture.tasks {
            let said = self.said.entry(task.name.clone()).or_default();
            let told = said.tell(task, view, with_progress);
            lines.extend(told.into_iter().map(|line| format!("{now} {}: {line}", subject(task))));
        }
        lines
    }
}

impl Said {
    fn tell(&mut self, task: &v1::Task, view: &View, with_progress: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in &task.log {
            let time = entry.time.unwrap_or_default();
            if self.log.insert((time.seconds, time.nanos, entry.message.clone())) {
                lines.push(log_entry(&v1::LogEntry { time: None, ..entry.clone() }, view));
            }
        }
        for step in task.steps.iter().filter(|step| step.state() != v1::step::State::Running) {
            if self.steps.insert((step.attempt, step.name.clone(), step.state)) {
                lines.push(self::step(step, view));
            }
        }
        if task.state() == v1::task::State::Waiting && self.waits_for != task.waits_for {
            self.waits_for.clone_from(&task.waits_for);
            if !task.waits_for.is_empty() {
                lines.push(format!("waits for {}", plain(&task.waits_for)));
            }
        }
        let state = (task.state, task.attempt);
        if self.state.replace(state) != Some(state) && task.state() != v1::task::State::Waiting {
            lines.extend(self::state(task, view));
        } else if with_progress && task.state() == v1::task::State::Running {
            lines.extend(self.progress(task, view.now));
        }
        lines
    }

    fn progress(&mut self, task: &v1::Task, now: Timestamp) -> Option<String> {
        let line = progress(&task.transfer.unwrap_or_default(), rate(task))?;
        let last = *self.progress.get_or_insert(now);
        if now.duration_since(last) < PROGRESS {
            return None;
        }
        self.progress = Some(now);
        Some(line)
    }
}

fn step(step: &v1::Step, view: &View) -> String {
    let took = took(step.start_time.as_ref(), step.end_time.as_ref(), view.now);
    let moved = transfer(&v1::Transfer {
        read_bytes: step.read_bytes,
        written_bytes: step.written_bytes,
        ..Default::default()
    });
    let mut line = format!("{} {} in {took}", step.name, step.state().as_str_name().to_lowercase());
    for part in [moved, plain(&step.message)].into_iter().filter(|part| !part.is_empty()) {
        line.push_str(&format!(", {part}"));
    }
    line
}

fn state(task: &v1::Task, view: &View) -> Vec<String> {
    let agent = if task.agent.is_empty() { String::new() } else { format!(" on {}", id(&task.agent)) };
    let again = if task.attempt > 1 { format!(", attempt {}", task.attempt) } else { String::new() };
    let name = task.state().as_str_name();
    let mut lines = match task.state() {
        v1::task::State::Running => vec![format!("begins{agent}{again}")],
        v1::task::State::Disconnected => vec![format!("the agent{agent} has not been heard of; waiting")],
        v1::task::State::Recovering => vec![format!("recovering{agent}{again}")],
        v1::task::State::Succeeded => {
            vec![format!("{name} in {}", took(task.start_time.as_ref(), task.end_time.as_ref(), view.now))]
        }
        _ => vec![match &task.error {
            Some(problem) if problem.reason.is_empty() => format!("{name}: {}", plain(&problem.message)),
            Some(problem) => format!("{name}: {} ({})", plain(&problem.message), problem.reason),
            None => name.to_owned(),
        }],
    };
    if let Some(problem) = task.error.as_ref().filter(|problem| !problem.advice.is_empty()) {
        lines.push(format!("advice: {}", plain(&problem.advice)));
    }
    if !task.created_vm_uuid.is_empty() {
        lines.push(format!("new virtual machine {}", task.created_vm_uuid));
    }
    lines
}

/// Bytes per second over all disks.
pub(crate) fn rate(task: &v1::Task) -> u64 {
    task.disks.iter().map(|disk| disk.rate_bytes_per_second).fold(0, u64::saturating_add)
}

/// How far a transfer has come and what it will come to.
pub(crate) fn extent(transfer: &v1::Transfer) -> (u64, u64) {
    let done = transfer.read_bytes.saturating_add(transfer.skipped_bytes);
    let all = if transfer.expected_bytes > 0 { transfer.expected_bytes } else { transfer.disk_bytes };
    (done.min(all), all)
}

fn progress(transfer: &v1::Transfer, rate: u64) -> Option<String> {
    let (done, all) = extent(transfer);
    if done == 0 || all == 0 || done >= all {
        return None;
    }
    let percent = u128::from(done) * 100 / u128::from(all);
    let mut line = format!("{percent} % of {}", size(all));
    if let Some(seconds) = (all - done).checked_div(rate) {
        let left = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        line.push_str(&format!(", {}/s, {} left", size(rate), duration(left)));
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::runs::tests::{run, tasks, view};

    fn later(seconds: i64) -> View {
        let view = view();
        View { now: view.now + SignedDuration::from_secs(seconds), ..view }
    }

    #[test]
    fn a_whole_run_is_told_once_however_often_its_picture_comes() {
        let mut picture = Picture::default();
        picture.apply(v1::FollowRunResponse { run: Some(run()), tasks: tasks() });
        let mut narrator = Narrator::default();
        let expected = [
            "02:10:00 nightly.daily.20260101T020000Z: backup of nightly/daily, 3 tasks",
            "02:10:00 web: warning: NBD is slow",
            "02:10:00 web: snapshot done in 2.0 s",
            "02:10:00 web: transfer done in 1 min 12 s, 400 MiB read, 120 MiB written",
            "02:10:00 web: publish done in 1.0 s",
            "02:10:00 web: SUCCEEDED in 1 min 20 s",
            "02:10:00 db [2J: snapshot failed in 2.0 s, no space",
            "02:10:00 db [2J: FAILED: SR ssd has 1.00 GiB free, the snapshot needs 8.00 GiB (SR_FULL)",
            "02:10:00 db [2J: advice: free space on ssd",
            "02:10:00 u3: waits for a slot of job nightly (2 of 2 in use)",
        ];
        assert_eq!(narrator.tell(&picture, &view(), true), expected);
        picture.apply(v1::FollowRunResponse { run: Some(run()), tasks: tasks() });
        assert_eq!(narrator.tell(&picture, &later(60), true), Vec::<String>::new());
    }

    #[test]
    fn progress_is_told_every_ten_seconds_and_only_without_bars() {
        let mut task = v1::Task {
            subject_label: "web".to_owned(),
            state: v1::task::State::Running.into(),
            attempt: 1,
            ..Default::default()
        };
        let mut narrator = Narrator::default();
        let mut tell = |read: u64, seconds: i64, with_progress: bool| {
            task.transfer = Some(v1::Transfer {
                read_bytes: read,
                skipped_bytes: 1 << 30,
                disk_bytes: 4 << 30,
                ..Default::default()
            });
            task.disks = vec![v1::DiskTransfer { rate_bytes_per_second: 100 << 20, ..Default::default() }];
            let picture = Picture { run: None, tasks: vec![task.clone()] };
            narrator.tell(&picture, &later(seconds), with_progress)
        };
        assert_eq!(tell(0, 0, true), ["02:10:00 web: begins"]);
        assert_eq!(tell(1 << 20, 1, true), Vec::<String>::new());
        assert_eq!(tell(1 << 30, 11, true), ["02:10:11 web: 50 % of 4.00 GiB, 100 MiB/s, 20 s left"]);
        assert_eq!(tell(1 << 30, 12, true), Vec::<String>::new());
        assert_eq!(tell(2 << 30, 40, false), Vec::<String>::new());
        assert_eq!(tell(3 << 30, 60, true), Vec::<String>::new());
    }

    #[test]
    fn a_second_attempt_and_a_lost_agent_are_told() {
        let mut task = v1::Task {
            subject_label: "web".to_owned(),
            agent: "agents/a".to_owned(),
            attempt: 1,
            ..Default::default()
        };
        let mut narrator = Narrator::default();
        let mut tell = |state: v1::task::State, attempt| {
            task.state = state.into();
            task.attempt = attempt;
            narrator.tell(&Picture { run: None, tasks: vec![task.clone()] }, &view(), true)
        };
        assert_eq!(tell(v1::task::State::Running, 1), ["02:10:00 web: begins on a"]);
        assert_eq!(
            tell(v1::task::State::Disconnected, 1),
            ["02:10:00 web: the agent on a has not been heard of; waiting"]
        );
        assert_eq!(tell(v1::task::State::Recovering, 2), ["02:10:00 web: recovering on a, attempt 2"]);
        assert_eq!(tell(v1::task::State::Interrupted, 2), ["02:10:00 web: INTERRUPTED"]);
    }
}
