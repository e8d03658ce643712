//! Reading and writing disks through their chains of nodes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use uuid::Uuid;

use super::saved::Record;
use super::{Node, Operation, SrStore, State};
use crate::disk::usize_of;
use crate::error::{Error, Result};
use crate::map::BlockMap;
use crate::{BLOCK, SECTOR};

impl SrStore {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// When the disk has no data, the range lies outside it, or a file cannot be read.
    pub fn read_at(&self, id: Uuid, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.trip(Operation::Read, id)?;
        let state = self.state();
        let node = state.readable(id)?;
        let range = node.range(id, offset, buffer.len() as u64)?;
        let content = node.content();
        state.read_through(node, &content.map, range, buffer)
    }

    /// Writes `data` at `offset`, as a guest or an import does: what is written counts as changed.
    ///
    /// # Errors
    /// When the disk is read-only, the range lies outside it, the SR is full (code 44), or a file cannot be written.
    pub fn write_at(&self, id: Uuid, offset: u64, data: &[u8]) -> Result<()> {
        self.trip(Operation::Write, id)?;
        let state = self.state();
        let node = state.writable(id, "write")?;
        let range = node.range(id, offset, data.len() as u64)?;
        if range.is_empty() {
            return Ok(());
        }
        let sectors = sectors_of(&range);
        let mut content = node.content_mut();
        self.reserve_blocks(&state, content.map.missing_blocks(&sectors))?;
        // Recorded as changed before it is written, as present after: whatever a kill leaves is safe to read and to
        // compare.
        if let Some(log) = &mut content.log
            && !log.covers(&range)
        {
            state.journal.append(Record::Changed, id, &range)?;
            log.mark(&range);
        }
        let whole = sectors.start * SECTOR..sectors.end * SECTOR;
        if whole == range {
            node.write(offset, data)?;
        } else {
            let mut padded = vec![0; usize_of(whole.end - whole.start)];
            let (head, tail) = (whole.start, whole.end - SECTOR);
            let last = padded.len() - usize_of(SECTOR);
            state.read_through(node, &content.map, head..head + SECTOR, &mut padded[..usize_of(SECTOR)])?;
            state.read_through(node, &content.map, tail..tail + SECTOR, &mut padded[last..])?;
            let at = usize_of(range.start - whole.start);
            padded[at..at + data.len()].copy_from_slice(data);
            node.write(whole.start, &padded)?;
        }
        if !content.map.covers(&sectors) {
            state.journal.append(Record::Present, id, &sectors)?;
            content.map.mark(sectors);
        }
        Ok(())
    }

    /// Makes a range read as zeros; writes only where something was written before.
    ///
    /// # Errors
    /// As [`SrStore::write_at`].
    pub fn zero_at(&self, id: Uuid, offset: u64, len: u64) -> Result<()> {
        let written = {
            let state = self.state();
            let node = state.writable(id, "write")?;
            let range = node.range(id, offset, len)?;
            let mut written = Vec::new();
            let content = node.content();
            state.resolve(node, &content.map, range, &mut |_, part| {
                written.push(part);
                Ok(())
            })?;
            written
        };
        let zeros = vec![0; usize_of(BLOCK)];
        for part in written {
            let mut at = part.start;
            while at < part.end {
                let len = (part.end - at).min(BLOCK);
                self.write_at(id, at, &zeros[..usize_of(len)])?;
                at += len;
            }
        }
        Ok(())
    }

