//! A disk written into a qcow2 file, version 3, in one pass: clusters one behind the other as they come, each second
//! level table when its part of the disk is complete, the first level and the reference counts at the end, the header
//! last.

use super::partial::{Order, PartialFile};
use crate::Error;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use coffer_extent::{Extent, ExtentError, ExtentSink, StreamError, is_zero};
use std::path::Path;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of a table of one cluster.
const ENTRIES: u64 = CLUSTER / 8;
/// Bytes of the disk that one second level table maps: 512 MiB.
const TABLE_SPAN: u64 = ENTRIES * CLUSTER;
/// Reference counts (16 bits each) in one cluster.
const COUNTS: u64 = CLUSTER / 2;
/// The cluster belongs to this image alone and may be written in place.
const COPIED: u64 = 1 << 63;
/// The largest disk: its first level table has one cluster per 4 TiB and is held in memory (256 KiB for this).
const MAX_SIZE: u64 = 16 << 40;
const HEADER_BYTES: u32 = 104;

/// Writes a complete disk into a qcow2 file with clusters of 64 KiB; zeros are left out.
#[derive(Debug)]
pub struct Qcow2FileSink {
    file: PartialFile,
    order: Order,
    /// First level: where each second level table is, zero for none.
    level1: Vec<u64>,
    /// The second level table of the part of the disk at `level2_index`, and whether anything is in it.
    level2: Vec<u64>,
    level2_index: usize,
    level2_used: bool,
    /// Bytes of the cluster that is not complete yet, and which one it is.
    cluster: BytesMut,
    cluster_index: u64,
    /// Clusters of the file in use so far.
    clusters: u64,
}

impl Qcow2FileSink {
    /// A new file for a disk of `size` bytes, rounded up to a sector of 512; the name must be free. Until `finish` it
    /// is called `PATH.partial`.
    pub async fn create(path: impl AsRef<Path>, size: u64) -> Result<Qcow2FileSink, Error> {
        let path = path.as_ref();
        if size > MAX_SIZE {
            return Err(Error::TooLarge { path: path.to_owned(), format: "qcow2", size, limit: MAX_SIZE });
        }
        let level1 = vec![0; index(size.div_ceil(TABLE_SPAN))];
        let level1_clusters = (level1.len() as u64 * 8).div_ceil(CLUSTER).max(1);
        Ok(Qcow2FileSink {
            file: PartialFile::create(path).await?,
            order: Order::new(size),
            level1,
            level2: vec![0; index(ENTRIES)],
            level2_index: 0,
            level2_used: false,
            cluster: BytesMut::new(),
            cluster_index: 0,
            clusters: 1 + level1_clusters,
        })
    }

    fn subject(&self) -> String {
        self.file.target().display().to_string()
    }

