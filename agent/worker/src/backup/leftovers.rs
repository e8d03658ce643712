//! Which snapshots of ours are still needed, and what becomes of the others. Pure, and the same rule after a backup,
//! before the next one, and for whoever takes over after a crash.

use std::collections::{BTreeMap, BTreeSet};

use coffer_model::RemoteId;
use coffer_xapi::Ref;
use coffer_xapi::records::{Vdi, Vm};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::hypervisor::Snapshots;
use crate::stamps::{Stamp, intent_of_name};

/// What is kept of the snapshot of a disk for the next delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Keep {
    /// Which blocks have changed since; its data goes.
    Bitmap,
    /// Everything.
    Data,
}

/// What is known of the need for references.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// Snapshots that the newest restore points need.
    pub(crate) wanted: BTreeMap<Uuid, Keep>,
    /// Remotes whose newest restore point of the VM was looked at. A reference for another one is left alone.
    pub(crate) known_remotes: BTreeSet<RemoteId>,
    /// Only what was made under this intent is looked at, and none of it is needed.
    pub(crate) only_intent: Option<String>,
}

impl Needs {
    /// Nothing of what was made under an intent.
    pub(crate) fn nothing_of(intent: &str) -> Self {
        Self { only_intent: Some(intent.to_owned()), ..Self::default() }
    }

    fn concerns(&self, intent: &str) -> bool {
        self.only_intent.as_deref().is_none_or(|only| only == intent)
    }

    fn leaves_alone(&self, stamp: &Stamp) -> bool {
        self.only_intent.is_none() && stamp.remotes.iter().any(|remote| !self.known_remotes.contains(remote))
    }
}

/// What to do, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tidying {
    /// Snapshots of the VM to destroy.
    pub(crate) destroy_vms: Vec<Ref<Vm>>,
    /// Snapshots of disks to destroy.
    pub(crate) destroy_disks: Vec<Ref<Vdi>>,
    /// Snapshots of disks of which only the bitmap stays.
    pub(crate) drop_data: Vec<Ref<Vdi>>,
}

#[cfg(test)]
impl Tidying {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Decides about the snapshots of one VM that this site made; `vm_ref` is the VM itself, where it still exists.
pub(crate) fn tidy(snapshots: &Snapshots, site: &str, vm: Uuid, vm_ref: Option<&Ref<Vm>>, needs: &Needs) -> Tidying {
    let mut tidying = Tidying::default();
    for (reference, record) in &snapshots.vms {
        let intent = match Stamp::of(&record.other_config, record.uuid).filter(|stamp| stamp.site == site) {
            Some(stamp) if stamp.vm == Some(vm) => stamp.intent,
            Some(_) => continue,
            // Not stamped yet: ours when it bears our name and was taken of this very VM.
            None => match intent_of_name(site, &record.name_label) {
                Some(intent) if record.snapshot_of.is_some() && record.snapshot_of.as_ref() == vm_ref => {
                    intent.to_owned()
                }
                _ => continue,
            },
        };
        if record.is_a_snapshot && needs.concerns(&intent) {
            tidying.destroy_vms.push(reference.clone());
        }
    }
    for (reference, record) in &snapshots.vdis {
        let Some(stamp) = Stamp::of(&record.other_config, record.uuid) else { continue };
        if stamp.site != site || stamp.vm != Some(vm) || !record.is_a_snapshot {
            continue;
        }
        if !needs.concerns(&stamp.intent) {
            continue;
        }
        match needs.wanted.get(&record.uuid) {
            Some(Keep::Bitmap) if record.kind != BITMAP_ONLY => tidying.drop_data.push(reference.clone()),
            Some(_) => {}
            None if needs.leaves_alone(&stamp) => {}
            None => tidying.destroy_disks.push(reference.clone()),
        }
    }
    tidying
}

/// The type of a snapshot whose data was deleted.
pub(crate) const BITMAP_ONLY: &str = "cbt_metadata";

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_xapi::records::{VdiRecord, VmRecord};
    use proptest::prelude::*;

    const SITE: &str = "here";
    const VM: Uuid = Uuid::from_u128(1);

    fn stamp(site: &str, vm: Uuid, intent: &str, remotes: &[&str]) -> Stamp {
        Stamp {
            site: site.into(),
            intent: intent.into(),
            task: "t".into(),
            vm: Some(vm),
            remotes: remotes.iter().map(|name| name.parse().unwrap()).collect(),
            complete: false,
        }
    }

    fn disk(id: u128, stamp: Option<Stamp>, kind: &str) -> (Ref<Vdi>, VdiRecord) {
        let uuid = Uuid::from_u128(id);
        let record = VdiRecord {
            uuid,
            kind: kind.into(),
            is_a_snapshot: true,
            other_config: stamp.map(|stamp| stamp.marks(Some(uuid))).unwrap_or_default(),
            ..VdiRecord::default()
        };
        (Ref::new(&format!("OpaqueRef:{id}")).unwrap(), record)
    }

