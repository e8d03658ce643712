//! The storage of one SR: a tree of copy-on-write nodes, as VHD files form it.
//!
//! Owns the nodes, their files and the saved state. Never knows names, VMs or references of XAPI.
//!
//! Locks, always taken in this order: the tree (`state`; structural calls take it exclusively, reads and writes share
//! it), then a node's content from the leaf towards the root, then the journal.

mod data;
mod fork;
mod gc;
mod saved;
mod space;
mod tracking;
mod types;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use uuid::Uuid;

pub(crate) use self::data::is_zero;
use self::gc::Merge;
use self::saved::Journal;
pub use self::types::{
    Fault, Forked, GcEvent, GcOptions, NodeInfo, NodeKind, Operation, Provisioning, SrParams, Usage,
};
use crate::cbt::CbtLog;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::map::BlockMap;
use crate::{BLOCK, SECTOR};

/// The largest disk that a VHD can hold.
const MAX_SIZE: u64 = 2040 << 30;

/// The storage of one SR: a tree of copy-on-write nodes in one folder. Every call may block on the file system.
#[derive(Debug)]
pub struct SrStore {
    folder: PathBuf,
    state: RwLock<State>,
    /// Space taken, so that writes need not add up the whole tree; recomputed by every structural call.
    used: AtomicU64,
    faults: Mutex<Vec<Fault>>,
    merge: Mutex<Option<Merge>>,
}

/// The tree.
#[derive(Debug)]
struct State {
    params: SrParams,
    nodes: BTreeMap<Uuid, Node>,
    next_file: u64,
    journal: Journal,
    /// Files whose nodes are gone; deleted once that is saved.
    doomed: Vec<PathBuf>,
}

#[derive(Debug)]
struct Node {
    parent: Option<Uuid>,
    kind: NodeKind,
    size: u64,
    /// Absent once the data were destroyed.
    file: Option<DataFile>,
    content: RwLock<Content>,
}

/// A sparse file; a byte of the disk stands at its own offset.
#[derive(Debug)]
struct DataFile {
    number: u64,
    path: PathBuf,
    file: File,
}

/// What guest writes change.
#[derive(Debug, Default)]
struct Content {
    map: BlockMap,
    log: Option<CbtLog>,
}

impl SrStore {
    /// Creates an empty SR in a folder, which is made.
    ///
    /// # Errors
    /// When the folder cannot be written or holds an SR already.
    pub fn create(folder: &Path, params: SrParams) -> Result<Arc<Self>> {
        let state = State::create(folder, params)?;
        Ok(Arc::new(Self::new(folder, state)))
    }

    /// Opens the SR that an earlier program left in a folder, however it ended.
    ///
    /// # Errors
    /// When there is none, or its saved state is damaged.
    pub fn open(folder: &Path) -> Result<Arc<Self>> {
        let store = Self::new(folder, State::load(folder)?);
        store.commit(&mut store.state_mut())?;
        Ok(Arc::new(store))
    }

    fn new(folder: &Path, state: State) -> Self {
        Self {
            folder: folder.to_owned(),
            used: AtomicU64::new(state.physical_total()),
            state: RwLock::new(state),
            faults: Mutex::new(Vec::new()),
            merge: Mutex::new(None),
        }
    }

    /// What the SR is.
    pub fn params(&self) -> SrParams {
        self.state().params.clone()
    }

    /// Changes the SR's size in bytes, for instance to make it full.
    ///
    /// # Errors
    /// When the state cannot be saved.
    pub fn set_physical_size(&self, bytes: u64) -> Result<()> {
        let mut state = self.state_mut();
        state.params.physical_size = bytes;
        self.commit(&mut state)
    }

    /// Creates a disk of zeros; returns its size, rounded up to 2 MiB.
    ///
    /// # Errors
    /// When the id is taken, the size impossible (code 79), or a thick SR too full (code 44).
    pub fn create_disk(&self, id: Uuid, size: u64) -> Result<u64> {
        self.trip(Operation::Create, id)?;
        let mut state = self.state_mut();
        state.free_id(id)?;
        let size = rounded(id, size)?;
        self.ensure_space(&state, 0, state.physical_of(NodeKind::Live, size, 0))?;
        let file = state.new_file(&self.folder)?;
        state.nodes.insert(id, Node::leaf(NodeKind::Live, size, None, file));
        self.commit(&mut state)?;
        Ok(size)
    }

