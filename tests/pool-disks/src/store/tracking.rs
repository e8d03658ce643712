//! Changed-block tracking: the chain of logs beside the tree of nodes.

use uuid::Uuid;

use super::{NodeKind, Operation, SrStore, State, wrong_kind};
use crate::cbt::{self, CbtLog};
use crate::error::{Error, Result};

impl SrStore {
    /// Starts tracking changed blocks of a live disk. Idempotent.
    ///
    /// # Errors
    /// When the SR's type cannot, or the disk is no live one.
    pub fn enable_cbt(&self, id: Uuid) -> Result<()> {
        self.trip(Operation::EnableCbt, id)?;
        let mut state = self.trackable(id, "enable_cbt")?;
        let node = state.node(id)?;
        {
            let mut content = node.content_mut();
            if content.log.is_some() {
                return Ok(());
            }
            content.log = Some(CbtLog::new(node.size, None));
        }
        self.commit(&mut state)
    }

    /// Stops tracking changed blocks of a live disk and forgets its log. Idempotent.
    ///
    /// # Errors
    /// When the SR's type cannot, or the disk is no live one.
    pub fn disable_cbt(&self, id: Uuid) -> Result<()> {
        self.trip(Operation::DisableCbt, id)?;
        let mut state = self.trackable(id, "disable_cbt")?;
        state.unchain_log(id)?;
        self.commit(&mut state)
    }

    /// What a host crash with the disk open leads to: tracking is off, without a word. Returns whether it was on.
    ///
    /// # Errors
    /// When there is no such disk, or the state cannot be saved.
    pub fn break_cbt(&self, id: Uuid) -> Result<bool> {
        let mut state = self.state_mut();
        let was_on = state.unchain_log(id)?.is_some();
        self.commit(&mut state)?;
        Ok(was_on)
    }

    /// Whether changed blocks are tracked.
    ///
    /// # Errors
    /// When there is no such disk.
    pub fn is_cbt(&self, id: Uuid) -> Result<bool> {
        Ok(self.state().node(id)?.content().log.is_some())
    }

    /// The bitmap (64 KiB per bit, MSB first) of what may have changed after `from`, up to and including `to`; as long
    /// as the size of `to` needs.
    ///
    /// # Errors
    /// When the SR's type cannot; when `from` is not tracked, not before `to`, or tracking was off in between (460);
    /// when the logs contradict each other (459).
    pub fn changed_blocks(&self, from: Uuid, to: Uuid) -> Result<Vec<u8>> {
        self.trip(Operation::ChangedBlocks, to)?;
        let state = self.state();
        if !state.params.cbt {
            return Err(Error::Unsupported { operation: "list_changed_blocks" });
        }
        let unrelated = |why| Error::CbtUnrelated { from, to, why };
        if from == to {
            return Err(unrelated("they are the same disk"));
        }
        if state.node(from)?.content().log.is_none() || state.node(to)?.content().log.is_none() {
            return Err(unrelated("one of them is not tracked"));
        }
        let mut bitmap: Option<Vec<u8>> = None;
        let mut size = u64::MAX;
        let mut at = to;
        for _ in 0..=state.nodes.len() {
            let content = state.node(at)?.content();
            let log = content.log.as_ref().ok_or_else(|| unrelated("tracking was off in between"))?;
            if log.size() > size {
                return Err(Error::CbtInconsistent { disk: at });
            }
            if at == from {
                return Ok(bitmap.unwrap_or_default());
            }
            match &mut bitmap {
                None => bitmap = Some(log.bitmap().to_vec()),
                Some(bitmap) => cbt::merge(bitmap, log.bitmap()),
            }
            size = log.size();
            at = log.parent.ok_or_else(|| unrelated("the first is not an ancestor of the second"))?;
        }
        Err(Error::CbtInconsistent { disk: at })
    }

    /// Destroys a tracked snapshot's data; its changed-block log stays.
    ///
    /// # Errors
    /// When the disk is no snapshot, or is not tracked.
    pub fn data_destroy(&self, id: Uuid) -> Result<()> {
        self.trip(Operation::DataDestroy, id)?;
        let mut state = self.state_mut();
        let node = state.node_mut(id)?;
        if node.kind == NodeKind::CbtMetadata {
            return Ok(());
        }
        if node.kind != NodeKind::Snapshot {
            return Err(wrong_kind(id, "data_destroy", node.kind, "a snapshot"));
        }
        if node.content().log.is_none() {
            return Err(Error::NotTracked { disk: id });
        }
        node.kind = NodeKind::CbtMetadata;
        node.parent = None;
        node.content_mut().map = Default::default();
        let file = node.file.take();
        state.doomed.extend(file.map(|file| file.path));
        self.commit(&mut state)
    }

    fn trackable(&self, id: Uuid, operation: &'static str) -> Result<std::sync::RwLockWriteGuard<'_, State>> {
        let state = self.state_mut();
        if !state.params.cbt {
            return Err(Error::Unsupported { operation });
        }
        state.writable(id, operation)?;
        Ok(state)
    }
}

impl State {
    /// The live disk's log becomes the snapshot's; the live disk begins a new one after it.
    pub(super) fn chain_log(&mut self, live: Uuid, snapshot: Uuid) -> Result<()> {
        let Some(mut log) = self.node(live)?.content_mut().log.take() else { return Ok(()) };
        let size = log.size();
        log.child = Some(live);
        if let Some(parent) = log.parent {
            self.with_log(parent, |parent| parent.child = Some(snapshot));
        }
        self.node(snapshot)?.content_mut().log = Some(log);
        self.node(live)?.content_mut().log = Some(CbtLog::new(size, Some(snapshot)));
        Ok(())
    }

    /// Forgets a disk's log: later comparisons across it fail.
    pub(super) fn unchain_log(&mut self, id: Uuid) -> Result<Option<CbtLog>> {
        let log = self.node(id)?.content_mut().log.take();
        if let Some(log) = &log {
            if let Some(parent) = log.parent {
                self.with_log(parent, |parent| parent.child = None);
            }
            if let Some(child) = log.child {
                self.with_log(child, |child| child.parent = None);
            }
        }
        Ok(log)
    }

    /// Takes a disk's log out of the chain before the disk goes; its changes go to the next log, so that older
    /// comparisons stay valid.
    pub(super) fn drop_log(&mut self, id: Uuid) -> Result<()> {
        let Some(log) = self.unchain_log(id)? else { return Ok(()) };
        if let Some(parent) = log.parent {
            self.with_log(parent, |parent| parent.child = log.child);
        }
        if let Some(child) = log.child {
            self.with_log(child, |child| {
                child.parent = log.parent;
                child.absorb(&log);
            });
        }
        Ok(())
    }

    fn with_log(&self, id: Uuid, change: impl FnOnce(&mut CbtLog)) {
        if let Some(node) = self.nodes.get(&id)
            && let Some(log) = &mut node.content_mut().log
        {
            change(log);
        }
    }
}
