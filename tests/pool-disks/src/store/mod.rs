//! skeleton
#![allow(clippy::todo, unused_variables, clippy::unused_self, reason = "skeleton, filled in within the hour")]
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::disk::Disk;
use crate::error::{Result, XapiFailure};

/// How an SR reserves space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provisioning {
    /// VHD files: space is taken as blocks are written (ext, nfs, …).
    Thin,
    /// VHD in logical volumes: a writable disk always holds its full size (lvm, lvmoiscsi, …).
    Thick,
}

/// What an SR is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct SrParams {
    /// How space is reserved.
    pub provisioning: Provisioning,
    /// Bytes of the SR.
    pub physical_size: u64,
    /// Whether disks are VHD nodes (snapshots, clones, differential exports) or plain volumes.
    pub vhd: bool,
    /// Whether the SR's type can track changed blocks.
    pub cbt: bool,
    /// Nodes of a chain at which snapshots and clones are refused.
    pub max_chain: usize,
}

impl Default for SrParams {
    fn default() -> Self {
        Self { provisioning: Provisioning::Thin, physical_size: 1 << 40, vhd: true, cbt: true, max_chain: 30 }
    }
}

/// What a node of the tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A writable leaf: a VM's disk or a clone.
    Live,
    /// A read-only leaf.
    Snapshot,
    /// A hidden "base copy".
    Base,
    /// A snapshot whose data were destroyed; only its changed-block log is left.
    CbtMetadata,
}

/// One node, as `SR.scan` would find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node's UUID.
    pub id: Uuid,
    /// Its parent (`vhd-parent`).
    pub parent: Option<Uuid>,
    /// What it is.
    pub kind: NodeKind,
    /// Whether it is hidden (`managed=false`): same as `kind == Base`.
    pub hidden: bool,
    /// Virtual size in bytes.
    pub size: u64,
    /// Physical utilisation in bytes.
    pub physical: u64,
    /// Whether changed blocks are tracked.
    pub cbt: bool,
}

/// The SR's figures, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Sum of the virtual sizes of all disks that are not hidden.
    pub virtual_allocation: u64,
    /// Space taken.
    pub physical_utilisation: u64,
    /// Size of the SR.
    pub physical_size: u64,
}

/// What a snapshot or clone did to the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forked {
    /// Whether the hidden node was created; not when the source had no data of its own since the last one.
    pub new_base: bool,
    /// The parent that source and copy share now (their `vhd-parent`).
    pub parent: Option<Uuid>,
}

/// What garbage collection may do.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Merge hidden nodes into their parents (`coalesce`).
    pub coalesce: bool,
    /// Merge a leaf into its parent when it is the only child (`leaf-coalesce`).
    pub leaf_coalesce: bool,
    /// Disks in use by dom0 (exports, NBD): no node of their chains is touched.
    pub busy: Vec<Uuid>,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { coalesce: true, leaf_coalesce: true, busy: Vec::new() }
    }
}

/// One step of garbage collection. No step changes what any disk reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcEvent {
    /// A hidden node without children was deleted.
    Deleted {
        /// The node that is gone.
        node: Uuid,
    },
    /// A part of a hidden node was merged into its parent; more steps follow.
    Merging {
        /// The node that shrinks.
        node: Uuid,
        /// The node that takes its data.
        into: Uuid,
    },
    /// A hidden node was merged into its parent and is gone; its children have a new parent.
    Coalesced {
        /// The node that is gone.
        node: Uuid,
        /// The node that took its data.
        into: Uuid,
    },
    /// A leaf and its hidden parent became one; the leaf keeps its id.
    LeafCoalesced {
        /// The leaf.
        leaf: Uuid,
        /// The hidden node that is gone.
        parent: Uuid,
    },
}

/// Operations that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named after the method it makes fail")]
pub enum Operation {
    Create,
    Read,
    Write,
    Snapshot,
    Clone,
    Resize,
    Destroy,
    DataDestroy,
    EnableCbt,
    DisableCbt,
    ChangedBlocks,
    GarbageCollect,
}

/// A failure to be raised by a coming call.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which operation.
    pub operation: Operation,
    /// Only on this disk (the source, for snapshots and clones); any when absent.
    pub disk: Option<Uuid>,
    /// Matching calls that succeed before it is raised.
    pub after: u32,
    /// Calls that fail then; `u32::MAX` for ever.
    pub times: u32,
    /// What XAPI is to report.
    pub failure: XapiFailure,
}

/// The storage of one SR: a tree of copy-on-write nodes in one folder.
#[derive(Debug)]
pub struct SrStore {}

