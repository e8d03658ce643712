//! Which remote this is, and the highest fencing token that it has seen.
//!
//! `coffer/remote.json` is written once and gives the remote its identity, so that a disk mounted at the wrong place, or an
//! empty mount point, is told from the real one. Tokens are small objects `coffer/fence/<incarnation>-<epoch>` of which the
//! highest counts: a remote can only create, not replace, and so the token never goes back.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, ObjectName, Remote, read_if_present};

/// The format of a remote that this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

const MARKER: &str = "coffer/remote.json";
const FENCES: &str = "coffer/fence";

/// The identity of a remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Version of the layout of the remote: [`FORMAT_VERSION`].
    pub version: u32,
    /// The remote, whatever it is called and wherever it is mounted.
    pub id: Uuid,
    /// When it was made.
    pub created: Timestamp,
}

/// A fencing token. Ordered: a later incarnation of the control plane beats every epoch of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fence {
    /// Incarnation of the control plane.
    pub incarnation: u64,
    /// Epoch of the VM.
    pub epoch: u64,
}

/// Reads the identity of a remote; `None` when it has none yet.
///
/// # Errors
/// [`Error::Damaged`], [`Error::UnknownVersion`], and whatever the remote reports.
pub async fn read(remote: &dyn Remote) -> Result<Option<Marker>, Error> {
    let name = ObjectName::new(MARKER)?;
    let Some(bytes) = read_if_present(remote, &name).await? else { return Ok(None) };
    let marker: Marker = serde_json::from_slice(&bytes).map_err(|error| Error::Damaged {
        remote: remote.describe(),
        name: name.clone(),
        reason: error.to_string(),
    })?;
    if marker.version != FORMAT_VERSION {
        let (found, known) = (marker.version, FORMAT_VERSION);
        return Err(Error::UnknownVersion { remote: remote.describe(), name, found, known });
    }
    Ok(Some(marker))
}

/// The identity of a remote, given to it now if it has none. Of racing calls all answer the same.
///
/// # Errors
/// As [`read`].
pub async fn establish(remote: &dyn Remote) -> Result<Marker, Error> {
    if let Some(marker) = read(remote).await? {
        return Ok(marker);
    }
    let marker = Marker { version: FORMAT_VERSION, id: Uuid::new_v4(), created: Timestamp::now() };
    let body = serde_json::to_vec(&marker).expect("a marker has only plain fields");
    let created = remote.create(&ObjectName::new(MARKER)?, vec![Bytes::from(body)]).await;
    match (read(remote).await?, created) {
        (Some(marker), _) => Ok(marker),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(Error::NotFound { remote: remote.describe(), name: ObjectName::new(MARKER)? }),
    }
}

/// The highest token that the remote has seen.
///
/// # Errors
/// Whatever the remote reports.
pub async fn highest_fence(remote: &dyn Remote) -> Result<Option<Fence>, Error> {
    Ok(fences(remote).await?.into_iter().map(|(fence, _)| fence).max())
}

/// Notes that the remote has seen `fence`. Returns the highest seen: higher than `fence` when the caller is outdated.
///
/// # Errors
/// Whatever the remote reports; the token then may have been noted.
pub async fn raise_fence(remote: &dyn Remote, fence: Fence) -> Result<Fence, Error> {
    let known = fences(remote).await?;
    if let Some(highest) = known.iter().map(|(fence, _)| *fence).max().filter(|highest| *highest >= fence) {
        return Ok(highest);
    }
    let name = ObjectName::new(format!("{FENCES}/{:020}-{:020}", fence.incarnation, fence.epoch))?;
    match remote.create(&name, vec![Bytes::from_static(b"\n")]).await {
        Ok(()) | Err(Error::AlreadyExists { .. }) => {}
        Err(error) => return Err(error),
    }
    for (lower, name) in known {
        if lower < fence {
            remote.delete(&name).await?;
        }
    }
    Ok(fence)
}

async fn fences(remote: &dyn Remote) -> Result<Vec<(Fence, ObjectName)>, Error> {
    let listed = remote.list(&ObjectName::new(FENCES)?).await?;
    let fence = |name: &ObjectName| {
        let (incarnation, epoch) = name.file_name().split_once('-')?;
        Some(Fence { incarnation: incarnation.parse().ok()?, epoch: epoch.parse().ok()? })
    };
    Ok(listed.into_iter().filter_map(|info| Some((fence(&info.name)?, info.name))).collect())
}
