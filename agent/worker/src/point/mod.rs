//! Restore points on a remote: snapshots of ours that won their commit record.

use std::collections::HashMap;

use coffer_model::VmUuid;
use coffer_remote::commit::{self, Verdict};
use coffer_repository::{Point, PointInfo, SnapshotId};
use uuid::Uuid;

use crate::document::{self, VmDocument};
use crate::halt::{Outcome, Trouble};
use crate::task::OpenRemote;

pub(crate) mod delete;
pub(crate) mod export;
pub(crate) mod moving;
pub(crate) mod prune;
pub(crate) mod scan;
pub(crate) mod verify;

/// A restore point that has been opened.
pub(crate) struct OpenPoint {
    pub(crate) id: SnapshotId,
    pub(crate) point: Point,
    pub(crate) document: VmDocument,
}

/// Snapshots that are restore points, with the task that made each, oldest first: of all VMs, or of one.
pub(crate) async fn committed(remote: &OpenRemote, vm: Option<Uuid>) -> Outcome<Vec<(PointInfo, Uuid)>> {
    let winners: HashMap<String, Uuid> = commit::list(&*remote.remote, vm)
        .await?
        .into_iter()
        .filter(|record| record.verdict == Verdict::Commit)
        .filter_map(|record| Some((record.snapshot?, record.task)))
        .collect();
    let points = remote.repository.points().await?.into_iter();
    Ok(points
        .filter(|point| point.is_ours() && (vm.is_none() || point.vm == vm))
        .filter_map(|point| winners.get(&point.id.to_string()).map(|task| (point, *task)))
        .collect())
}

/// Opens a restore point and reads its document.
pub(crate) async fn open(remote: &OpenRemote, id: SnapshotId) -> Outcome<OpenPoint> {
    let point = remote.repository.point(id).await?;
    let bytes = point.read_file(document::PATH, document::MAX_BYTES).await?;
    let document = VmDocument::decode(&bytes, &format!("snapshot {id} on remote {}", remote.id))?;
    Ok(OpenPoint { id, point, document })
}

/// Reads the id of a snapshot that a controller named.
pub(crate) fn snapshot_id(text: &str) -> Outcome<SnapshotId> {
    Ok(text.parse().map_err(|_| {
        Trouble::new(
            "BAD_REQUEST",
            format!("{text:?} is not the id of a snapshot"),
            "scan the remote to correct the catalogue",
        )
    })?)
}

/// Reads the UUID of a VM that a controller named.
pub(crate) fn vm_uuid(text: &str) -> Outcome<Uuid> {
    let vm: VmUuid = text.parse().map_err(|error: coffer_model::IdError| {
        Trouble::new("BAD_REQUEST", error.to_string(), "report this as a fault of the program")
    })?;
    Ok(vm.uuid())
}