impl SrStore {
    /// Creates an empty SR in a folder, which is made.
    pub fn create(folder: &Path, params: SrParams) -> Result<Arc<Self>> {
        todo!()
    }
    /// Opens the SR that an earlier program left in a folder.
    pub fn open(folder: &Path) -> Result<Arc<Self>> {
        todo!()
    }
    /// What the SR is.
    pub fn params(&self) -> SrParams {
        todo!()
    }
    /// Changes the SR's size, for instance to make it full.
    pub fn set_physical_size(&self, bytes: u64) -> Result<()> {
        todo!()
    }
    /// Arms a fault.
    pub fn inject(&self, fault: Fault) {
        todo!()
    }
    /// Disarms all faults.
    pub fn clear_faults(&self) {
        todo!()
    }
    /// Creates a disk of zeros; returns its size, rounded up to 2 MiB.
    pub fn create_disk(&self, id: Uuid, size: u64) -> Result<u64> {
        todo!()
    }
    /// Fills a disk from a raw file, skipping its holes.
    pub fn import_file(&self, id: Uuid, path: &Path) -> Result<()> {
        todo!()
    }
    /// A handle for the streams.
    pub fn disk(self: &Arc<Self>, id: Uuid) -> Result<Disk> {
        todo!()
    }
    /// Reads. Blocking.
    pub fn read_at(&self, id: Uuid, offset: u64, buffer: &mut [u8]) -> Result<()> {
        todo!()
    }
    /// A write of the guest or of an import: marks changed blocks. Blocking.
    pub fn write_at(&self, id: Uuid, offset: u64, data: &[u8]) -> Result<()> {
        todo!()
    }
    /// Makes a range read as zeros, without allocating where it does already.
    pub fn zero_at(&self, id: Uuid, offset: u64, len: u64) -> Result<()> {
        todo!()
    }
    /// Snapshot: `snapshot` becomes a read-only leaf beside `source`, `base` their hidden parent if one is needed.
    pub fn snapshot(&self, source: Uuid, snapshot: Uuid, base: Uuid) -> Result<Forked> {
        todo!()
    }
    /// Clone: as a snapshot, but `copy` is writable and not tracked.
    pub fn clone_disk(&self, source: Uuid, copy: Uuid, base: Uuid) -> Result<Forked> {
        todo!()
    }
    /// Grows a live disk; returns the size, rounded up to 2 MiB.
    pub fn resize(&self, id: Uuid, size: u64) -> Result<u64> {
        todo!()
    }
    /// Removes a disk (not a hidden node); its hidden ancestors are left to garbage collection.
    pub fn destroy(&self, id: Uuid) -> Result<()> {
        todo!()
    }
    /// Starts tracking changed blocks. Idempotent.
    pub fn enable_cbt(&self, id: Uuid) -> Result<()> {
        todo!()
    }
    /// Stops tracking changed blocks and forgets the log. Idempotent.
    pub fn disable_cbt(&self, id: Uuid) -> Result<()> {
        todo!()
    }
    /// What a host crash does: tracking is off, without a word. Returns whether it was on.
    pub fn break_cbt(&self, id: Uuid) -> Result<bool> {
        todo!()
    }
    /// Whether changed blocks are tracked.
    pub fn is_cbt(&self, id: Uuid) -> Result<bool> {
        todo!()
    }
    /// The bitmap (64 KiB per bit, MSB first) of what may have changed after `from`, up to `to`.
    pub fn changed_blocks(&self, from: Uuid, to: Uuid) -> Result<Vec<u8>> {
        todo!()
    }
    /// Destroys a tracked snapshot's data; its changed-block log stays.
    pub fn data_destroy(&self, id: Uuid) -> Result<()> {
        todo!()
    }
    /// The 2 MiB blocks, ascending, that an export sends: everything allocated in the chain, or with `base` what is
    /// allocated in nodes that belong to exactly one of the two chains.
    pub fn allocated(&self, id: Uuid, base: Option<Uuid>) -> Result<Vec<u32>> {
        todo!()
    }
    /// Does one bounded step of garbage collection; `None` when there is nothing to do.
    pub fn garbage_collect_step(&self, options: &GcOptions) -> Result<Option<GcEvent>> {
        todo!()
    }
    /// All nodes.
    pub fn nodes(&self) -> Vec<NodeInfo> {
        todo!()
    }
    /// One node.
    pub fn node(&self, id: Uuid) -> Result<NodeInfo> {
        todo!()
    }
    /// Nodes in the chain of a disk, itself included.
    pub fn depth(&self, id: Uuid) -> Result<usize> {
        todo!()
    }
    /// The SR's figures.
    pub fn usage(&self) -> Usage {
        todo!()
    }
}
