//! What agents report about tasks and inventories, checked and bounded.

use std::collections::BTreeSet;

use coffer_core::decide::TaskKey;
use coffer_core::decide::work::{Caller, Outcome, Report};
use coffer_core::record::{Disk, Intent, LogLine, Problem, Severity, Step, StepState, Transfer};
use coffer_model::{ByteSize, InventoryDisk, InventorySr, InventoryVm, TaskName};
use coffer_proto::v1;
use jiff::Timestamp;

use super::{cut, id_in, name_in, point, text_in, time_in};
use crate::fault::Fault;

/// Most characters of a message.
const MESSAGE: usize = 4096;
/// Most characters of a name.
const NAME: usize = 512;
/// Most bytes of what an undo has to know.
const DETAIL: usize = 16 * 1024;
/// Most entries of a list in one call.
const ENTRIES: usize = 1000;

pub(crate) fn caller_in(session: String, task: &str, epoch: u64) -> Result<Caller, Fault> {
    Ok(Caller { session, task: task_in(task)?, epoch })
}

pub(crate) fn task_in(task: &str) -> Result<TaskKey, Fault> {
    let name: TaskName = name_in("task", task)?;
    Ok((name.run, name.task))
}

fn bounded<T>(field: &str, list: Vec<T>) -> Result<Vec<T>, Fault> {
    if list.len() > ENTRIES {
        return Err(Fault::invalid(field, format!("must have at most {ENTRIES} entries")));
    }
    Ok(list)
}

pub(crate) fn step_in(step: v1::Step) -> Result<Step, Fault> {
    use v1::step::State;
    let state = match step.state() {
        State::Running => StepState::Running,
        State::Done => StepState::Done,
        State::Failed => StepState::Failed,
        State::Undone => StepState::Undone,
        State::Unspecified => return Err(Fault::invalid("step.state", "must be set")),
    };
    if step.name.is_empty() {
        return Err(Fault::invalid("step.name", "must be set"));
    }
    Ok(Step {
        name: text_in("step.name", step.name, 64)?,
        state,
        start: step.start_time.map(|time| time_in("step.start_time", time)).transpose()?,
        end: step.end_time.map(|time| time_in("step.end_time", time)).transpose()?,
        message: cut(step.message, MESSAGE),
        attempt: 0,
        read_bytes: step.read_bytes,
        written_bytes: step.written_bytes,
    })
}

pub(crate) fn intents_in(intents: Vec<v1::Intent>) -> Result<Vec<(Intent, bool)>, Fault> {
    bounded("intents", intents)?
        .into_iter()
        .map(|intent| {
            let id: coffer_model::IntentId = id_in("intents.id", &intent.id)?;
            if intent.detail.len() > DETAIL {
                return Err(Fault::invalid("intents.detail", format!("must have at most {DETAIL} bytes")));
            }
            let record = Intent {
                id: id.to_string(),
                kind: text_in("intents.kind", intent.kind, 64)?,
                pool: name_in("intents.pool", &intent.pool)?,
                target: text_in("intents.target", intent.target, NAME)?,
                detail: intent.detail,
            };
            Ok((record, intent.closed))
        })
        .collect()
}

pub(crate) fn intent_out(intent: &Intent) -> v1::Intent {
    v1::Intent {
        id: intent.id.clone(),
        kind: intent.kind.clone(),
        pool: format!("pools/{}", intent.pool),
        target: intent.target.clone(),
        detail: intent.detail.clone(),
        closed: false,
    }
}

pub(crate) fn report_in(log: Vec<v1::LogEntry>, disks: Vec<v1::DiskTransfer>, now: Timestamp) -> Result<Report, Fault> {
    let log = bounded("log", log)?.into_iter().map(|line| log_in(line, now)).collect::<Result<_, _>>()?;
    Ok(Report { log, disks: disks_in(disks)? })
}

fn log_in(line: v1::LogEntry, now: Timestamp) -> Result<LogLine, Fault> {
    use v1::log_entry::Severity as In;
    let severity = match line.severity() {
        In::Warning => Severity::Warning,
        In::Error => Severity::Error,
        In::Info | In::Unspecified => Severity::Info,
    };
    let time = line.time.map(|time| time_in("log.time", time)).transpose()?.unwrap_or(now);
    Ok(LogLine { time, severity, message: cut(line.message, MESSAGE) })
}

