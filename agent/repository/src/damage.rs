//! Packs that were found damaged or missing: an empty object for each, so that every agent knows.
//!
//! Nothing new builds on such a pack, so the next backup that comes across a chunk of it stores the chunk again, and
//! every point that needs the chunk is whole again: a copy in a sound pack is preferred to one in a damaged pack. What
//! still can be read of the pack stays readable until prune finds that nothing needs it.

use std::collections::HashSet;

use bytes::Bytes;
use coffer_remote::{ObjectName, Remote};

use crate::objects::ids;
use crate::repository::Inner;
use crate::{Error, PackId};

const FOLDER: &str = "coffer/damaged";

fn folder() -> ObjectName {
    ObjectName::new(FOLDER).expect("a constant that is a valid name")
}

fn record_name(pack: &PackId) -> ObjectName {
    folder().join(pack.to_string()).expect("hexadecimal digits are a valid name")
}

/// All packs that are known to be damaged.
pub(crate) async fn load(remote: &dyn Remote) -> Result<HashSet<PackId>, Error> {
    Ok(ids(&remote.list(&folder()).await?).map(|(pack, _)| pack).collect())
}

impl Inner {
    /// Notes packs as damaged. The caller has seen the damage; that it is this repository's is looked at here, since
    /// what is not found in another folder is not lost.
    pub(crate) async fn note_damaged(&self, packs: Vec<PackId>) -> Result<(), Error> {
        if packs.is_empty() {
            return Ok(());
        }
        self.confirm().await?;
        for pack in packs {
            tracing::warn!(%pack, "a pack is damaged or missing: what is lost of it is stored again by the next backup that has it");
            match self.objects.remote.create(&record_name(&pack), vec![Bytes::from_static(b"\n")]).await {
                Ok(()) | Err(coffer_remote::Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes notes back: the packs are whole again, or gone for good.
    pub(crate) async fn note_sound(&self, packs: Vec<PackId>) -> Result<(), Error> {
        for pack in packs {
            self.objects.remote.delete(&record_name(&pack)).await?;
        }
        Ok(())
    }
}
