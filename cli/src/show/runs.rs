//! Runs: their list, and one of them as the tree of its tasks, steps and disks.

use coffer_proto::v1;
use coffer_runtime::exit::Exit;

use super::View;
use super::table::Rows;
use super::text::{clock, count, id, or_dash, plain, size, size_or_dash, time, took, transfer};

/// How a program ends that waited for a run.
pub(crate) fn exit_of(state: v1::run::State) -> Exit {
    use v1::run::State;
    match state {
        State::Succeeded => Exit::Ok,
        State::Partial => Exit::Partial,
        State::Failed | State::Cancelled | State::Interrupted | State::Skipped => Exit::Failed,
        State::Unspecified | State::Planning | State::Active => Exit::Interrupted,
    }
}

/// True when a run in this state changes no more.
pub(crate) fn has_ended(state: v1::run::State) -> bool {
    use v1::run::State;
    !matches!(state, State::Unspecified | State::Planning | State::Active)
}

/// What a run does, in words: `backup of nightly/daily`.
pub(crate) fn what(run: &v1::Run) -> String {
    let kind = run.kind().as_str_name().to_lowercase();
    match (run.job.as_str(), run.schedule.as_str()) {
        ("", _) => kind,
        (job, "") => format!("{kind} of {} by hand", id(job)),
        (job, schedule) => format!("{kind} of {}/{}", id(job), id(schedule)),
    }
}

fn tasks(counts: Option<&v1::TaskCounts>) -> String {
    let Some(counts) = counts else { return "-".to_owned() };
    let parts =
        [(counts.waiting, "waiting"), (counts.running, "running"), (counts.succeeded, "ok"), (counts.failed, "failed")];
    let parts: Vec<String> =
        parts.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")).collect();
    if parts.is_empty() { counts.total.to_string() } else { parts.join(", ") }
}

/// A table of runs, or `nothing` when there are none.
pub(crate) fn list(runs: &[v1::Run], nothing: &str, view: &View) -> String {
    let headings = ["=RUN", "WHAT", "STATE", "BEGUN", ">TOOK", "TASKS", ">READ", ">WRITTEN"];
    let mut rows = Rows::new(&headings, view.width);
    for run in runs {
        let transfer = run.transfer.unwrap_or_default();
        rows.push([
            id(&run.name).to_owned(),
            what(run),
            run.state().as_str_name().to_lowercase(),
            time(run.create_time.as_ref(), &view.zone),
            took(run.create_time.as_ref(), run.end_time.as_ref(), view.now),
            tasks(run.tasks.as_ref()),
            size_or_dash(transfer.read_bytes),
            size_or_dash(transfer.written_bytes),
        ]);
    }
    rows.finish(nothing)
}

/// A run in one line, as the last one of following it.
pub(crate) fn summary(run: &v1::Run, view: &View) -> String {
    let mut parts = vec![took(run.create_time.as_ref(), run.end_time.as_ref(), view.now)];
    parts.extend(run.tasks.as_ref().map(|counts| count(usize::try_from(counts.total).unwrap_or(0), "task")));
    parts.extend(run.transfer.as_ref().map(transfer).filter(|text| !text.is_empty()));
    let mut text = format!("{}: {}", run.state().as_str_name(), parts.join(", "));
    if !run.message.is_empty() {
        text.push_str(&format!(" ({})", plain(&run.message)));
    }
    text
}

/// A name for people of what a task works on.
pub(crate) fn subject(task: &v1::Task) -> String {
    plain(if task.subject_label.is_empty() { id(&task.subject) } else { &task.subject_label })
}

/// What of a task's log is in its tree. Steps and disks tell most of it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    /// What a person should look at.
    Warnings,
    /// Everything.
    Whole,
}

