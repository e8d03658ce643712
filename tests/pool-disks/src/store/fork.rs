//! Snapshots and clones: where the tree branches.

use std::sync::RwLock;

use uuid::Uuid;

use super::{Content, Forked, Node, NodeKind, Operation, SrStore, wrong_kind};
use crate::error::{Error, Result};

impl SrStore {
    /// Snapshots `source`: `snapshot` becomes a read-only leaf beside it. The source's data so far become the hidden
    /// node `base`, the parent of both, unless the source wrote nothing since its last branching: then both share its
    /// present parent and `base` is not used. Changed-block tracking of a live source goes on, and chains the snapshot.
    ///
    /// # Errors
    /// When the chain is at its limit (code 109), a thick SR has no room to inflate the source again (code 44), or the
    /// SR keeps no VHD nodes.
    pub fn snapshot(&self, source: Uuid, snapshot: Uuid, base: Uuid) -> Result<Forked> {
        self.trip(Operation::Snapshot, source)?;
        self.fork(source, snapshot, base, NodeKind::Snapshot)
    }

    /// Clones `source` (live or a snapshot): as [`SrStore::snapshot`], but `copy` is writable and not tracked.
    ///
    /// # Errors
    /// As [`SrStore::snapshot`].
    pub fn clone_disk(&self, source: Uuid, copy: Uuid, base: Uuid) -> Result<Forked> {
        self.trip(Operation::Clone, source)?;
        self.fork(source, copy, base, NodeKind::Live)
    }

    fn fork(&self, source: Uuid, copy: Uuid, base: Uuid, kind: NodeKind) -> Result<Forked> {
        let mut state = self.state_mut();
        if !state.params.vhd {
            return Err(Error::Unsupported { operation: "snapshot" });
        }
        let node = state.readable(source)?;
        if node.kind == NodeKind::Base {
            return Err(wrong_kind(source, "snapshot", node.kind, "a disk that is not hidden"));
        }
        state.free_id(copy)?;
        let depth = state.chain(source).count();
        if depth >= state.params.max_chain {
            return Err(Error::ChainTooLong { disk: source, depth });
        }

        let (size, source_kind, blocks) = (node.size, node.kind, node.content().map.block_count());
        let new_base = blocks > 0 || node.parent.is_none();
        let mut after = state.physical_of(kind, size, 0) + state.physical_of(source_kind, size, 0);
        if new_base {
            state.free_id(base)?;
            after += state.physical_of(NodeKind::Base, size, blocks);
        }
        self.ensure_space(&state, state.physical(node), after)?;

        let copy_file = state.new_file(&self.folder)?;
        if new_base {
            let fresh = state.new_file(&self.folder)?;
            let node = state.node_mut(source)?;
            let mut content = node.content_mut();
            let map = std::mem::take(&mut content.map);
            drop(content);
            let hidden = Node {
                parent: node.parent.replace(base),
                kind: NodeKind::Base,
                size,
                file: node.file.replace(fresh),
                content: RwLock::new(Content { map, log: None }),
            };
            state.nodes.insert(base, hidden);
        }
        let parent = state.node(source)?.parent;
        state.nodes.insert(copy, Node::leaf(kind, size, parent, copy_file));
        if kind == NodeKind::Snapshot && source_kind == NodeKind::Live {
            state.chain_log(source, copy)?;
        }
        self.commit(&mut state)?;
        Ok(Forked { new_base, parent })
    }
}
