//! What a VM is made of besides itself: disks' attachments, network interfaces, TPMs; and networks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::decode::{integer, nullable, references};
use super::{Vdi, Vm, class};
use crate::Ref;

class!(
    /// Class `VBD`: a disk or CD of a VM.
    Vbd, "VBD", VbdRecord
);
class!(
    /// Class `VIF`: a network interface of a VM.
    Vif, "VIF", VifRecord
);
class!(
    /// Class `VTPM`.
    Vtpm, "VTPM", VtpmRecord
);
class!(
    /// Class `network`.
    Network, "network", NetworkRecord
);

/// What a `VBD` is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VbdType {
    /// A CD drive.
    #[serde(rename = "CD")]
    Cd,
    /// A disk.
    Disk,
    /// A floppy, or something of a future version.
    #[default]
    #[serde(other)]
    Floppy,
}

/// Whether a VM may write to a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VbdMode {
    /// It may only read.
    #[default]
    #[serde(rename = "RO")]
    ReadOnly,
    /// It may write.
    #[serde(rename = "RW")]
    ReadWrite,
}

/// What is read of a `VBD`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct VbdRecord {
    /// Identity.
    pub uuid: Uuid,
    /// The VM.
    #[serde(rename = "VM", deserialize_with = "nullable")]
    pub vm: Option<Ref<Vm>>,
    /// The disk; none in an empty drive.
    #[serde(rename = "VDI", deserialize_with = "nullable")]
    pub vdi: Option<Ref<Vdi>>,
    /// As the guest sees it: `xvda`. Empty while never attached.
    pub device: String,
    /// The position: `0`, `1`, …
    pub userdevice: String,
    /// The VM boots from it.
    pub bootable: bool,
    /// Whether the VM may write.
    pub mode: VbdMode,
    /// Disk or CD.
    #[serde(rename = "type")]
    pub kind: VbdType,
    /// No medium.
    pub empty: bool,
    /// In use now.
    pub currently_attached: bool,
    /// Free for clients.
    pub other_config: BTreeMap<String, String>,
}

/// What is read of a `VIF`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct VifRecord {
    /// Identity.
    pub uuid: Uuid,
    /// The VM.
    #[serde(rename = "VM", deserialize_with = "nullable")]
    pub vm: Option<Ref<Vm>>,
    /// The network.
    #[serde(deserialize_with = "nullable")]
    pub network: Option<Ref<Network>>,
    /// The position: `0`, `1`, …
    pub device: String,
    /// The hardware address.
    #[serde(rename = "MAC")]
    pub mac: String,
    /// The largest frame.
    #[serde(rename = "MTU", deserialize_with = "integer")]
    pub mtu: i64,
    /// In use now.
    pub currently_attached: bool,
}

/// What is read of a `VTPM`. Its contents are asked for separately.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct VtpmRecord {
    /// Identity.
    pub uuid: Uuid,
    /// The VM.
    #[serde(rename = "VM", deserialize_with = "nullable")]
    pub vm: Option<Ref<Vm>>,
    /// Copies of the VM get an empty one.
    pub is_unique: bool,
}

/// What is read of a `network`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NetworkRecord {
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name_label: String,
    /// Its bridge on every host.
    pub bridge: String,
    /// `nbd`, `insecure_nbd`.
    pub purpose: Vec<String>,
    /// Interfaces on it.
    #[serde(rename = "VIFs", deserialize_with = "references")]
    pub vifs: Vec<Ref<Vif>>,
}