/// A run as a tree.
pub(crate) fn tree(run: &v1::Run, tasks: &[v1::Task], log: Log, view: &View) -> String {
    let mut lines = vec![
        format!("{}  {}", id(&run.name), run.state().as_str_name()),
        format!(
            "{}, begun {}, {} {}",
            what(run),
            time(run.create_time.as_ref(), &view.zone),
            if has_ended(run.state()) { "took" } else { "for" },
            took(run.create_time.as_ref(), run.end_time.as_ref(), view.now)
        ),
    ];
    if !run.message.is_empty() {
        lines.push(plain(&run.message));
    }
    if !run.retry_of.is_empty() {
        lines.push(format!("repeats what failed in {}", id(&run.retry_of)));
    }
    if run.cancel_requested && !has_ended(run.state()) {
        lines.push("cancelling was asked for".to_owned());
    }
    let sums = run.transfer.as_ref().map(transfer).unwrap_or_default();
    let sums = if sums.is_empty() { String::new() } else { format!(": {sums}") };
    lines.push(format!("{}{sums}", count(tasks.len(), "task")));
    lines.push(String::new());
    for (number, task) in tasks.iter().enumerate() {
        branch(&mut lines, "", number + 1 == tasks.len(), self::task(task, log, view));
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.join("\n")
}

/// A line of the tree, with what hangs below it.
struct Node {
    text: String,
    children: Vec<Node>,
}

impl Node {
    fn leaf(text: String) -> Self {
        Self { text, children: Vec::new() }
    }
}

fn branch(lines: &mut Vec<String>, indent: &str, is_last: bool, node: Node) {
    lines.push(format!("{indent}{}{}", if is_last { "└─ " } else { "├─ " }, node.text));
    let indent = format!("{indent}{}", if is_last { "   " } else { "│  " });
    let count = node.children.len();
    for (number, child) in node.children.into_iter().enumerate() {
        branch(lines, &indent, number + 1 == count, child);
    }
}

fn task(task: &v1::Task, log: Log, view: &View) -> Node {
    let mut text = format!("{}  {}", subject(task), task.state().as_str_name());
    if task.start_time.is_some() {
        text.push_str(&format!("  {}", took(task.start_time.as_ref(), task.end_time.as_ref(), view.now)));
    }
    if !task.agent.is_empty() {
        text.push_str(&format!("  on {}", id(&task.agent)));
    }
    let mut children = Vec::new();
    if !task.waits_for.is_empty() {
        children.push(Node::leaf(format!("waits for {}", plain(&task.waits_for))));
    }
    let attempts = task.steps.iter().map(|step| step.attempt).max().unwrap_or(1);
    // Disks belong to the transfer; of several attempts, to the last one.
    let transfer = task.steps.iter().rposition(|step| step.name == "transfer");
    for (number, step) in task.steps.iter().enumerate() {
        let disks = if Some(number) == transfer { &task.disks[..] } else { &[] };
        children.push(self::step(step, disks, attempts > 1, view));
    }
    if transfer.is_none() {
        children.extend(task.disks.iter().map(disk));
    }
    let is_shown = |entry: &&v1::LogEntry| match entry.severity() {
        // The error itself comes below.
        v1::log_entry::Severity::Error => task.error.is_none(),
        v1::log_entry::Severity::Warning => true,
        _ => log == Log::Whole,
    };
    children.extend(task.log.iter().filter(is_shown).map(|entry| Node::leaf(log_entry(entry, view))));
    if let Some(problem) = &task.error {
        children.push(self::problem(problem));
    }
    for point in &task.restore_points {
        children.push(Node::leaf(format!("restore point {}", id(point))));
    }
    if !task.created_vm_uuid.is_empty() {
        children.push(Node::leaf(format!("new virtual machine {}", task.created_vm_uuid)));
    }
    Node { text, children }
}

fn step(step: &v1::Step, disks: &[v1::DiskTransfer], shows_attempt: bool, view: &View) -> Node {
    let state = match step.state() {
        v1::step::State::Done => String::new(),
        state => format!("  {}", state.as_str_name().to_lowercase()),
    };
    let mut text =
        format!("{}{state}  {}", step.name, took(step.start_time.as_ref(), step.end_time.as_ref(), view.now));
    if shows_attempt {
        text.push_str(&format!("  attempt {}", step.attempt));
    }
    for (bytes, what) in [(step.read_bytes, "read"), (step.written_bytes, "written")] {
        if bytes > 0 {
            text.push_str(&format!("  {} {what}", size(bytes)));
        }
    }
    if !step.message.is_empty() {
        text.push_str(&format!("  {}", plain(&step.message)));
    }
    Node { text, children: disks.iter().map(disk).collect() }
}

fn disk(disk: &v1::DiskTransfer) -> Node {
    let sums = disk.transfer.unwrap_or_default();
    let moved = transfer(&sums);
    let mut text = format!("{} {}", disk.device, plain(&disk.label)).trim_end().to_owned();
    text.push_str(&format!("  {} by {}", size(sums.disk_bytes), or_dash(&disk.source)));
    if !moved.is_empty() {
        text.push_str(&format!(": {moved}"));
    }
    let reason = (!disk.reason.is_empty()).then(|| Node::leaf(plain(&disk.reason)));
    Node { text, children: reason.into_iter().collect() }
}

/// `03:00:12 warning: …`.
pub(crate) fn log_entry(entry: &v1::LogEntry, view: &View) -> String {
    let severity = match entry.severity() {
        v1::log_entry::Severity::Warning => "warning: ",
        v1::log_entry::Severity::Error => "error: ",
        v1::log_entry::Severity::Info | v1::log_entry::Severity::Unspecified => "",
    };
    format!("{} {severity}{}", clock(entry.time.as_ref(), &view.zone), plain(&entry.message)).trim_start().to_owned()
}

fn problem(problem: &v1::Problem) -> Node {
    let reason = if problem.reason.is_empty() { String::new() } else { format!(" ({})", problem.reason) };
    let advice = (!problem.advice.is_empty()).then(|| Node::leaf(format!("advice: {}", plain(&problem.advice))));
    Node { text: format!("error: {}{reason}", plain(&problem.message)), children: advice.into_iter().collect() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    pub(crate) fn at(second: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds: 1_767_232_800 + second, nanos: 0 })
    }

    pub(crate) fn view() -> View {
        View { zone: TimeZone::UTC, now: "2026-01-01T02:10:00Z".parse().unwrap(), width: None }
    }

    pub(crate) fn run() -> v1::Run {
        v1::Run {
            name: "runs/nightly.daily.20260101T020000Z".to_owned(),
            kind: v1::run::Kind::Backup.into(),
            job: "jobs/nightly".to_owned(),
            schedule: "jobs/nightly/schedules/daily".to_owned(),
            state: v1::run::State::Partial.into(),
            create_time: at(0),
            end_time: at(252),
            tasks: Some(v1::TaskCounts { total: 3, succeeded: 1, failed: 1, waiting: 1, running: 0 }),
            transfer: Some(v1::Transfer {
                disk_bytes: 12 << 30,
                read_bytes: 400 << 20,
                skipped_bytes: 11 << 30,
                written_bytes: 120 << 20,
                expected_bytes: 0,
            }),
            ..Default::default()
        }
    }

    pub(crate) fn tasks() -> Vec<v1::Task> {
        let step = |name: &str, begin, end, read, written| v1::Step {
            name: name.to_owned(),
            state: v1::step::State::Done.into(),
            start_time: at(begin),
            end_time: at(end),
            attempt: 1,
            read_bytes: read,
            written_bytes: written,
            ..Default::default()
        };
        let disk = v1::DiskTransfer {
            device: "xvda".to_owned(),
            label: "root".to_owned(),
            source: "nbd".to_owned(),
            reason: "changed block tracking was switched on just now; the next backup reads changes only".to_owned(),
            transfer: Some(v1::Transfer { disk_bytes: 10 << 30, read_bytes: 400 << 20, ..Default::default() }),
            ..Default::default()
        };
        let good = v1::Task {
            name: "runs/nightly.daily.20260101T020000Z/tasks/1".to_owned(),
            subject: "pools/lab/vms/u1".to_owned(),
            subject_label: "web".to_owned(),
            state: v1::task::State::Succeeded.into(),
            agent: "agents/rack-1".to_owned(),
            attempt: 1,
            start_time: at(1),
            end_time: at(81),
            steps: vec![
                step("snapshot", 1, 3, 0, 0),
                step("transfer", 3, 75, 400 << 20, 120 << 20),
                step("publish", 75, 76, 0, 0),
            ],
            disks: vec![disk],
            restore_points: vec!["restorePoints/1.nas".to_owned()],
            log: vec![v1::LogEntry {
                time: at(3),
                severity: v1::log_entry::Severity::Warning.into(),
                message: "NBD is slow".to_owned(),
            }],
            ..Default::default()
        };
        let failed = v1::Task {
            name: "runs/nightly.daily.20260101T020000Z/tasks/2".to_owned(),
            subject_label: "db\u{1b}[2J".to_owned(),
            state: v1::task::State::Failed.into(),
            start_time: at(2),
            end_time: at(4),
            error: Some(v1::Problem {
                reason: "SR_FULL".to_owned(),
                message: "SR ssd has 1.00 GiB free, the snapshot needs 8.00 GiB".to_owned(),
                advice: "free space on ssd".to_owned(),
                retryable: false,
            }),
            steps: vec![v1::Step {
                state: v1::step::State::Failed.into(),
                message: "no space".to_owned(),
                ..step("snapshot", 2, 4, 0, 0)
            }],
            ..Default::default()
        };
        let waiting = v1::Task {
            name: "runs/nightly.daily.20260101T020000Z/tasks/3".to_owned(),
            subject: "pools/lab/vms/u3".to_owned(),
            state: v1::task::State::Waiting.into(),
            waits_for: "a slot of job nightly (2 of 2 in use)".to_owned(),
            ..Default::default()
        };
        vec![good, failed, waiting]
    }

    #[test]
    fn a_run_is_shown_as_the_tree_of_its_tasks_steps_and_disks_with_reasons() {
        let expected = "\
nightly.daily.20260101T020000Z  PARTIAL
backup of nightly/daily, begun 2026-01-01 02:00:00, took 4 min 12 s
3 tasks: 400 MiB read, 11.0 GiB skipped, 120 MiB written

├─ web  SUCCEEDED  1 min 20 s  on rack-1
│  ├─ snapshot  2.0 s
│  ├─ transfer  1 min 12 s  400 MiB read  120 MiB written
│  │  └─ xvda root  10.0 GiB by nbd: 400 MiB read
│  │     └─ changed block tracking was switched on just now; the next backup reads changes only
│  ├─ publish  1.0 s
│  ├─ 02:00:03 warning: NBD is slow
│  └─ restore point 1.nas
├─ db [2J  FAILED  2.0 s
│  ├─ snapshot  failed  2.0 s  no space
│  └─ error: SR ssd has 1.00 GiB free, the snapshot needs 8.00 GiB (SR_FULL)
│     └─ advice: free space on ssd
└─ u3  WAITING
   └─ waits for a slot of job nightly (2 of 2 in use)";
        assert_eq!(tree(&run(), &tasks(), Log::Warnings, &view()), expected);
        let mut tasks = tasks();
        let entry = v1::LogEntry { time: at(5), message: "xvda is read by nbd".to_owned(), ..Default::default() };
        tasks[0].log.push(entry);
        assert_eq!(tree(&run(), &tasks, Log::Warnings, &view()), expected);
        let whole = tree(&run(), &tasks, Log::Whole, &view());
        assert_eq!(whole.lines().count(), expected.lines().count() + 1);
        assert!(whole.contains("02:00:05 xvda is read by nbd"), "{whole}");
    }

    #[test]
    fn runs_are_listed_with_what_they_did() {
        let expected = "\
RUN                             WHAT                     STATE    BEGUN                       TOOK  TASKS                          READ  WRITTEN
nightly.daily.20260101T020000Z  backup of nightly/daily  partial  2026-01-01 02:00:00  4 min 12 s  1 waiting, 1 ok, 1 failed  400 MiB  120 MiB";
        let shown = list(&[run()], "", &view());
        assert_eq!(shown.lines().count(), 2);
        for (line, expected) in shown.lines().zip(expected.lines()) {
            assert_eq!(line.split_whitespace().collect::<Vec<_>>(), expected.split_whitespace().collect::<Vec<_>>());
        }
        assert_eq!(list(&[], "Nothing runs", &view()), "Nothing runs");
    }

    #[test]
    fn a_run_that_was_waited_for_decides_the_exit_code() {
        use v1::run::State;
        for (state, exit) in [
            (State::Succeeded, 0),
            (State::Partial, 2),
            (State::Failed, 1),
            (State::Cancelled, 1),
            (State::Interrupted, 1),
        ] {
            assert_eq!(exit_of(state).code(), exit);
            assert!(has_ended(state));
        }
    }
}
