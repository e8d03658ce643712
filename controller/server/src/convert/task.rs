//! Tasks, as clients see them.

use coffer_core::decide::TaskKey;
use coffer_core::record::{Disk, LogLine, Problem, Severity, Step, StepState, TaskRecord, Transfer};
use coffer_core::task_state::{Purpose, TaskState, Verdict};
use coffer_model::TaskName;
use coffer_model::names::Named;
use coffer_proto::v1;

use super::time_out;

/// A task; `live` are disks as the agent reports them now.
pub(crate) fn task_out(key: &TaskKey, task: &TaskRecord, waits_for: String, live: Option<Vec<Disk>>) -> v1::Task {
    let disks = live.as_ref().unwrap_or(&task.disks);
    let transfer: Transfer = disks.iter().map(|disk| disk.transfer).sum();
    v1::Task {
        name: TaskName { run: key.0.clone(), task: key.1 }.name(),
        subject: task.subject.to_string(),
        subject_label: task.label.clone(),
        state: state_out(&task.state).into(),
        waits_for,
        error: task.problem.as_ref().map(problem_out),
        agent: task.agent.as_ref().map(Named::name).unwrap_or_default(),
        attempt: task.attempt,
        epoch: task.epoch,
        start_time: task.started.map(time_out),
        end_time: task.ended.map(time_out),
        steps: task.steps.iter().map(step_out).collect(),
        transfer: Some(transfer_out(transfer)),
        disks: disks.iter().map(disk_out).collect(),
        restore_points: task.points.iter().map(Named::name).collect(),
        created_vm_uuid: task.created_vm.map(|vm| vm.to_string()).unwrap_or_default(),
        log: task.log.iter().map(log_out).collect(),
    }
}

fn state_out(state: &TaskState) -> v1::task::State {
    use v1::task::State;
    match state {
        TaskState::Waiting { .. } => State::Waiting,
        TaskState::Leased { lease } | TaskState::Running { lease } | TaskState::Committing { lease } => {
            match lease.purpose {
                Purpose::Work => State::Running,
                Purpose::Recover | Purpose::Cleanup { .. } => State::Recovering,
            }
        }
        TaskState::Disconnected { .. } => State::Disconnected,
        TaskState::Recovering { .. } => State::Recovering,
        TaskState::Ended { verdict } => match verdict {
            Verdict::Succeeded => State::Succeeded,
            Verdict::Failed => State::Failed,
            Verdict::Cancelled => State::Cancelled,
            Verdict::Interrupted => State::Interrupted,
            Verdict::Skipped => State::Skipped,
        },
    }
}

pub(crate) fn problem_out(problem: &Problem) -> v1::Problem {
    v1::Problem {
        reason: problem.reason.clone(),
        message: problem.message.clone(),
        advice: problem.advice.clone(),
        retryable: problem.retryable,
    }
}

fn step_out(step: &Step) -> v1::Step {
    use v1::step::State;
    let state = match step.state {
        StepState::Running => State::Running,
        StepState::Done => State::Done,
        StepState::Failed => State::Failed,
        StepState::Undone => State::Undone,
    };
    v1::Step {
        name: step.name.clone(),
        state: state.into(),
        start_time: step.start.map(time_out),
        end_time: step.end.map(time_out),
        message: step.message.clone(),
        attempt: step.attempt,
        read_bytes: step.read_bytes,
        written_bytes: step.written_bytes,
    }
}

pub(crate) fn transfer_out(transfer: Transfer) -> v1::Transfer {
    v1::Transfer {
        disk_bytes: transfer.disk,
        read_bytes: transfer.read,
        skipped_bytes: transfer.skipped,
        written_bytes: transfer.written,
        expected_bytes: transfer.expected,
    }
}

fn disk_out(disk: &Disk) -> v1::DiskTransfer {
    v1::DiskTransfer {
        disk_uuid: disk.uuid.clone(),
        device: disk.device.clone(),
        label: disk.label.clone(),
        source: disk.source.clone(),
        reason: disk.reason.clone(),
        transfer: Some(transfer_out(disk.transfer)),
        rate_bytes_per_second: disk.rate,
    }
}

fn log_out(line: &LogLine) -> v1::LogEntry {
    use v1::log_entry::Severity as Out;
    let severity = match line.severity {
        Severity::Info => Out::Info,
        Severity::Warning => Out::Warning,
        Severity::Error => Out::Error,
    };
    v1::LogEntry { time: Some(time_out(line.time)), severity: severity.into(), message: line.message.clone() }
}
