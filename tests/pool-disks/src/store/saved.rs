//! What a restart of the program finds: the tree as JSON, and a journal of what was written since.
//!
//! A structural call saves the whole tree (written aside, then renamed) and begins a new journal, whose number the tree
//! names; so the two always fit. Guest writes only append to the journal. Nothing is synced: the state survives a kill
//! of the program, not a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Content, DataFile, MAX_SIZE, Node, NodeKind, SrParams, SrStore, State};
use crate::cbt::CbtLog;
use crate::error::{Error, Result};
use crate::map::BlockMap;
use crate::{BLOCK, SECTOR};

const STATE: &str = "state.json";
/// Version of the saved state's layout.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct SavedState {
    version: u32,
    params: SrParams,
    next_file: u64,
    journal: u64,
    nodes: BTreeMap<Uuid, SavedNode>,
}

#[derive(Serialize, Deserialize)]
struct SavedNode {
    parent: Option<Uuid>,
    kind: NodeKind,
    size: u64,
    file: Option<u64>,
    /// Present sectors: `[first, end)`.
    present: Vec<(u64, u64)>,
    cbt: Option<SavedLog>,
}

#[derive(Serialize, Deserialize)]
struct SavedLog {
    parent: Option<Uuid>,
    child: Option<Uuid>,
    size: u64,
    bitmap: String,
}

impl SrStore {
    /// Saves the tree after a structural change, begins a new journal, and deletes files that are no longer named.
    pub(super) fn commit(&self, state: &mut State) -> Result<()> {
        let journal = Journal::create(&self.folder, state.journal.number + 1)?;
        state.save(&self.folder, journal.number)?;
        let old = std::mem::replace(&mut state.journal, journal);
        remove(&old.path);
        state.doomed.drain(..).for_each(|path| remove(&path));
        self.used.store(state.physical_total(), Ordering::Relaxed);
        Ok(())
    }
}

impl State {
    pub(super) fn create(folder: &Path, params: SrParams) -> Result<Self> {
        fs::create_dir_all(folder).map_err(failed("creating", folder))?;
        let path = folder.join(STATE);
        if path.exists() {
            return Err(Error::BadState { path, why: "the folder holds an SR already".to_owned() });
        }
        let journal = Journal::create(folder, 0)?;
        let state = Self { params, nodes: BTreeMap::new(), next_file: 0, journal, doomed: Vec::new() };
        state.save(folder, 0)?;
        Ok(state)
    }

    pub(super) fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE);
        let bad = |why: String| Error::BadState { path: path.clone(), why };
        let text = fs::read(&path).map_err(failed("reading", &path))?;
        let saved: SavedState = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if saved.version != VERSION {
            return Err(bad(format!("version {} is not {VERSION}", saved.version)));
        }
        let mut nodes = BTreeMap::new();
        for (id, node) in saved.nodes {
            nodes.insert(id, node.load(folder).map_err(|error| bad(format!("node {id}: {error}")))?);
        }
        let journal = Journal::open(folder, saved.journal)?;
        let state = Self { params: saved.params, nodes, next_file: saved.next_file, journal, doomed: Vec::new() };
        for id in state.nodes.keys() {
            let root = state.chain(*id).take(state.nodes.len() + 1).collect::<Vec<_>>();
            if root.len() > state.nodes.len() || root.last().is_some_and(|(_, node)| node.parent.is_some()) {
                return Err(bad(format!("the chain of node {id} has no root")));
            }
        }
        state.replay(folder)?;
        state.sweep(folder)?;
        Ok(state)
    }

    /// Applies what was written since the tree was saved. A record cut short by a kill was never acknowledged.
    fn replay(&self, folder: &Path) -> Result<()> {
        let path = Journal::path(folder, self.journal.number);
        for record in fs::read(&path).map_err(failed("reading", &path))?.chunks_exact(RECORD) {
            let Some((kind, id, range)) = decode(record) else { continue };
            let Some(node) = self.nodes.get(&id) else { continue };
            let mut content = node.content_mut();
            match kind {
                Record::Present if range.end <= node.size / SECTOR => content.map.mark(range),
                Record::Changed => content.log.iter_mut().for_each(|log| log.mark(&range)),
                Record::Present => return Err(Error::BadState { path, why: format!("{id} is too small") }),
            }
        }
        Ok(())
    }

    /// Deletes files that a killed program left unnamed.
    fn sweep(&self, folder: &Path) -> Result<()> {
        let mut named: BTreeSet<PathBuf> =
            self.nodes.values().filter_map(|node| node.file.as_ref()).map(|file| file.path.clone()).collect();
        named.insert(Journal::path(folder, self.journal.number));
        for entry in fs::read_dir(folder).map_err(failed("listing", folder))? {
            let path = entry.map_err(failed("listing", folder))?.path();
            let ours = path.extension().is_some_and(|extension| extension == "img" || extension == "journal");
            if ours && !named.contains(&path) {
                remove(&path);
            }
        }
        Ok(())
    }

    fn save(&self, folder: &Path, journal: u64) -> Result<()> {
        let saved = SavedState {
            version: VERSION,
            params: self.params.clone(),
            next_file: self.next_file,
            journal,
            nodes: self.nodes.iter().map(|(id, node)| (*id, SavedNode::of(node))).collect(),
        };
        let (path, aside) = (folder.join(STATE), folder.join("state.json.new"));
        let file = File::create(&aside).map_err(failed("creating", &aside))?;
        let mut writer = io::BufWriter::new(file);
        serde_json::to_writer(&mut writer, &saved)
            .map_err(io::Error::from)
            .and_then(|()| writer.flush())
            .map_err(failed("writing", &aside))?;
        fs::rename(&aside, &path).map_err(failed("publishing", &path))
    }

    /// A new, empty data file.
    pub(super) fn new_file(&mut self, folder: &Path) -> Result<DataFile> {
        let number = self.next_file;
        let file = DataFile::open(folder, number, true)?;
        self.next_file += 1;
        Ok(file)
    }
}

