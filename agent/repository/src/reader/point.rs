//! One open restore point.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coffer_extent::{BlockReader, ExtentSource};

use super::{DiskExtents, FileReader};
use crate::format::{Fault, NodeKind};
use crate::repository::Inner;
use crate::{BlobId, Error, FileContent, FileInfo, PointInfo};

/// Files and folders of a point: ours have a handful, foreign ones may have many, hostile ones without end.
const MAX_NODES: usize = 1_000_000;

/// An open restore point: its files are known, their content is read when asked for.
#[derive(Debug)]
pub struct Point {
    inner: Arc<Inner>,
    info: PointInfo,
    files: Vec<FileInfo>,
    contents: BTreeMap<String, FileContent>,
}

impl Point {
    pub(crate) async fn open(inner: Arc<Inner>, info: PointInfo, root: BlobId) -> Result<Self, Error> {
        let mut contents = BTreeMap::new();
        let mut folders = vec![(String::new(), root)];
        let mut nodes = 0;
        while let Some((folder, id)) = folders.pop() {
            let damaged = |what| Error::damaged(format!("tree {id}"), Fault::Malformed(what));
            let tree = inner.read_tree(id).await?;
            nodes += tree.nodes.len() + 1;
            if nodes > MAX_NODES {
                return Err(damaged("the snapshot has more files than can be listed"));
            }
            for node in tree.nodes {
                let name = node.file_name().ok_or_else(|| damaged("it names a file that leads out of its folder"))?;
                let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                match (node.kind, node.subtree) {
                    (NodeKind::Dir, Some(subtree)) => folders.push((path, subtree)),
                    (NodeKind::Dir, None) => return Err(damaged("it has a folder without a tree")),
                    (NodeKind::File, _) => {
                        contents.insert(path, FileContent::new(node.size, node.content.unwrap_or_default()));
                    }
                    (NodeKind::Other, _) => {}
                }
            }
        }
        let files =
            contents.iter().map(|(path, content)| FileInfo { path: path.clone(), size: content.size() }).collect();
        Ok(Self { inner, info, files, contents })
    }

    /// What is known of it without opening it.
    pub fn info(&self) -> &PointInfo {
        &self.info
    }

    /// Its files, sorted by path.
    pub fn files(&self) -> &[FileInfo] {
        &self.files
    }

    /// The content of a file: the parent of the next backup's disk.
    ///
    /// # Errors
    /// [`Error::NoFile`].
    pub fn content(&self, path: &str) -> Result<FileContent, Error> {
        let found = self.contents.get(path).cloned();
        found.ok_or_else(|| Error::NoFile { point: self.info.id, path: path.to_owned() })
    }

    /// Reads a file of at most `max` bytes.
    ///
    /// # Errors
    /// [`Error::NoFile`], [`Error::TooLarge`], [`Error::Unreadable`].
    pub async fn read_file(&self, path: &str, max: u64) -> Result<Bytes, Error> {
        let content = self.content(path)?;
        let size = content.size();
        let too_large = || Error::TooLarge { path: path.to_owned(), size, max };
        let length = usize::try_from(size).ok().filter(|_| size <= max).ok_or_else(too_large)?;
        FileReader::new(self.inner.clone(), path.to_owned(), content)?.read(0, length).await
    }

    /// A file as a block device.
    ///
    /// # Errors
    /// [`Error::NoFile`]; [`Error::Unreadable`] when a part of it is in no index.
    pub fn disk(&self, path: &str) -> Result<Arc<dyn BlockReader>, Error> {
        let content = self.content(path)?;
        Ok(Arc::new(FileReader::new(self.inner.clone(), path.to_owned(), content)?))
    }

    /// A file from its first byte to its last, read ahead in parallel; zero chunks come as `Zero` without being read.
    ///
    /// # Errors
    /// As [`Self::disk`].
    pub fn extents(&self, path: &str) -> Result<Box<dyn ExtentSource>, Error> {
        let content = self.content(path)?;
        Ok(Box::new(DiskExtents::new(self.inner.clone(), path.to_owned(), content)?))
    }
}
