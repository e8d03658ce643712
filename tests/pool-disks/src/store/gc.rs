//! Garbage collection: deletes what nothing needs and shortens chains, one bounded step at a time.
//!
//! No step changes what any disk reads. While a hidden node is merged into its parent, the parent's data are only
//! visible through that node, which still hides whatever is being copied; a kill in between loses nothing.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::PoisonError;

use uuid::Uuid;

use super::{GcEvent, GcOptions, Node, NodeKind, Operation, Provisioning, SrStore, State};
use crate::disk::usize_of;
use crate::error::{Error, Result};
use crate::{BLOCK, SECTOR};

/// Sectors that one step merges.
const STEP: u64 = 64 * 1024 * 1024 / SECTOR;

/// A hidden node that is being merged into its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    node: Uuid,
    into: Uuid,
    /// The first sector not merged yet.
    next: u64,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Delete(Uuid),
    Coalesce { node: Uuid, into: Uuid },
    LeafCoalesce { leaf: Uuid, parent: Uuid },
}

impl SrStore {
    /// Does one bounded step of garbage collection; `None` when there is nothing to do. In this order: hidden nodes
    /// without children are deleted; a hidden node that is the only child of its parent is merged into it; a leaf that
    /// is the only child of its parent becomes one with it.
    ///
    /// # Errors
    /// When all work left needs more space than a thick SR has (code 44), or files fail.
    pub fn garbage_collect_step(&self, options: &GcOptions) -> Result<Option<GcEvent>> {
        let mut merge = self.merge.lock().unwrap_or_else(PoisonError::into_inner);
        let work = self.state().next_work(options, |before, after, state| self.ensure_space(state, before, after))?;
        let Some(work) = work else { return Ok(None) };
        let subject = match work {
            Work::Delete(node) | Work::Coalesce { node, .. } => node,
            Work::LeafCoalesce { leaf, .. } => leaf,
        };
        self.trip(Operation::GarbageCollect, subject)?;
        if let Work::Coalesce { node, into } = work {
            let begun = merge.take().filter(|merge| merge.node == node && merge.into == into);
            let step = begun.unwrap_or(Merge { node, into, next: 0 });
            if let Some(rest) = self.state().merge_part(step)? {
                *merge = Some(rest);
                return Ok(Some(GcEvent::Merging { node, into }));
            }
        }
        let mut state = self.state_mut();
        // The tree may have changed since the work was chosen; then the next step looks again.
        if state.next_work(options, |_, _, _| Ok(())).ok().flatten() != Some(work) {
            return Ok(Some(GcEvent::Deferred { node: subject }));
        }
        let event = match work {
            Work::Delete(node) => {
                state.remove(node);
                GcEvent::Deleted { node }
            }
            Work::Coalesce { node, into } => {
                let size = state.node(node)?.size;
                for child in state.children(node) {
                    state.node_mut(child)?.parent = Some(into);
                }
                state.node_mut(into)?.size = size;
                state.remove(node);
                GcEvent::Coalesced { node, into }
            }
            Work::LeafCoalesce { leaf, parent } => {
                state.leaf_coalesce(leaf, parent)?;
                GcEvent::LeafCoalesced { leaf, parent }
            }
        };
        self.commit(&mut state)?;
        Ok(Some(event))
    }
}

impl State {
    fn next_work(&self, options: &GcOptions, ensure: impl Fn(u64, u64, &Self) -> Result<()>) -> Result<Option<Work>> {
        let busy: BTreeSet<Uuid> = options.busy.iter().flat_map(|disk| self.chain(*disk).map(|(id, _)| id)).collect();
        let parents: BTreeSet<Uuid> = self.nodes.values().filter_map(|node| node.parent).collect();
        let orphan = |(id, node): &(&Uuid, &Node)| node.kind == NodeKind::Base && !parents.contains(id);
        if let Some((id, _)) = self.nodes.iter().find(orphan) {
            return Ok(Some(Work::Delete(*id)));
        }
        let mut no_space = None;
        for leaves in [false, true] {
            if !(if leaves { options.leaf_coalesce } else { options.coalesce }) {
                continue;
            }
            for (id, node) in &self.nodes {
                let Some(parent_id) = node.parent else { continue };
                let only = self.nodes.values().filter(|other| other.parent == Some(parent_id)).count() == 1;
                let is_leaf = node.kind != NodeKind::Base;
                if is_leaf != leaves || !only || busy.contains(id) || busy.contains(&parent_id) {
                    continue;
                }
                let parent = self.node(parent_id)?;
                let (before, after) = self.merge_cost(node, parent);
                match ensure(before, after, self) {
                    Ok(()) if leaves => return Ok(Some(Work::LeafCoalesce { leaf: *id, parent: parent_id })),
                    Ok(()) => return Ok(Some(Work::Coalesce { node: *id, into: parent_id })),
                    Err(error) => no_space = Some(error),
                }
            }
        }
        no_space.map_or(Ok(None), Err)
    }