impl DataFile {
    fn open(folder: &Path, number: u64, new: bool) -> Result<Self> {
        let path = folder.join(format!("{number}.img"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(new)
            .truncate(new)
            .open(&path)
            .map_err(failed("opening", &path))?;
        Ok(Self { number, path, file })
    }
}

impl SavedNode {
    fn of(node: &Node) -> Self {
        let content = node.content();
        Self {
            parent: node.parent,
            kind: node.kind,
            size: node.size,
            file: node.file.as_ref().map(|file| file.number),
            present: content.map.present().map(|run| (run.start, run.end)).collect(),
            cbt: content.log.as_ref().map(|log| SavedLog {
                parent: log.parent,
                child: log.child,
                size: log.size(),
                bitmap: STANDARD.encode(log.bitmap()),
            }),
        }
    }

    fn load(self, folder: &Path) -> Result<Node, String> {
        if self.size == 0 || self.size > MAX_SIZE || !self.size.is_multiple_of(BLOCK) {
            return Err(format!("its size {} is not one of a VHD", self.size));
        }
        if self.file.is_none() != (self.kind == NodeKind::CbtMetadata) {
            return Err("its kind and its file contradict each other".to_owned());
        }
        let mut map = BlockMap::default();
        for (first, end) in self.present {
            if first >= end || end > self.size / SECTOR {
                return Err(format!("sectors {first}..{end} lie outside it"));
            }
            map.mark(first..end);
        }
        let log = match self.cbt {
            None => None,
            Some(log) => {
                let bitmap = STANDARD.decode(&log.bitmap).map_err(|error| error.to_string())?;
                let log = CbtLog::restore(log.parent, log.child, log.size, bitmap);
                Some(log.ok_or("its changed-block bitmap has the wrong length")?)
            }
        };
        let file = match self.file {
            None => None,
            Some(number) => Some(DataFile::open(folder, number, false).map_err(|error| error.to_string())?),
        };
        let content = RwLock::new(Content { map, log });
        Ok(Node { parent: self.parent, kind: self.kind, size: self.size, file, content })
    }
}

/// What a record of the journal says of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// Sectors that a node holds now.
    Present = 1,
    /// Bytes that changed, for the node's changed-block log.
    Changed = 2,
}

/// Bytes of a record: kind (1, padded to 8), node (16), start (8), end (8), little-endian.
const RECORD: usize = 40;

/// What was written since the tree was saved. One `write` per record, so that a kill cuts at most the last one.
#[derive(Debug)]
pub(super) struct Journal {
    number: u64,
    path: PathBuf,
    file: File,
}

impl Journal {
    fn path(folder: &Path, number: u64) -> PathBuf {
        folder.join(format!("{number}.journal"))
    }

    fn create(folder: &Path, number: u64) -> Result<Self> {
        let path = Self::path(folder, number);
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(failed("creating", &path))?;
        file.set_len(0).map_err(failed("emptying", &path))?;
        Ok(Self { number, path, file })
    }

    fn open(folder: &Path, number: u64) -> Result<Self> {
        let path = Self::path(folder, number);
        let file = OpenOptions::new().append(true).open(&path).map_err(failed("opening", &path))?;
        Ok(Self { number, path, file })
    }

    pub(super) fn append(&self, kind: Record, node: Uuid, range: &Range<u64>) -> Result<()> {
        let mut record = [0; RECORD];
        record[0] = kind as u8;
        record[8..24].copy_from_slice(node.as_bytes());
        record[24..32].copy_from_slice(&range.start.to_le_bytes());
        record[32..40].copy_from_slice(&range.end.to_le_bytes());
        (&self.file).write_all(&record).map_err(failed("appending to", &self.path))
    }
}

fn decode(record: &[u8]) -> Option<(Record, Uuid, Range<u64>)> {
    let kind = match record.first()? {
        1 => Record::Present,
        2 => Record::Changed,
        _ => return None,
    };
    let number = |at: usize| Some(u64::from_le_bytes(record.get(at..at + 8)?.try_into().ok()?));
    let range = number(24)?..number(32)?;
    (range.start < range.end && range.end <= MAX_SIZE).then_some((
        kind,
        Uuid::from_slice(record.get(8..24)?).ok()?,
        range,
    ))
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + use<'a> {
    move |source| Error::File { action, path: path.to_owned(), source }
}

/// Deletes a file that nothing names any more. A failure costs space, not correctness: the next start tries again.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "left a file behind");
    }
}
