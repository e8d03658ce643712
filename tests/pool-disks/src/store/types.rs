//! The words of the store's interface.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::XapiFailure;

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
    /// The tree changed while the step was prepared; nothing was done.
    Deferred {
        /// The node that was to be worked on.
        node: Uuid,
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