    fn vdi(id: u128) -> Ref<Vdi> {
        Ref::new(&format!("OpaqueRef:{id}")).unwrap()
    }

    fn needs(wanted: &[(u128, Keep)], remotes: &[&str]) -> Needs {
        Needs {
            wanted: wanted.iter().map(|&(id, keep)| (Uuid::from_u128(id), keep)).collect(),
            known_remotes: remotes.iter().map(|name| name.parse().unwrap()).collect(),
            only_intent: None,
        }
    }

    #[test]
    fn a_superseded_reference_goes_and_the_new_one_loses_its_data() {
        let snapshots = Snapshots {
            vms: vec![],
            vdis: vec![
                disk(10, Some(stamp(SITE, VM, "old", &["nas"])), BITMAP_ONLY),
                disk(11, Some(stamp(SITE, VM, "new", &["nas"])), "user"),
            ],
        };
        let tidying = tidy(&snapshots, SITE, VM, None, &needs(&[(11, Keep::Bitmap)], &["nas"]));
        assert_eq!((tidying.destroy_disks, tidying.drop_data), (vec![vdi(10)], vec![vdi(11)]));
    }

    #[test]
    fn a_reference_for_a_remote_that_was_not_looked_at_stays() {
        let snapshots = Snapshots {
            vms: vec![],
            vdis: vec![disk(10, Some(stamp(SITE, VM, "other-job", &["cloud"])), BITMAP_ONLY)],
        };
        assert!(tidy(&snapshots, SITE, VM, None, &needs(&[], &["nas"])).is_empty());
        assert!(!tidy(&snapshots, SITE, VM, None, &needs(&[], &["cloud"])).is_empty());
    }

    #[test]
    fn undoing_one_intent_leaves_every_other_one_alone() {
        let snapshots = Snapshots {
            vms: vec![],
            vdis: vec![
                disk(10, Some(stamp(SITE, VM, "failed", &["nas", "cloud"])), "user"),
                disk(11, Some(stamp(SITE, VM, "other", &["nas"])), "user"),
            ],
        };
        let tidying = tidy(&snapshots, SITE, VM, None, &Needs::nothing_of("failed"));
        assert_eq!(tidying.destroy_disks, [vdi(10)]);
    }

    #[test]
    fn an_unstamped_snapshot_is_ours_only_by_name_and_origin() {
        let vm_ref = Ref::<Vm>::new("OpaqueRef:vm").unwrap();
        let snapshot = |id: u128, name: String, of: Option<&Ref<Vm>>| {
            let record = VmRecord {
                uuid: Uuid::from_u128(id),
                name_label: name,
                is_a_snapshot: true,
                snapshot_of: of.cloned(),
                ..VmRecord::default()
            };
            (Ref::<Vm>::new(&format!("OpaqueRef:{id}")).unwrap(), record)
        };
        let ours = crate::stamps::snapshot_name(SITE, &Uuid::from_u128(99).to_string());
        let other = Ref::<Vm>::new("OpaqueRef:other").unwrap();
        let snapshots = Snapshots {
            vms: vec![
                snapshot(1, ours.clone(), Some(&vm_ref)),
                snapshot(2, ours.clone(), Some(&other)),
                snapshot(3, "before the update".into(), Some(&vm_ref)),
                snapshot(4, ours, None),
            ],
            vdis: vec![],
        };
        let tidying = tidy(&snapshots, SITE, VM, Some(&vm_ref), &Needs::default());
        assert_eq!(tidying.destroy_vms, [Ref::new("OpaqueRef:1").unwrap()]);
    }

    proptest! {
        #[test]
        fn what_is_not_stamped_by_this_site_for_this_vm_is_never_touched(
            disks in prop::collection::vec((0u8..3, any::<bool>(), any::<bool>(), any::<bool>()), 0..12),
        ) {
            let snapshots = Snapshots {
                vms: vec![],
                vdis: disks
                    .iter()
                    .enumerate()
                    .map(|(index, &(site, this_vm, stamped, bitmap))| {
                        let site = ["here", "there", ""][usize::from(site)];
                        let vm = if this_vm { VM } else { Uuid::from_u128(2) };
                        let stamp = stamped.then(|| stamp(site, vm, "i", &["nas"]));
                        disk(100 + index as u128, stamp, if bitmap { BITMAP_ONLY } else { "user" })
                    })
                    .collect(),
            };
            let tidying = tidy(&snapshots, SITE, VM, None, &needs(&[], &["nas"]));
            let touched: BTreeSet<_> = tidying.destroy_disks.iter().chain(&tidying.drop_data).collect();
            for (index, &(site, this_vm, stamped, _)) in disks.iter().enumerate() {
                let ours = site == 0 && this_vm && stamped;
                prop_assert_eq!(touched.contains(&vdi(100 + index as u128)), ours);
            }
        }
    }
}