    /// A handle for the streams.
    ///
    /// # Errors
    /// When there is no such disk.
    pub fn disk(self: &Arc<Self>, id: Uuid) -> Result<Disk> {
        self.state().node(id)?;
        Ok(Disk::new(Arc::clone(self), id))
    }

    /// Grows a live disk; returns its size, rounded up to 2 MiB. What is new reads as zeros and counts as changed.
    ///
    /// # Errors
    /// When the disk would shrink (code 79), is read-only, or a thick SR is too full (code 44).
    pub fn resize(&self, id: Uuid, size: u64) -> Result<u64> {
        self.trip(Operation::Resize, id)?;
        let mut state = self.state_mut();
        let size = rounded(id, size)?;
        let node = state.writable(id, "resize")?;
        if size < node.size {
            return Err(Error::BadSize { disk: id, size, why: "a disk cannot shrink" });
        }
        let blocks = node.content().map.block_count();
        let (before, after) =
            (state.physical_of(node.kind, node.size, blocks), state.physical_of(node.kind, size, blocks));
        self.ensure_space(&state, before, after)?;
        let node = state.node_mut(id)?;
        node.size = size;
        if let Some(log) = &mut node.content_mut().log {
            log.grow(size);
        }
        self.commit(&mut state)?;
        Ok(size)
    }

    /// Cuts a live disk to a smaller size, rounded up to 2 MiB; returns it. No toolstack does that; administrators do.
    /// What lay behind the new end is lost, and reads as zeros when the disk grows again.
    ///
    /// # Errors
    /// When the disk would grow, shares blocks with another node, or is read-only.
    pub fn shrink(&self, id: Uuid, size: u64) -> Result<u64> {
        let mut state = self.state_mut();
        let size = rounded(id, size)?;
        let node = state.writable(id, "shrink")?;
        let refused = |why| Err(Error::BadSize { disk: id, size, why });
        if size > node.size {
            return refused("it is larger than the disk");
        }
        if node.parent.is_some() {
            return refused("the disk shares blocks with its parent: collect the garbage first");
        }
        let node = state.node_mut(id)?;
        node.size = size;
        {
            let mut content = node.content_mut();
            content.map.cut(size / SECTOR);
            if let Some(log) = &mut content.log {
                log.cut(size);
            }
        }
        self.commit(&mut state)?;
        Ok(size)
    }

    /// Removes a disk (not a hidden node). Its hidden ancestors are left to garbage collection; its changed-block log,
    /// if any, goes into the next one of its chain.
    ///
    /// # Errors
    /// When there is no such disk, or it is a hidden node.
    pub fn destroy(&self, id: Uuid) -> Result<()> {
        self.trip(Operation::Destroy, id)?;
        let mut state = self.state_mut();
        if state.node(id)?.kind == NodeKind::Base {
            return Err(wrong_kind(id, "destroy", NodeKind::Base, "a disk that is not hidden"));
        }
        state.drop_log(id)?;
        state.remove(id);
        self.commit(&mut state)
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<NodeInfo> {
        let state = self.state();
        state.nodes.iter().map(|(id, node)| state.info(*id, node)).collect()
    }

    /// One node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&self, id: Uuid) -> Result<NodeInfo> {
        let state = self.state();
        Ok(state.info(id, state.node(id)?))
    }

    /// Nodes in the chain of a disk, itself included.
    ///
    /// # Errors
    /// When there is no such disk.
    pub fn depth(&self, id: Uuid) -> Result<usize> {
        let state = self.state();
        state.node(id)?;
        Ok(state.chain(id).count())
    }

    /// Arms a fault.
    pub fn inject(&self, fault: Fault) {
        self.faults().push(fault);
    }

