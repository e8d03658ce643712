//! Storage repositories, their connections to hosts, and disks.

use std::collections::BTreeMap;

use serde::Deserialize;
use uuid::Uuid;

use super::decode::{date, nullable, references, size};
use super::{Host, Vbd, class};
use crate::Ref;

class!(
    /// Class `SR`.
    Sr, "SR", SrRecord
);
class!(
    /// Class `PBD`: the connection of a host to a storage repository.
    Pbd, "PBD", PbdRecord
);
class!(
    /// Class `VDI`: a disk.
    Vdi, "VDI", VdiRecord
);

/// What is read of an `SR`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SrRecord {
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name_label: String,
    /// Description.
    pub name_description: String,
    /// Driver: `ext`, `nfs`, `lvmoiscsi`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `iso` for images of CDs.
    pub content_type: String,
    /// Whether several hosts use it.
    pub shared: bool,
    /// Its disks, hidden ones included.
    #[serde(rename = "VDIs", deserialize_with = "references")]
    pub vdis: Vec<Ref<Vdi>>,
    /// Its connections to hosts.
    #[serde(rename = "PBDs", deserialize_with = "references")]
    pub pbds: Vec<Ref<Pbd>>,
    /// Sum of the sizes of its disks, bytes.
    #[serde(deserialize_with = "size")]
    pub virtual_allocation: u64,
    /// Used, bytes.
    #[serde(deserialize_with = "size")]
    pub physical_utilisation: u64,
    /// Size, bytes; 0 before its first scan.
    #[serde(deserialize_with = "size")]
    pub physical_size: u64,
    /// Tags.
    pub tags: Vec<String>,
    /// Free for clients; also holds switches of the garbage collector.
    pub other_config: BTreeMap<String, String>,
    /// Of the driver.
    pub sm_config: BTreeMap<String, String>,
}

/// What is read of a `PBD`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PbdRecord {
    /// Identity.
    pub uuid: Uuid,
    /// The host.
    #[serde(deserialize_with = "nullable")]
    pub host: Option<Ref<Host>>,
    /// The storage repository.
    #[serde(rename = "SR", deserialize_with = "nullable")]
    pub sr: Option<Ref<Sr>>,
    /// Whether the host uses it now.
    pub currently_attached: bool,
}

/// What is read of a `VDI`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct VdiRecord {
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name_label: String,
    /// Description.
    pub name_description: String,
    /// Where it is.
    #[serde(rename = "SR", deserialize_with = "nullable")]
    pub sr: Option<Ref<Sr>>,
    /// Whom it is attached to.
    #[serde(rename = "VBDs", deserialize_with = "references")]
    pub vbds: Vec<Ref<Vbd>>,
    /// Size as the guest sees it, bytes.
    #[serde(deserialize_with = "size")]
    pub virtual_size: u64,
    /// Used by this node of its chain alone, bytes.
    #[serde(deserialize_with = "size")]
    pub physical_utilisation: u64,
    /// `user`, `system`, `suspend`, `cbt_metadata`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Several VMs may write.
    pub sharable: bool,
    /// Nobody may write.
    pub read_only: bool,
    /// False for hidden nodes of a chain.
    pub managed: bool,
    /// The storage no longer has it.
    pub missing: bool,
    /// A snapshot.
    pub is_a_snapshot: bool,
    /// The disk that this is a snapshot of.
    #[serde(deserialize_with = "nullable")]
    pub snapshot_of: Option<Ref<Vdi>>,
    /// Its snapshots.
    #[serde(deserialize_with = "references")]
    pub snapshots: Vec<Ref<Vdi>>,
    /// When the snapshot was taken, by the host's clock.
    #[serde(deserialize_with = "date")]
    pub snapshot_time: Option<jiff::Timestamp>,
    /// Whether changed blocks are tracked.
    pub cbt_enabled: bool,
    /// `persist` or `reset`.
    pub on_boot: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Free for clients.
    pub other_config: BTreeMap<String, String>,
    /// Of the driver; `vhd-parent` names the parent's UUID.
    pub sm_config: BTreeMap<String, String>,
    /// Task → operation.
    pub current_operations: BTreeMap<String, String>,
}
