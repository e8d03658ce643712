//! What the snapshots need: every blob that can be reached from them.

use std::collections::HashSet;
use std::sync::Arc;

use crate::format::{BlobKind, Snapshot};
use crate::index::IndexMap;
use crate::repository::Inner;
use crate::{BlobId, Error, SnapshotId};

/// Problems noted; a lost index would otherwise name every blob of the repository.
pub(crate) const MAX_PROBLEMS: usize = 1000;

/// What was reached.
#[derive(Debug)]
pub(crate) struct Walked {
    /// The index as it was; `used` is in its order.
    pub(crate) map: IndexMap,
    /// For each blob, whether a snapshot needs it.
    pub(crate) used: Vec<bool>,
    /// Snapshots that are not whole, each with the first reasons found.
    pub(crate) problems: Vec<(SnapshotId, Error)>,
}

/// Follows every snapshot. Only trees are read.
///
/// Interruption is safe: nothing is changed.
pub(crate) async fn walk(inner: &Inner, snapshots: &[(SnapshotId, Arc<Snapshot>)]) -> Result<Walked, Error> {
    let map = inner.index.map().clone();
    let starts = map.bucket_starts();
    let mut walked = Walked { used: vec![false; map.len()], map, problems: Vec::new() };
    let mut seen = HashSet::new();
    for (snapshot, content) in snapshots {
        let mut trees = vec![content.tree];
        while let Some(id) = trees.pop() {
            if !seen.insert(id) {
                continue;
            }
            walked.reach(&starts, *snapshot, BlobKind::Tree, id);
            match inner.read_tree(id).await {
                Ok(tree) => {
                    for node in &tree.nodes {
                        for blob in node.content.iter().flatten() {
                            walked.reach(&starts, *snapshot, BlobKind::Data, *blob);
                        }
                        trees.extend(node.subtree);
                    }
                }
                // `reach` has noted it.
                Err(Error::BlobMissing { .. }) => {}
                Err(error) if error.is_damage() => walked.note(*snapshot, error),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(walked)
}

impl Walked {
    fn reach(&mut self, starts: &[usize], snapshot: SnapshotId, kind: BlobKind, id: BlobId) {
        match self.map.ordinal(starts, &(kind, id)).and_then(|place| self.used.get_mut(place)) {
            Some(used) => *used = true,
            None => self.note(snapshot, Error::BlobMissing { blob: id }),
        }
    }

    fn note(&mut self, snapshot: SnapshotId, error: Error) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push((snapshot, error));
        }
    }
}