pub(crate) fn disks_in(disks: Vec<v1::DiskTransfer>) -> Result<Vec<Disk>, Fault> {
    let disks = bounded("disks", disks)?.into_iter().take(coffer_core::record::DISKS);
    Ok(disks
        .map(|disk| {
            let transfer = disk.transfer.unwrap_or_default();
            Disk {
                uuid: cut(disk.disk_uuid, 64),
                device: cut(disk.device, 64),
                label: cut(disk.label, NAME),
                source: cut(disk.source, 64),
                reason: cut(disk.reason, NAME),
                transfer: Transfer {
                    disk: transfer.disk_bytes,
                    read: transfer.read_bytes,
                    skipped: transfer.skipped_bytes,
                    written: transfer.written_bytes,
                    expected: transfer.expected_bytes,
                },
                rate: disk.rate_bytes_per_second,
            }
        })
        .collect())
}

pub(crate) fn problem_in(problem: v1::Problem) -> Problem {
    Problem {
        reason: cut(problem.reason, 64),
        message: cut(problem.message, MESSAGE),
        advice: cut(problem.advice, MESSAGE),
        retryable: problem.retryable,
    }
}

pub(crate) fn outcome_in(outcome: Option<v1::complete_request::Outcome>) -> Result<Outcome, Fault> {
    use v1::complete_request::Outcome as In;
    match outcome {
        None => Err(Fault::invalid("outcome", "must be set")),
        Some(In::Cancelled(v1::TaskCancelled {})) => Ok(Outcome::Cancelled),
        Some(In::Failure(problem)) => Ok(Outcome::Failure(problem_in(problem))),
        Some(In::Skipped(problem)) => Ok(Outcome::Skipped(problem_in(problem))),
        Some(In::Success(success)) => Ok(Outcome::Success {
            points: bounded("success.restore_points", success.restore_points)?
                .into_iter()
                .take(20)
                .map(point::point_in)
                .collect::<Result<_, _>>()?,
            created_vm: match success.created_vm_uuid.as_str() {
                "" => None,
                uuid => Some(id_in("success.created_vm_uuid", uuid)?),
            },
            verified: success.verified_time.map(|time| time_in("success.verified_time", time)).transpose()?,
            damage: cut(success.damage, MESSAGE),
        }),
    }
}

pub(crate) fn vm_in(vm: v1::InventoryVm) -> Result<InventoryVm, Fault> {
    let tags: BTreeSet<String> = bounded("vms.tags", vm.tags)?.into_iter().map(|tag| cut(tag, NAME)).collect();
    Ok(InventoryVm {
        uuid: id_in("vms.uuid", &vm.uuid)?,
        name_label: cut(vm.name_label, NAME),
        power_state: vm.power_state.parse().map_err(|error: coffer_model::inventory::PowerStateError| {
            Fault::invalid("vms.power_state", error.to_string())
        })?,
        tags,
        disks: bounded("vms.disks", vm.disks)?
            .into_iter()
            .map(|disk| {
                Ok(InventoryDisk {
                    uuid: id_in("vms.disks.uuid", &disk.uuid)?,
                    device: cut(disk.device, 64),
                    name_label: cut(disk.name_label, NAME),
                    size: ByteSize(disk.size_bytes),
                    sr: id_in("vms.disks.sr_uuid", &disk.sr_uuid)?,
                })
            })
            .collect::<Result<_, Fault>>()?,
        host: match vm.host_uuid.as_str() {
            "" => None,
            uuid => Some(id_in("vms.host_uuid", uuid)?),
        },
    })
}

pub(crate) fn sr_in(sr: v1::InventorySr) -> Result<InventorySr, Fault> {
    Ok(InventorySr {
        uuid: id_in("srs.uuid", &sr.uuid)?,
        name_label: cut(sr.name_label, NAME),
        kind: cut(sr.r#type, 64),
        shared: sr.shared,
        size: ByteSize(sr.size_bytes),
        used: ByteSize(sr.used_bytes),
    })
}
