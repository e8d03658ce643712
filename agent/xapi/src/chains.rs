//! The chains of disks on a storage repository, as its records show them: how deep, and what waits to be coalesced.
//! Pure.

use std::collections::HashMap;

use uuid::Uuid;

use crate::records::VdiRecord;

/// Where drivers name a disk's parent.
const PARENT: &str = "vhd-parent";

/// More nodes than this above each other are taken for a loop; storage refuses chains longer than 30.
const MAX_DEPTH: usize = 256;

/// The chains among some disks, usually all of one storage repository.
#[derive(Debug)]
pub struct Chains<'a> {
    disks: HashMap<Uuid, &'a VdiRecord>,
    children: HashMap<Uuid, Vec<Uuid>>,
}

impl<'a> Chains<'a> {
    /// Reads the chains.
    pub fn of(disks: impl IntoIterator<Item = &'a VdiRecord>) -> Self {
        let disks: HashMap<Uuid, &VdiRecord> = disks.into_iter().map(|disk| (disk.uuid, disk)).collect();
        let mut children: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
        for disk in disks.values() {
            if let Some(parent) = parent(disk) {
                children.entry(parent).or_default().push(disk.uuid);
            }
        }
        Self { disks, children }
    }

    /// How many nodes make up a disk, itself included; 0 for one that is not among these.
    #[must_use]
    pub fn depth(&self, disk: Uuid) -> usize {
        self.chain(disk).count()
    }

    /// How many nodes of a disk's chain the garbage collector has still to merge: hidden ones whose only child is
    /// hidden.
    #[must_use]
    pub fn uncoalesced(&self, disk: Uuid) -> usize {
        self.chain(disk).filter(|node| self.waits_for_merge(node)).count()
    }

    /// As [`Chains::uncoalesced`], over all disks.
    #[must_use]
    pub fn all_uncoalesced(&self) -> usize {
        self.disks.values().filter(|node| self.waits_for_merge(node)).count()
    }

    fn waits_for_merge(&self, node: &VdiRecord) -> bool {
        let only_child = match self.children.get(&node.uuid).map(Vec::as_slice) {
            Some([child]) => self.disks.get(child),
            _ => None,
        };
        !node.managed && only_child.is_some_and(|child| !child.managed)
    }

    fn chain(&self, disk: Uuid) -> impl Iterator<Item = &'a VdiRecord> {
        let first = self.disks.get(&disk).copied();
        std::iter::successors(first, |node| self.disks.get(&parent(node)?).copied()).take(MAX_DEPTH)
    }
}

fn parent(disk: &VdiRecord) -> Option<Uuid> {
    disk.sm_config.get(PARENT)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u128, parent: Option<u128>, managed: bool) -> VdiRecord {
        let mut disk = VdiRecord { uuid: Uuid::from_u128(id), managed, ..VdiRecord::default() };
        if let Some(parent) = parent {
            disk.sm_config.insert(PARENT.to_owned(), Uuid::from_u128(parent).to_string());
        }
        disk
    }

    #[test]
    fn a_hidden_node_with_one_hidden_child_waits_to_be_merged() {
        // 1 ← 2 ← 3 ← {4 live, 5 snapshot}
        let disks = [
            node(1, None, false),
            node(2, Some(1), false),
            node(3, Some(2), false),
            node(4, Some(3), true),
            node(5, Some(3), true),
        ];
        let chains = Chains::of(&disks);
        assert_eq!(chains.depth(Uuid::from_u128(4)), 4);
        assert_eq!(chains.uncoalesced(Uuid::from_u128(4)), 2);
        assert_eq!(chains.all_uncoalesced(), 2);
        assert_eq!(chains.depth(Uuid::from_u128(9)), 0);
    }

    #[test]
    fn a_loop_ends() {
        let disks = [node(1, Some(2), false), node(2, Some(1), false)];
        assert_eq!(Chains::of(&disks).depth(Uuid::from_u128(1)), MAX_DEPTH);
    }
}
