//! VMs, which are also templates, snapshots and control domains, and what their guests report.

use std::collections::BTreeMap;

use serde::Deserialize;
use uuid::Uuid;

use super::decode::{date, integer, nullable, references, size};
use super::{Host, Sr, Vbd, Vdi, Vif, Vtpm, class};
use crate::Ref;

class!(
    /// Class `VM`.
    Vm, "VM", VmRecord
);
class!(
    /// Class `VM_guest_metrics`.
    GuestMetrics, "VM_guest_metrics", GuestMetricsRecord
);

/// Whether a VM runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum PowerState {
    /// Off.
    Halted,
    /// In memory, not running.
    Paused,
    /// Running.
    Running,
    /// On disk, memory included.
    Suspended,
    /// A state of a future version.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What is read of a `VM`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct VmRecord {
    /// Identity; a snapshot has its own.
    pub uuid: Uuid,
    /// Name.
    pub name_label: String,
    /// Description.
    pub name_description: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Whether it runs.
    pub power_state: PowerState,
    /// A template; snapshots are too.
    pub is_a_template: bool,
    /// A template that came with the product.
    pub is_default_template: bool,
    /// A snapshot.
    pub is_a_snapshot: bool,
    /// A control domain, never to be backed up.
    pub is_control_domain: bool,
    /// The VM that this is a snapshot of.
    #[serde(deserialize_with = "nullable")]
    pub snapshot_of: Option<Ref<Vm>>,
    /// Its snapshots.
    #[serde(deserialize_with = "references")]
    pub snapshots: Vec<Ref<Vm>>,
    /// When the snapshot was taken, by the host's clock.
    #[serde(deserialize_with = "date")]
    pub snapshot_time: Option<jiff::Timestamp>,
    /// The host that it runs on.
    #[serde(deserialize_with = "nullable")]
    pub resident_on: Option<Ref<Host>>,
    /// Its disks and CDs.
    #[serde(rename = "VBDs", deserialize_with = "references")]
    pub vbds: Vec<Ref<Vbd>>,
    /// Its network interfaces.
    #[serde(rename = "VIFs", deserialize_with = "references")]
    pub vifs: Vec<Ref<Vif>>,
    /// Its virtual TPMs.
    #[serde(rename = "VTPMs", deserialize_with = "references")]
    pub vtpms: Vec<Ref<Vtpm>>,
    /// The image of its memory while suspended.
    #[serde(rename = "suspend_VDI", deserialize_with = "nullable")]
    pub suspend_vdi: Option<Ref<Vdi>>,
    /// Where its memory goes when suspended.
    #[serde(rename = "suspend_SR", deserialize_with = "nullable")]
    pub suspend_sr: Option<Ref<Sr>>,
    /// Memory at most, bytes.
    #[serde(deserialize_with = "size")]
    pub memory_static_max: u64,
    /// CPUs at most.
    #[serde(rename = "VCPUs_max", deserialize_with = "integer")]
    pub vcpus_max: i64,
    /// Free for clients.
    pub other_config: BTreeMap<String, String>,
    /// Operation → reason.
    pub blocked_operations: BTreeMap<String, String>,
    /// Task → operation.
    pub current_operations: BTreeMap<String, String>,
    /// What guest and clients tell each other.
    pub xenstore_data: BTreeMap<String, String>,
    /// What the guest reports.
    #[serde(deserialize_with = "nullable")]
    pub guest_metrics: Option<Ref<GuestMetrics>>,
}

impl VmRecord {
    /// Whether this is a VM of somebody: no template, no snapshot, no control domain.
    #[must_use]
    pub fn is_plain_vm(&self) -> bool {
        !(self.is_a_template || self.is_default_template || self.is_a_snapshot || self.is_control_domain)
    }
}

/// What is read of `VM_guest_metrics`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GuestMetricsRecord {
    /// Identity.
    pub uuid: Uuid,
    /// Whether a driver in the guest has connected.
    #[serde(rename = "PV_drivers_detected")]
    pub pv_drivers_detected: bool,
    /// `name`, `major`, …
    pub os_version: BTreeMap<String, String>,
    /// `0/ip` → address.
    pub networks: BTreeMap<String, String>,
}
