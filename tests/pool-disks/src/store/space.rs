//! How much space nodes take, thin or thick, and whether there is enough.

use std::sync::atomic::Ordering;

use super::{Node, NodeKind, Provisioning, SrStore, State, Usage};
use crate::BLOCK;
use crate::error::{Error, Result};

/// A block in a VHD file: its data, and its sector bitmap padded so that data stay aligned.
const BLOCK_COST: u64 = BLOCK + 4096;
/// Logical volumes are made of extents.
const EXTENT: u64 = 4 * 1024 * 1024;

impl SrStore {
    /// The SR's figures.
    pub fn usage(&self) -> Usage {
        let state = self.state();
        Usage {
            virtual_allocation: state
                .nodes
                .values()
                .filter(|node| matches!(node.kind, NodeKind::Live | NodeKind::Snapshot))
                .map(|node| node.size)
                .sum(),
            physical_utilisation: self.used.load(Ordering::Relaxed),
            physical_size: state.params.physical_size,
        }
    }

    /// Whether a change from `before` to `after` bytes fits.
    pub(super) fn ensure_space(&self, state: &State, before: u64, after: u64) -> Result<()> {
        let free = state.params.physical_size.saturating_sub(self.used.load(Ordering::Relaxed));
        let needed = after.saturating_sub(before);
        if needed > free { Err(Error::NoSpace { needed, free }) } else { Ok(()) }
    }

    /// Takes the space of `blocks` blocks more, where disks grow as they are written.
    pub(super) fn reserve_blocks(&self, state: &State, blocks: u64) -> Result<()> {
        if blocks == 0 || state.params.provisioning == Provisioning::Thick {
            return Ok(());
        }
        let (size, needed) = (state.params.physical_size, blocks * BLOCK_COST);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(needed).filter(|used| *used <= size)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(used) => Err(Error::NoSpace { needed, free: size.saturating_sub(used) }),
        }
    }
}

impl State {
    /// Bytes that a node takes.
    pub(super) fn physical(&self, node: &Node) -> u64 {
        if node.file.is_none() {
            return 0;
        }
        self.physical_of(node.kind, node.size, node.content().map.block_count())
    }

    /// Bytes that a node of `blocks` allocated blocks takes. On a thick SR what may be written is held in full, the
    /// rest is deflated to what it uses.
    pub(super) fn physical_of(&self, kind: NodeKind, size: u64, blocks: u64) -> u64 {
        let all = size / BLOCK;
        let head = 2048 + (4 * all).next_multiple_of(512) + 512;
        match (self.params.provisioning, self.params.vhd) {
            (Provisioning::Thin, _) => head + blocks * BLOCK_COST,
            (Provisioning::Thick, false) => size.next_multiple_of(EXTENT),
            (Provisioning::Thick, true) => {
                let held = if kind == NodeKind::Live { all } else { blocks };
                (head + held * BLOCK_COST).next_multiple_of(EXTENT)
            }
        }
    }

    pub(super) fn physical_total(&self) -> u64 {
        self.nodes.values().map(|node| self.physical(node)).sum()
    }
}
