//! Which machines a job backs up: named ones, and those of pools that let a filter pass ("smart").

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::PoolId;
use crate::inventory::{InventoryVm, PoolInventory, PowerState};
use crate::names::VmName;

/// What an operator selects. Resolved anew when a run starts: see [`resolve`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// Exactly these, whatever the filters say.
    pub vms: BTreeSet<VmName>,
    /// Every machine of these pools that the filters let pass.
    pub pools: BTreeSet<PoolId>,
    /// Only machines with at least one of these tags; empty: any.
    pub tags: BTreeSet<String>,
    /// Never machines with one of these tags.
    pub exclude_tags: BTreeSet<String>,
    /// Only machines in this state; `None`: any.
    pub power_state: Option<PowerState>,
}

impl Selection {
    /// True when nothing can ever be selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vms.is_empty() && self.pools.is_empty()
    }

    /// True when machines of pools are filtered.
    #[must_use]
    pub fn has_filters(&self) -> bool {
        !self.tags.is_empty() || !self.exclude_tags.is_empty() || self.power_state.is_some()
    }

    /// True when the filters let a machine pass.
    #[must_use]
    pub fn lets_pass(&self, vm: &InventoryVm) -> bool {
        (self.tags.is_empty() || !self.tags.is_disjoint(&vm.tags))
            && self.exclude_tags.is_disjoint(&vm.tags)
            && self.power_state.is_none_or(|state| state == vm.power_state)
    }
}

/// Why a machine that was named is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Absence {
    /// Its pool has no machine of that UUID.
    Gone,
    /// No agent has reported its pool yet.
    PoolUnknown,
    /// The job does not select it (of machines that were asked for when the run was started).
    NotSelected,
}

impl fmt::Display for Absence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Gone => "the virtual machine is not in its pool any more",
            Self::PoolUnknown => "no agent has reported its pool yet",
            Self::NotSelected => "the job does not select this virtual machine",
        })
    }
}

/// What a selection comes to at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolution {
    /// The machines, each once: by label, then by name, so that every controller plans the same order.
    pub vms: Vec<(VmName, InventoryVm)>,
    /// Machines that were named but cannot be backed up; each becomes a failed task that says so.
    pub missing: BTreeMap<VmName, Absence>,
    /// Pools that were named but not reported yet: what they have is not known.
    pub unknown_pools: BTreeSet<PoolId>,
}

/// Finds the machines of a selection in what agents last saw.
#[must_use]
pub fn resolve(selection: &Selection, inventories: &[PoolInventory]) -> Resolution {
    let known: BTreeMap<&PoolId, &PoolInventory> =
        inventories.iter().map(|inventory| (&inventory.pool, inventory)).collect();
    let mut found: BTreeMap<VmName, &InventoryVm> = BTreeMap::new();
    let mut resolution = Resolution::default();
    for pool in &selection.pools {
        let Some(inventory) = known.get(pool) else {
            resolution.unknown_pools.insert(pool.clone());
            continue;
        };
        for vm in inventory.vms.iter().filter(|vm| selection.lets_pass(vm)) {
            found.insert(VmName { pool: pool.clone(), vm: vm.uuid }, vm);
        }
    }
    for name in &selection.vms {
        let absence = match known.get(&name.pool) {
            None => Absence::PoolUnknown,
            Some(inventory) => match inventory.vm(name.vm) {
                None => Absence::Gone,
                Some(vm) => {
                    found.insert(name.clone(), vm);
                    continue;
                }
            },
        };
        resolution.missing.insert(name.clone(), absence);
    }
    resolution.vms = found.into_iter().map(|(name, vm)| (name, vm.clone())).collect();
    resolution.vms.sort_by(|(a_name, a), (b_name, b)| (&a.name_label, a_name).cmp(&(&b.name_label, b_name)));
    resolution
}

