//! What an agent should hold, and what it has to know for it.

use coffer_core::State;
use coffer_core::decide::TaskKey;
use coffer_core::record::{ExportFormat, PointRecord, Subject, TaskRecord, Work};
use coffer_core::task_state::Purpose;
use coffer_model::names::Named;
use coffer_model::{RestorePointId, TaskName};
use coffer_proto::v1;

use crate::convert::point::spec_out;
use crate::convert::report::intent_out;
use crate::convert::run::schedule_name;

/// Every task that a session should hold; specifications only of those that it does not name as held.
pub(super) fn assignments(state: &State, session: &str, held: &[(TaskKey, u64)]) -> Vec<v1::Assignment> {
    let ours = state.open_tasks().filter_map(|(key, task)| {
        let lease = task.record.state.live_lease().filter(|lease| lease.session == session)?;
        Some((key, &task.record, lease.purpose))
    });
    ours.map(|(key, task, purpose)| {
        let known = held.iter().any(|(of, epoch)| of == key && *epoch == task.epoch);
        let cancel = state.run(&key.0).is_some_and(|run| run.record.cancel_requested);
        v1::Assignment {
            task: TaskName { run: key.0.clone(), task: key.1 }.name(),
            epoch: task.epoch,
            attempt: task.attempt,
            cancel,
            cleanup_only: matches!(purpose, Purpose::Cleanup { .. }),
            spec: if known { None } else { Some(spec(state, task)) },
            intents: task.intents.iter().map(intent_out).collect(),
            op_seq: task.last_op.seq,
        }
    })
    .collect()
}

fn spec(state: &State, task: &TaskRecord) -> v1::TaskSpec {
    use v1::task_spec::Kind;
    let kind = match (&task.work, &task.subject) {
        (Work::Backup { job, schedule, remotes }, Subject::Vm { pool, vm }) => Kind::Backup(v1::BackupSpec {
            pool: pool.name(),
            vm_uuid: vm.to_string(),
            job: job.name(),
            schedule: schedule.as_ref().map(|schedule| schedule_name(job, schedule)).unwrap_or_default(),
            remotes: remotes.iter().map(Named::name).collect(),
        }),
        (Work::Restore { pool, sr, vm_label, start, keep_mac_addresses, .. }, Subject::Point { point }) => {
            Kind::Restore(v1::RestoreSpec {
                point: point_spec(state, point),
                pool: pool.name(),
                sr_uuid: sr.to_string(),
                vm_label: vm_label.clone(),
                start: *start,
                keep_mac_addresses: *keep_mac_addresses,
            })
        }
        (Work::Verify { .. }, Subject::Point { point }) => Kind::Verify(point_spec(state, point).unwrap_or_default()),
        (Work::Delete { .. }, Subject::Point { point }) => Kind::Delete(point_spec(state, point).unwrap_or_default()),
        (Work::Export { format, folder, disks, .. }, Subject::Point { point }) => Kind::Export(v1::ExportSpec {
            point: point_spec(state, point),
            format: match format {
                ExportFormat::Raw => v1::export_restore_point_request::Format::Raw,
                ExportFormat::Vhd => v1::export_restore_point_request::Format::Vhd,
                ExportFormat::Qcow2 => v1::export_restore_point_request::Format::Qcow2,
            }
            .into(),
            folder: folder.clone(),
            disks: disks.clone(),
        }),
        (Work::Scan, Subject::Remote { remote }) => Kind::Scan(v1::RemoteSpec { remote: remote.name() }),
        (Work::Prune { dry_run }, Subject::Remote { remote }) => {
            Kind::Prune(v1::PruneSpec { remote: remote.name(), dry_run: *dry_run })
        }
        // Planning pairs work with its kind of subject; another pair is in no store that we wrote.
        _ => return v1::TaskSpec { kind: None },
    };
    v1::TaskSpec { kind: Some(kind) }
}

/// What the agent needs to know of a point; of one that went meanwhile, its id says the most.
fn point_spec(state: &State, id: &RestorePointId) -> Option<v1::PointSpec> {
    let found: Option<&PointRecord> = state.points.get(&(id.clone(),)).map(|found| &found.record);
    Some(found.map_or_else(
        || v1::PointSpec {
            point: id.name(),
            remote: id.remote.name(),
            made_by: id.task.to_string(),
            ..v1::PointSpec::default()
        },
        |point| spec_out(id, point),
    ))
}
