//! Restore points: as clients see them, as agents need them, as agents report them.

use coffer_core::record::{PointDisk, PointRecord, PointState};
use coffer_model::names::Named;
use coffer_model::{JobId, PoolId, RemoteId, RestorePointId, RunId, ScheduleName};
use coffer_proto::v1;

use super::run::schedule_name;
use super::{cut, id_in, name_in, time_in, time_out};
use crate::fault::Fault;

/// Most disks of a restore point.
const DISKS: usize = 256;
/// Most characters of a text in a restore point.
const TEXT: usize = 1024;

pub(crate) fn point_out(id: &RestorePointId, point: &PointRecord) -> v1::RestorePoint {
    let schedule = point.job.as_ref().zip(point.schedule.as_ref());
    v1::RestorePoint {
        name: id.name(),
        remote: point.remote.name(),
        vm_uuid: point.vm.to_string(),
        vm_label: point.vm_label.clone(),
        pool: point.pool.as_ref().map(Named::name).unwrap_or_default(),
        time: Some(time_out(point.time)),
        job: point.job.as_ref().map(Named::name).unwrap_or_default(),
        schedule: schedule.map(|(job, schedule)| schedule_name(job, schedule)).unwrap_or_default(),
        run: point.run.as_ref().map(Named::name).unwrap_or_default(),
        disks: point
            .disks
            .iter()
            .map(|disk| v1::RestorePointDisk {
                uuid: disk.uuid.clone(),
                device: disk.device.clone(),
                label: disk.label.clone(),
                size_bytes: disk.size_bytes,
                path: disk.path.clone(),
            })
            .collect(),
        disk_bytes: point.disk_bytes,
        added_bytes: point.added_bytes,
        snapshot_id: point.snapshot_id.clone(),
        verified_time: point.verified.map(time_out),
        damage: point.damage.clone(),
    }
}

/// A restore point as an agent is told of it.
pub(crate) fn spec_out(id: &RestorePointId, point: &PointRecord) -> v1::PointSpec {
    v1::PointSpec {
        point: id.name(),
        remote: point.remote.name(),
        snapshot_id: point.snapshot_id.clone(),
        vm_uuid: point.vm.to_string(),
        made_by: point.made_by.to_string(),
    }
}

/// A restore point as an agent reports it.
pub(crate) fn point_in(point: v1::RestorePoint) -> Result<(RestorePointId, PointRecord), Fault> {
    let id: RestorePointId = name_in("restore_points.name", &point.name)?;
    let remote: RemoteId = name_in("restore_points.remote", &point.remote)?;
    if remote != id.remote {
        return Err(Fault::invalid("restore_points.remote", format!("must be the remote that {} names", point.name)));
    }
    if point.disks.len() > DISKS {
        return Err(Fault::invalid("restore_points.disks", format!("must have at most {DISKS} entries")));
    }
    let snapshot_id = point.snapshot_id;
    if snapshot_id.len() != 64 || !snapshot_id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Fault::invalid("restore_points.snapshot_id", "must be 64 hexadecimal digits"));
    }
    let time = point.time.ok_or_else(|| Fault::invalid("restore_points.time", "must be set"))?;
    let schedule = optional::<ScheduleName>("restore_points.schedule", &point.schedule)?;
    let job = optional::<JobId>("restore_points.job", &point.job)?;
    let record = PointRecord {
        state: PointState::Listed,
        remote,
        vm: id_in("restore_points.vm_uuid", &point.vm_uuid)?,
        vm_label: cut(point.vm_label, TEXT),
        pool: optional::<PoolId>("restore_points.pool", &point.pool)?,
        time: time_in("restore_points.time", time)?,
        job: job.or_else(|| schedule.as_ref().map(|schedule| schedule.job.clone())),
        schedule: schedule.map(|schedule| schedule.schedule),
        run: optional::<RunId>("restore_points.run", &point.run)?,
        made_by: id.task,
        disks: point
            .disks
            .into_iter()
            .map(|disk| PointDisk {
                uuid: cut(disk.uuid, 64),
                device: cut(disk.device, 64),
                label: cut(disk.label, TEXT),
                size_bytes: disk.size_bytes,
                path: cut(disk.path, TEXT),
            })
            .collect(),
        disk_bytes: point.disk_bytes,
        added_bytes: point.added_bytes,
        snapshot_id,
        verified: point.verified_time.map(|time| time_in("restore_points.verified_time", time)).transpose()?,
        damage: cut(point.damage, TEXT),
    };
    Ok((id, record))
}

fn optional<T: Named>(field: &str, text: &str) -> Result<Option<T>, Fault> {
    if text.is_empty() { Ok(None) } else { name_in(field, text).map(Some) }
}
