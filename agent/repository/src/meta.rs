//! What is known of a restore point without opening it.

use jiff::Timestamp;
use uuid::Uuid;

use crate::SnapshotId;

/// Tag of every snapshot of ours.
pub const TAG: &str = "coffer";
/// Prefix of the tag that names the VM.
pub(crate) const VM_TAG: &str = "vm=";

/// What a new snapshot says about itself.
#[derive(Debug, Clone)]
pub struct SnapshotMeta {
    /// The instant that the snapshot shows.
    pub time: Timestamp,
    /// The VM.
    pub vm: Uuid,
    /// Its name, shown by stock tools as the host.
    pub vm_name: String,
    /// More tags, e.g. `job=…`. A tag holds no comma (stock tools separate by it). `coffer` and `vm=<uuid>` come by
    /// themselves.
    pub tags: Vec<String>,
    /// The point that this one was made against.
    pub parent: Option<SnapshotId>,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointInfo {
    /// Its id.
    pub id: SnapshotId,
    /// The instant that it shows.
    pub time: Timestamp,
    /// The VM, from the tag `vm=<uuid>`; `None` for foreign snapshots.
    pub vm: Option<Uuid>,
    /// Host as stock tools see it: the name of the VM.
    pub hostname: String,
    /// All its tags.
    pub tags: Vec<String>,
    /// The point it was made against.
    pub parent: Option<SnapshotId>,
}

impl PointInfo {
    /// Whether we made it. Whether it is a restore point is said by its commit record.
    pub fn is_ours(&self) -> bool {
        self.vm.is_some() && self.tags.iter().any(|tag| tag == TAG)
    }

    /// The value of the first tag `name=value`.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find_map(|tag| tag.strip_prefix(name)?.strip_prefix('='))
    }
}

/// A file of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Path inside the point, e.g. `disks/xvda-….raw`.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// What writing a disk took, in bytes (`new_chunks`: a count).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Given as data.
    pub read: u64,
    /// Given as zeros, or found to be.
    pub zero: u64,
    /// Given as unchanged.
    pub unchanged: u64,
    /// Chunks that the repository did not have.
    pub new_chunks: u64,
    /// Bytes of those.
    pub new_bytes: u64,
    /// What those take on the remote.
    pub stored_bytes: u64,
}