    /// Fills a disk from a raw file, leaving its holes alone.
    ///
    /// # Errors
    /// When the file cannot be read, is larger than the disk, or as [`SrStore::write_at`].
    pub fn import_file(&self, id: Uuid, path: &Path) -> Result<()> {
        let failed = |source: io::Error| Error::File { action: "reading", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let size = self.node(id)?.size;
        if length > size {
            return Err(Error::StreamTooLong { size });
        }
        let mut buffer = vec![0; usize_of(BLOCK)];
        let mut at = 0;
        while at < length {
            at = match seek(&file, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(rustix::io::Errno::NXIO) => break,
                Err(errno) => return Err(failed(errno.into())),
            };
            let end = seek(&file, SeekFrom::Hole(at)).map_err(|errno| failed(errno.into()))?.min(length);
            while at < end {
                let piece = &mut buffer[..usize_of((BLOCK - at % BLOCK).min(end - at))];
                file.read_exact_at(piece, at).map_err(failed)?;
                self.write_at(id, at, piece)?;
                at += piece.len() as u64;
            }
        }
        Ok(())
    }

    /// The 2 MiB blocks, ascending, that an export sends: everything allocated in the chain, or with `base` what is
    /// allocated in nodes that belong to exactly one of the two chains. Without VHD nodes: the blocks that are not
    /// zero.
    ///
    /// # Errors
    /// When a disk has no data, or differences are asked of an SR without VHD nodes.
    pub fn allocated(&self, id: Uuid, base: Option<Uuid>) -> Result<Vec<u32>> {
        let state = self.state();
        let node = state.readable(id)?;
        let (end, vhd) = (node.size / BLOCK, state.params.vhd);
        let mut nodes: Vec<(Uuid, &Node)> = state.chain(id).collect();
        if let Some(base) = base {
            state.readable(base)?;
            if !vhd {
                return Err(Error::Unsupported { operation: "differential export" });
            }
            let other: Vec<(Uuid, &Node)> = state.chain(base).collect();
            let shared = |id: Uuid, chain: &[(Uuid, &Node)]| chain.iter().any(|(other, _)| *other == id);
            let mine: Vec<_> = nodes.iter().filter(|(id, _)| !shared(*id, &other)).copied().collect();
            let theirs: Vec<_> = other.iter().filter(|(id, _)| !shared(*id, &nodes)).copied().collect();
            nodes = mine.into_iter().chain(theirs).collect();
        }
        let mut blocks: Vec<u32> =
            nodes.iter().flat_map(|(_, node)| node.content().map.blocks().collect::<Vec<_>>()).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks.retain(|block| u64::from(*block) < end);
        if !vhd {
            let mut buffer = vec![0; usize_of(BLOCK)];
            let content = node.content();
            let mut filled = Vec::new();
            for block in blocks {
                let start = u64::from(block) * BLOCK;
                state.read_through(node, &content.map, start..start + BLOCK, &mut buffer)?;
                if !is_zero(&buffer) {
                    filled.push(block);
                }
            }
            blocks = filled;
        }
        Ok(blocks)
    }
}

impl State {
    /// Reads a range of a node's disk. `map` is the node's own, locked by the caller.
    fn read_through(&self, node: &Node, map: &BlockMap, range: Range<u64>, buffer: &mut [u8]) -> Result<()> {
        let start = range.start;
        let slot = |part: &Range<u64>| usize_of(part.start - start)..usize_of(part.end - start);
        let holes = self.resolve(node, map, range, &mut |node, part| {
            let slot = slot(&part);
            node.read(part.start, &mut buffer[slot])
        })?;
        for hole in holes {
            buffer[slot(&hole)].fill(0);
        }
        Ok(())
    }

    /// Finds who holds each part of a range, and tells `found`; returns the parts that nobody holds.
    fn resolve(
        &self,
        leaf: &Node,
        map: &BlockMap,
        range: Range<u64>,
        found: &mut dyn FnMut(&Node, Range<u64>) -> Result<()>,
    ) -> Result<Vec<Range<u64>>> {
        let mut missing = leaf.split(map, vec![range], found)?;
        let mut next = leaf.parent;
        while let Some(id) = next
            && !missing.is_empty()
        {
            let node = self.node(id)?;
            missing = node.split(&node.content().map, missing, found)?;
            next = node.parent;
        }
        Ok(missing)
    }
}

impl Node {
    /// Tells `found` what this node holds of `wanted`; returns the rest.
    fn split(
        &self,
        map: &BlockMap,
        wanted: Vec<Range<u64>>,
        found: &mut dyn FnMut(&Self, Range<u64>) -> Result<()>,
    ) -> Result<Vec<Range<u64>>> {
        if map.is_empty() {
            return Ok(wanted);
        }
        let mut missing = Vec::new();
        for range in wanted {
            for (run, present) in map.runs(sectors_of(&range)) {
                let part = (run.start * SECTOR).max(range.start)..(run.end * SECTOR).min(range.end);
                if present {
                    found(self, part)?;
                } else {
                    missing.push(part);
                }
            }
        }
        Ok(missing)
    }

    /// The byte range, if it lies within the disk.
    fn range(&self, disk: Uuid, offset: u64, len: u64) -> Result<Range<u64>> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(offset..end),
            _ => Err(Error::OutOfRange { disk, offset, len, size: self.size }),
        }
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(data) = &self.file else { return Ok(()) };
        data.file.read_exact_at(buffer, offset).map_err(|source| Error::File {
            action: "reading",
            path: data.path.clone(),
            source,
        })
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.file.write_all_at(data, offset).map_err(|source| Error::File {
            action: "writing",
            path: file.path.clone(),
            source,
        })
    }
}

/// The sectors that a byte range touches.
fn sectors_of(range: &Range<u64>) -> Range<u64> {
    range.start / SECTOR..range.end.div_ceil(SECTOR)
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks_exact(64);
    chunks.by_ref().all(|chunk| chunk.iter().fold(0, |or, byte| or | byte) == 0)
        && chunks.remainder().iter().all(|byte| *byte == 0)
}