    /// The parent's space before and while it takes a node's data. Thin SRs give the node's space back in the end and
    /// let this pass; thick ones must inflate the parent first.
    fn merge_cost(&self, node: &Node, parent: &Node) -> (u64, u64) {
        if self.params.provisioning == Provisioning::Thin {
            return (0, 0);
        }
        let before = self.physical(parent);
        if node.kind == NodeKind::Live {
            return (before, self.physical_of(NodeKind::Live, node.size, 0));
        }
        let (content, into) = (node.content(), parent.content());
        let more = content.map.blocks().filter(|block| !into.map.has_block(*block)).count() as u64;
        (before, self.physical_of(NodeKind::Base, node.size, into.map.block_count() + more))
    }

    /// Copies the next part of a node onto its parent; `None` when all is copied.
    fn merge_part(&self, merge: Merge) -> Result<Option<Merge>> {
        let (node, into) = (self.node(merge.node)?, self.node(merge.into)?);
        let content = node.content();
        let mut budget = STEP;
        for run in content.map.present().filter(|run| run.end > merge.next) {
            if budget == 0 {
                return Ok(Some(Merge { next: run.start.max(merge.next), ..merge }));
            }
            let start = run.start.max(merge.next);
            let end = run.end.min(start + budget);
            copy(node, into, start..end)?;
            into.content_mut().map.mark(start..end);
            budget -= end - start;
            if end < run.end {
                return Ok(Some(Merge { next: end, ..merge }));
            }
        }
        Ok(None)
    }

    /// Makes a leaf and its hidden parent one node under the leaf's id, moving the smaller of the two.
    fn leaf_coalesce(&mut self, leaf_id: Uuid, parent_id: Uuid) -> Result<()> {
        let (leaf, parent) = (self.node(leaf_id)?, self.node(parent_id)?);
        let grandparent = parent.parent;
        let into_parent = leaf.content().map.block_count() <= parent.content().map.block_count();
        if into_parent {
            let mut merged = parent.content().map.clone();
            for run in leaf.content().map.present() {
                copy(leaf, parent, run.clone())?;
                merged.mark(run);
            }
            leaf.content_mut().map = merged;
            let file = self.node_mut(parent_id)?.file.take();
            let old = std::mem::replace(&mut self.node_mut(leaf_id)?.file, file);
            self.doomed.extend(old.map(|file| file.path));
        } else {
            let mut merged = leaf.content().map.clone();
            for run in parent.content().map.present() {
                for (part, present) in leaf.content().map.runs(run) {
                    if !present {
                        copy(parent, leaf, part.clone())?;
                        merged.mark(part);
                    }
                }
            }
            leaf.content_mut().map = merged;
        }
        self.remove(parent_id);
        self.node_mut(leaf_id)?.parent = grandparent;
        Ok(())
    }
}

/// Copies sectors from one node's file to another's.
fn copy(from: &Node, to: &Node, sectors: Range<u64>) -> Result<(), Error> {
    let mut buffer = vec![0; usize_of(BLOCK.min((sectors.end - sectors.start) * SECTOR))];
    let mut at = sectors.start * SECTOR;
    let end = sectors.end * SECTOR;
    while at < end {
        let len = usize_of((end - at).min(buffer.len() as u64));
        let piece = &mut buffer[..len];
        from.read(at, piece)?;
        to.write(at, piece)?;
        at += len as u64;
    }
    Ok(())
}
