//! Writes down what was backed up, and makes the restore point ready to be published.

use bytes::Bytes;
use coffer_model::TaskName;
use coffer_model::names::Named;
use coffer_repository::{SealedPoint, SnapshotMeta};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::Subject;
use super::preflight::{LOST, Ready};
use super::snapshot::Shot;
use super::transfer::{Moved, MovedDisk};
use crate::document::{
    self, DocumentDisk, DocumentInterface, DocumentNetwork, DocumentTpm, ExcludedDisk, Origin, Record, VmDocument,
};
use crate::halt::Outcome;
use crate::journal::Done;
use crate::stamps;
use crate::task::Task;

/// A restore point whose data is durable and that nobody can see yet.
pub(crate) struct Sealed {
    pub(super) point: SealedPoint,
}

/// The step. `None`: data that the backup was built on is lost, and it must begin anew, once.
pub(super) async fn seal(
    task: &Task,
    subject: &Subject,
    ready: &Ready,
    shot: &Shot,
    moved: Moved,
) -> Outcome<(Option<Sealed>, Done)> {
    let document = describe(task, subject, ready, shot, &moved.disks);
    for (tpm, contents) in &ready.machine.tpms {
        if contents.is_none() {
            task.journal.warn(format_args!(
                "the contents of TPM {} may not be read by this user: the restored machine will get an empty one",
                tpm.uuid
            ));
        }
    }
    let bytes = Bytes::from(document.encode());
    moved.session.file(document::PATH, bytes).await?;
    let meta = SnapshotMeta {
        time: shot.time,
        vm: subject.vm,
        vm_name: ready.machine.vm.name_label.clone(),
        tags: tags(&task.name, subject),
        parent: ready.parent.as_ref().map(|parent| parent.id),
    };
    let point = match moved.session.seal(meta).await {
        Ok(point) => point,
        Err(error) if error.is_damage() && !ready.is_anew => {
            task.journal.warn_error("data that this backup was built on is lost", &error);
            return Ok((None, format!("{LOST}: everything is read again").into()));
        }
        Err(error) => return Err(error.into()),
    };
    let message = format!("snapshot {} is on remote {}", point.snapshot_id(), subject.remote.id);
    let written_bytes = document.added_bytes;
    Ok((Some(Sealed { point }), Done { message, written_bytes, ..Done::default() }))
}

fn tags(task: &TaskName, subject: &Subject) -> Vec<String> {
    let spec = &subject.spec;
    let mut tags = vec![
        format!("pool={}", subject.pool_id),
        format!("run={}", task.run),
        format!("task={}", task.task),
        format!("job={}", spec.job.rsplit('/').next().unwrap_or_default()),
    ];
    if let Some(schedule) = spec.schedule.rsplit('/').next().filter(|schedule| !schedule.is_empty()) {
        tags.push(format!("schedule={schedule}"));
    }
    // Stock tools separate tags by commas.
    tags.retain(|tag| !tag.contains(','));
    tags
}

fn describe(task: &Task, subject: &Subject, ready: &Ready, shot: &Shot, moved: &[MovedDisk]) -> VmDocument {
    let machine = &ready.machine;
    let origin = Origin {
        site: task.site.clone(),
        pool: subject.spec.pool.clone(),
        pool_uuid: ready.pool_uuid,
        job: subject.spec.job.clone(),
        schedule: subject.spec.schedule.clone(),
        run: task.name.run.name(),
        task: task.name.task.uuid(),
        vm_uuid: subject.vm,
        vm_label: machine.vm.name_label.clone(),
        time: shot.time,
    };
    let mut document = VmDocument::new(origin, cleaned(&machine.vm.raw));
    document.disks = ready
        .included()
        .zip(moved)
        .map(|((disk, _), moved)| DocumentDisk {
            uuid: disk.vdi.uuid,
            device: moved.device.clone(),
            position: disk.vbd.userdevice.clone(),
            label: disk.vdi.name_label.clone(),
            size: moved.size,
            path: moved.path.clone(),
            vbd: cleaned(&disk.vbd.raw),
            vdi: cleaned(&disk.vdi.raw),
            reference: moved.reference,
            source: moved.source.to_owned(),
            reason: moved.reason.clone(),
        })
        .collect();
    document.excluded = ready
        .excluded()
        .map(|disk| ExcludedDisk {
            uuid: disk.vdi.uuid,
            position: disk.vbd.userdevice.clone(),
            label: disk.vdi.name_label.clone(),
        })
        .collect();
    document.drives = machine.drives.iter().map(|drive| cleaned(&drive.raw)).collect();
    document.interfaces = machine
        .interfaces
        .iter()
        .map(|(vif, network)| DocumentInterface {
            vif: cleaned(&vif.raw),
            network: network.as_ref().map(|network| DocumentNetwork {
                uuid: network.uuid,
                label: network.name_label.clone(),
                bridge: network.bridge.clone(),
            }),
        })
        .collect();
    document.tpms = machine
        .tpms
        .iter()
        .map(|(tpm, contents)| DocumentTpm {
            record: cleaned(&tpm.raw),
            contents: contents.as_ref().map(|contents| contents.expose_secret().to_owned()),
        })
        .collect();
    document.added_bytes = moved.iter().map(|disk| disk.closed.stats.stored_bytes).sum();
    document
}

/// A record without our stamps.
fn cleaned(record: &Record) -> Record {
    let mut record = record.clone();
    if let Some(Value::Object(config)) = record.get_mut("other_config") {
        config.retain(|key, _| !stamps::is_ours(key));
    }
    record
}