    /// Disarms all faults.
    pub fn clear_faults(&self) {
        self.faults().clear();
    }

    /// Raises the first armed fault that matches.
    fn trip(&self, operation: Operation, disk: Uuid) -> Result<()> {
        let mut faults = self.faults();
        for index in 0..faults.len() {
            let Some(fault) = faults.get_mut(index) else { break };
            if fault.operation != operation || fault.disk.is_some_and(|only| only != disk) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            let failure = fault.failure.clone();
            if fault.times != u32::MAX {
                fault.times = fault.times.saturating_sub(1);
            }
            if fault.times == 0 {
                faults.remove(index);
            }
            return Err(Error::Injected { operation, failure });
        }
        Ok(())
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn node(&self, id: Uuid) -> Result<&Node> {
        self.nodes.get(&id).ok_or(Error::UnknownDisk { disk: id })
    }

    fn node_mut(&mut self, id: Uuid) -> Result<&mut Node> {
        self.nodes.get_mut(&id).ok_or(Error::UnknownDisk { disk: id })
    }

    /// A node that has data.
    fn readable(&self, id: Uuid) -> Result<&Node> {
        let node = self.node(id)?;
        if node.file.is_none() { Err(Error::NoData { disk: id }) } else { Ok(node) }
    }

    /// A live disk.
    fn writable(&self, id: Uuid, operation: &'static str) -> Result<&Node> {
        let node = self.node(id)?;
        match node.kind {
            NodeKind::Live => Ok(node),
            kind => Err(wrong_kind(id, operation, kind, "a writable disk")),
        }
    }

    fn free_id(&self, id: Uuid) -> Result<()> {
        if self.nodes.contains_key(&id) { Err(Error::DiskExists { disk: id }) } else { Ok(()) }
    }

    /// The disk and its ancestors, leaf first.
    fn chain(&self, id: Uuid) -> impl Iterator<Item = (Uuid, &Node)> {
        let mut next = Some(id);
        std::iter::from_fn(move || {
            let id = next?;
            let node = self.nodes.get(&id)?;
            next = node.parent;
            Some((id, node))
        })
    }

    fn children(&self, id: Uuid) -> Vec<Uuid> {
        self.nodes.iter().filter(|(_, node)| node.parent == Some(id)).map(|(child, _)| *child).collect()
    }

    /// Takes a node out of the tree; its file is deleted when that is saved.
    fn remove(&mut self, id: Uuid) {
        if let Some(file) = self.nodes.remove(&id).and_then(|node| node.file) {
            self.doomed.push(file.path);
        }
    }

    fn info(&self, id: Uuid, node: &Node) -> NodeInfo {
        NodeInfo {
            id,
            parent: node.parent,
            kind: node.kind,
            hidden: node.kind == NodeKind::Base,
            size: node.size,
            physical: self.physical(node),
            cbt: node.content().log.is_some(),
        }
    }
}

impl Node {
    fn leaf(kind: NodeKind, size: u64, parent: Option<Uuid>, file: DataFile) -> Self {
        Self { parent, kind, size, file: Some(file), content: RwLock::default() }
    }

    fn content(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn content_mut(&self) -> RwLockWriteGuard<'_, Content> {
        self.content.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wrong_kind(disk: Uuid, operation: &'static str, kind: NodeKind, needed: &'static str) -> Error {
    let found = match kind {
        NodeKind::Live => "a writable disk",
        NodeKind::Snapshot => "a snapshot",
        NodeKind::Base => "a hidden node",
        NodeKind::CbtMetadata => "changed-block metadata",
    };
    Error::WrongKind { disk, operation, found, needed }
}

/// A disk's size as VHD has it.
fn rounded(disk: Uuid, size: u64) -> Result<u64> {
    match size {
        1..=MAX_SIZE => Ok(size.next_multiple_of(BLOCK)),
        0 => Err(Error::BadSize { disk, size, why: "a disk has at least one byte" }),
        _ => Err(Error::BadSize { disk, size, why: "a VHD holds at most 2040 GiB" }),
    }
}