    async fn put(&mut self, mut offset: u64, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let cluster = offset / CLUSTER;
            if self.cluster_index != cluster {
                self.end_cluster().await?;
                self.cluster_index = cluster;
            }
            let within = offset % CLUSTER;
            let step = if within == 0 && self.cluster.is_empty() && bytes.len() as u64 >= CLUSTER {
                // Whole clusters go to the file as they are, in one run within one second level table.
                let left = (TABLE_SPAN - offset % TABLE_SPAN).min(bytes.len() as u64 / CLUSTER * CLUSTER);
                let run = bytes.split_to(index(left));
                let place = self.map(cluster, left / CLUSTER).await?;
                self.file.write(vec![(place, run)]).await?;
                self.cluster_index = cluster + left / CLUSTER;
                left
            } else {
                let part = bytes.split_to(index(CLUSTER - within).min(bytes.len()));
                self.cluster.resize(index(within), 0);
                self.cluster.extend_from_slice(&part);
                part.len() as u64
            };
            offset += step;
        }
        Ok(())
    }

    /// Writes the cluster that was being collected, if any.
    async fn end_cluster(&mut self) -> Result<(), Error> {
        let mut cluster = self.cluster.split();
        if is_zero(&cluster) {
            return Ok(());
        }
        cluster.resize(index(CLUSTER), 0);
        let place = self.map(self.cluster_index, 1).await?;
        self.file.write(vec![(place, cluster.freeze())]).await
    }

    /// Gives `count` clusters of the disk, within one second level table, the next places of the file.
    async fn map(&mut self, first: u64, count: u64) -> Result<u64, Error> {
        let table = index(first / ENTRIES);
        if table != self.level2_index {
            self.end_table().await?;
            self.level2_index = table;
        }
        let place = self.clusters * CLUSTER;
        let within = index(first % ENTRIES);
        for (entry, cluster) in self.level2[within..within + index(count)].iter_mut().zip(self.clusters..) {
            *entry = (cluster * CLUSTER) | COPIED;
        }
        self.clusters += count;
        self.level2_used = true;
        Ok(place)
    }

    /// Writes the second level table that is complete now, if anything is in it.
    async fn end_table(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.level2_used) {
            return Ok(());
        }
        let place = self.clusters * CLUSTER;
        self.clusters += 1;
        self.level1[self.level2_index] = place | COPIED;
        let table = big_endian(&self.level2);
        self.level2.fill(0);
        self.file.write(vec![(place, table)]).await
    }

    async fn end_file(&mut self) -> Result<(), Error> {
        self.end_cluster().await?;
        self.end_table().await?;
        let counts = RefCounts::for_clusters(self.clusters);
        let table_place = self.clusters * CLUSTER;
        let blocks_place = table_place + counts.table_clusters * CLUSTER;
        let places: Vec<u64> = (0..counts.blocks).map(|block| blocks_place + block * CLUSTER).collect();
        for (block, place) in (0..counts.blocks).zip(&places) {
            let used = counts.total.saturating_sub(block * COUNTS).min(COUNTS);
            let mut bytes = [0, 1].repeat(index(used));
            bytes.resize(index(CLUSTER), 0);
            self.file.write(vec![(*place, bytes)]).await?;
        }
        self.file.set_len(counts.total * CLUSTER).await?;
        let header = self.header(table_place, counts.table_clusters);
        self.file
            .write(vec![(table_place, big_endian(&places)), (CLUSTER, big_endian(&self.level1)), (0, header)])
            .await
    }

    fn header(&self, refcount_table: u64, refcount_table_clusters: u64) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES as usize + 8);
        let small = |value: usize| u32::try_from(value).expect("the first level table has at most 32768 entries");
        let clusters = u32::try_from(refcount_table_clusters).expect("a few clusters");
        let fields32 = |bytes: &mut BytesMut, values: &[u32]| {
            values.iter().for_each(|value| bytes.extend_from_slice(&value.to_be_bytes()));
        };
        let fields64 = |bytes: &mut BytesMut, values: &[u64]| {
            values.iter().for_each(|value| bytes.extend_from_slice(&value.to_be_bytes()));
        };
        bytes.extend_from_slice(b"QFI\xfb");
        fields32(&mut bytes, &[3]); // version
        fields64(&mut bytes, &[0]); // no backing file
        fields32(&mut bytes, &[0, CLUSTER_BITS]);
        fields64(&mut bytes, &[self.order.size().next_multiple_of(512)]);
        fields32(&mut bytes, &[0, small(self.level1.len())]); // no encryption; entries of the first level
        fields64(&mut bytes, &[CLUSTER, refcount_table]);
        fields32(&mut bytes, &[clusters, 0]); // no internal snapshots
        fields64(&mut bytes, &[0, 0, 0, 0]); // where they would be; no incompatible, compatible or autoclear feature
        fields32(&mut bytes, &[4, HEADER_BYTES]); // reference counts of 2^4 bits
        fields64(&mut bytes, &[0]); // end of header extensions
        bytes.freeze()
    }
}

/// How many clusters the reference counts take, which count themselves.
#[derive(Debug, PartialEq, Eq)]
struct RefCounts {
    table_clusters: u64,
    blocks: u64,
    /// All clusters of the file.
    total: u64,
}

impl RefCounts {
    fn for_clusters(clusters: u64) -> RefCounts {
        let (mut blocks, mut table_clusters) = (1, 1);
        loop {
            let total = clusters + blocks + table_clusters;
            let (more_blocks, more_table) = (total.div_ceil(COUNTS), blocks.div_ceil(ENTRIES));
            if (more_blocks, more_table) == (blocks, table_clusters) {
                return RefCounts { table_clusters, blocks, total };
            }
            (blocks, table_clusters) = (more_blocks, more_table);
        }
    }
}

fn big_endian(words: &[u64]) -> Bytes {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("sizes are bounded by 16 TiB, indexes by much less")
}

#[async_trait]
impl ExtentSink for Qcow2FileSink {
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        self.order.advance(&extent).map_err(|error| error.about(self.subject()))?;
        match extent {
            Extent::Zero { .. } => {}
            Extent::Data { offset, bytes } => self.put(offset, bytes).await?,
            Extent::Unchanged { offset, len } => {
                return Err(StreamError::UnexpectedUnchanged { offset, len }.about(self.subject()));
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ExtentError> {
        self.order.complete().map_err(|error| error.about(self.subject()))?;
        self.end_file().await?;
        self.file.publish().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_counts_always_cover_the_whole_file() {
        for clusters in (0..COUNTS * 3).step_by(61).chain([COUNTS * ENTRIES - 1, COUNTS * ENTRIES, 1 << 40]) {
            let counts = RefCounts::for_clusters(clusters);
            assert_eq!(counts.total, clusters + counts.blocks + counts.table_clusters);
            assert!(counts.blocks * COUNTS >= counts.total, "{counts:?}");
            assert!(counts.table_clusters * ENTRIES >= counts.blocks, "{counts:?}");
        }
    }
}
