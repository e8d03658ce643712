//! What a pool has, as an agent last saw it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{HostUuid, PoolId, SrUuid, VdiUuid, VmUuid};
use crate::size::ByteSize;

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PowerState {
    /// It runs.
    Running,
    /// It is off.
    Halted,
    /// Its memory is on disk.
    Suspended,
    /// It stands still in memory.
    Paused,
}

impl PowerState {
    /// XAPI's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Halted => "Halted",
            Self::Suspended => "Suspended",
            Self::Paused => "Paused",
        }
    }
}

impl fmt::Display for PowerState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// A text is not a power state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a power state; expected Running, Halted, Suspended or Paused")]
pub struct PowerStateError(String);

impl FromStr for PowerState {
    type Err = PowerStateError;

    fn from_str(text: &str) -> Result<Self, PowerStateError> {
        [Self::Running, Self::Halted, Self::Suspended, Self::Paused]
            .into_iter()
            .find(|state| state.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| PowerStateError(text.chars().take(100).collect()))
    }
}

/// A pool's machines and storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolInventory {
    /// The pool.
    pub pool: PoolId,
    /// Its machines: no templates, snapshots or control domains.
    pub vms: Vec<InventoryVm>,
    /// Its storage repositories.
    pub srs: Vec<InventorySr>,
}

impl PoolInventory {
    /// A machine of the pool.
    #[must_use]
    pub fn vm(&self, uuid: VmUuid) -> Option<&InventoryVm> {
        self.vms.iter().find(|vm| vm.uuid == uuid)
    }

    /// A storage repository of the pool.
    #[must_use]
    pub fn sr(&self, uuid: SrUuid) -> Option<&InventorySr> {
        self.srs.iter().find(|sr| sr.uuid == uuid)
    }
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryVm {
    /// UUID in XAPI.
    pub uuid: VmUuid,
    /// Name for people.
    pub name_label: String,
    /// Whether it runs.
    pub power_state: PowerState,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Its disks, in order of device, those that no backup takes included.
    pub disks: Vec<InventoryDisk>,
    /// The host it runs on.
    pub host: Option<HostUuid>,
}

impl InventoryVm {
    /// The disks that a backup takes.
    pub fn backed_up_disks(&self) -> impl Iterator<Item = &InventoryDisk> {
        self.disks.iter().filter(|disk| !disk.is_excluded())
    }
}

/// A virtual disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryDisk {
    /// UUID of the VDI.
    pub uuid: VdiUuid,
    /// Device in the guest, as `xvda`.
    pub device: String,
    /// Name for people.
    pub name_label: String,
    /// Size that the guest sees.
    pub size: ByteSize,
    /// Where it lies.
    pub sr: SrUuid,
}

impl InventoryDisk {
    /// True when no backup takes it.
    #[must_use]
    pub fn is_excluded(&self) -> bool {
        is_excluded_disk(&self.name_label)
    }
}

/// A storage repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventorySr {
    /// UUID in XAPI.
    pub uuid: SrUuid,
    /// Name for people.
    pub name_label: String,
    /// XAPI's type, as `nfs`.
    pub kind: String,
    /// Seen by several hosts.
    pub shared: bool,
    /// Size.
    pub size: ByteSize,
    /// In use.
    pub used: ByteSize,
}

/// True when a disk of this name is left out of backups: it begins with `[NOBAK]`, with a space after it or not.
#[must_use]
pub fn is_excluded_disk(name_label: &str) -> bool {
    name_label.trim_start().starts_with("[NOBAK]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_marked_nobak_are_left_out_with_a_space_or_not() {
        for name in ["[NOBAK]", "[NOBAK] data-disk", "[NOBAK]data-disk", " [NOBAK] x"] {
            assert!(is_excluded_disk(name), "{name}");
        }
        for name in ["", "data-disk", "data [NOBAK]", "NOBAK data", "[nobak] data"] {
            assert!(!is_excluded_disk(name), "{name}");
        }
    }

    #[test]
    fn power_states_are_read_in_any_case_and_shown_as_xapi_does() {
        assert_eq!("running".parse(), Ok(PowerState::Running));
        assert_eq!(PowerState::Suspended.to_string(), "Suspended");
        assert!("on".parse::<PowerState>().unwrap_err().to_string().contains("expected Running, Halted"));
    }
}