impl Resolution {
    /// Narrows down to the machines that were asked for when a run was started; an empty `wanted` means all. What was
    /// asked for and is not selected is missing.
    #[must_use]
    pub fn only(mut self, wanted: &BTreeSet<VmName>) -> Self {
        if wanted.is_empty() {
            return self;
        }
        self.vms.retain(|(name, _)| wanted.contains(name));
        self.missing.retain(|name, _| wanted.contains(name));
        let found: BTreeSet<VmName> = self.vms.iter().map(|(name, _)| name.clone()).collect();
        for name in wanted.difference(&found) {
            let unknown = self.unknown_pools.contains(&name.pool);
            let absence = if unknown { Absence::PoolUnknown } else { Absence::NotSelected };
            self.missing.entry(name.clone()).or_insert(absence);
        }
        self.unknown_pools.clear();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn vm(number: u128, label: &str, state: PowerState, tags: &[&str]) -> InventoryVm {
        InventoryVm {
            uuid: crate::ids::VmUuid::new(Uuid::from_u128(number)),
            name_label: label.to_owned(),
            power_state: state,
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            disks: Vec::new(),
            host: None,
        }
    }

    fn pool(id: &str, vms: Vec<InventoryVm>) -> PoolInventory {
        PoolInventory { pool: id.parse().unwrap(), vms, srs: Vec::new() }
    }

    fn name(pool: &str, number: u128) -> VmName {
        VmName { pool: pool.parse().unwrap(), vm: crate::ids::VmUuid::new(Uuid::from_u128(number)) }
    }

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn lab() -> Vec<PoolInventory> {
        let lab = vec![
            vm(1, "web", PowerState::Running, &["prod"]),
            vm(2, "db", PowerState::Running, &["prod", "no-backup"]),
            vm(3, "old", PowerState::Halted, &["prod", "legacy"]),
            vm(4, "toy", PowerState::Running, &[]),
        ];
        vec![pool("lab", lab), pool("other", vec![vm(5, "else", PowerState::Running, &["prod"])])]
    }

    fn labels(selection: &Selection) -> Vec<String> {
        resolve(selection, &lab()).vms.into_iter().map(|(_, vm)| vm.name_label).collect()
    }

    #[test]
    fn smart_selection_takes_what_the_pool_has_now_and_the_filters_let_pass() {
        let all = Selection { pools: ["lab".parse().unwrap()].into(), ..Selection::default() };
        assert_eq!(labels(&all), ["db", "old", "toy", "web"]);
        let running = Selection { power_state: Some(PowerState::Running), ..all.clone() };
        assert_eq!(labels(&running), ["db", "toy", "web"]);
        let prod = Selection { tags: set(&["prod", "unused"]), ..all.clone() };
        assert_eq!(labels(&prod), ["db", "old", "web"]);
        let careful = Selection { exclude_tags: set(&["no-backup"]), ..prod };
        assert_eq!(labels(&careful), ["old", "web"]);
        let narrow = Selection { power_state: Some(PowerState::Halted), ..careful };
        assert_eq!(labels(&narrow), ["old"]);
        assert_eq!(labels(&Selection { tags: set(&["Prod"]), ..all }), Vec::<String>::new());
    }

    #[test]
    fn named_machines_are_taken_whatever_the_filters_say_and_once() {
        let selection = Selection {
            vms: [name("lab", 4), name("lab", 1), name("other", 5)].into(),
            pools: ["lab".parse().unwrap()].into(),
            tags: set(&["prod"]),
            exclude_tags: set(&["no-backup"]),
            power_state: Some(PowerState::Running),
        };
        assert_eq!(labels(&selection), ["else", "toy", "web"]);
    }

    #[test]
    fn named_machines_that_are_gone_and_pools_not_yet_seen_are_reported() {
        let selection = Selection {
            vms: [name("lab", 9), name("new", 1), name("lab", 1)].into(),
            pools: ["newer".parse().unwrap()].into(),
            ..Selection::default()
        };
        let resolution = resolve(&selection, &lab());
        assert_eq!(resolution.vms.len(), 1);
        assert_eq!(resolution.missing[&name("lab", 9)], Absence::Gone);
        assert_eq!(resolution.missing[&name("new", 1)], Absence::PoolUnknown);
        assert_eq!(resolution.unknown_pools, ["newer".parse().unwrap()].into());
    }

    #[test]
    fn a_run_of_some_machines_reports_those_the_job_does_not_select() {
        let selection = Selection { pools: ["lab".parse().unwrap()].into(), ..Selection::default() };
        let some = resolve(&selection, &lab()).only(&[name("lab", 1), name("other", 5)].into());
        assert_eq!(some.vms.len(), 1);
        assert_eq!(some.missing, [(name("other", 5), Absence::NotSelected)].into());
        assert_eq!(resolve(&selection, &lab()).only(&BTreeSet::new()).vms.len(), 4);
    }
}
