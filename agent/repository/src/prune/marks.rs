//! Marks: which packs will be deleted, and when. Small files on the remote, so that every agent knows and any may go
//! on.
//!
//! A marked pack stays in the index and on the remote until its time has come, hence every listed point stays readable
//! throughout. New backups do not build on marked packs; one that began before the mark and did is saved by a *rescue*:
//! an object that takes one pack out of all marks. A rescue is allowed in the first half of the grace only, and
//! deletion in none of it: clocks may differ by half the grace.

use std::collections::HashSet;

use bytes::Bytes;
use coffer_remote::{ObjectName, Remote, read_if_present};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, PackId};

const MARKS: &str = "coffer/prune/marks";
const RESCUED: &str = "coffer/prune/rescued";
const VERSION: u32 = 1;
/// Packs of one file: keeps it far below what is read at once.
const MAX_PACKS: usize = 100_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MarkFile {
    version: u32,
    created: Timestamp,
    delete_after: Timestamp,
    packs: Vec<PackId>,
}

/// All marks of a remote.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    files: Vec<(ObjectName, MarkFile)>,
    rescued: HashSet<PackId>,
}

fn folder(name: &str) -> ObjectName {
    ObjectName::new(name).expect("a constant that is a valid name")
}

fn rescue_name(pack: &PackId) -> ObjectName {
    folder(RESCUED).join(pack.to_string()).expect("hexadecimal digits are a valid name")
}

/// Reads the bytes of a file of marks.
pub(crate) fn parse(json: &[u8]) -> Result<MarkFile, serde_json::Error> {
    serde_json::from_slice(json)
}

impl Marks {
    /// Reads them. One that cannot be read is passed over: then nobody deletes by it.
    pub(crate) async fn load(remote: &dyn Remote) -> Result<Self, Error> {
        let mut marks = Self::default();
        for info in remote.list(&folder(MARKS)).await? {
            let Some(bytes) = read_if_present(remote, &info.name).await? else { continue };
            match parse(&bytes) {
                Ok(file) if file.version == VERSION => marks.files.push((info.name, file)),
                Ok(file) => {
                    tracing::warn!(name = %info.name, version = file.version, "a mark of an unknown version is ignored")
                }
                Err(error) => tracing::warn!(name = %info.name, %error, "a damaged mark is ignored"),
            }
        }
        let listed = remote.list(&folder(RESCUED)).await?;
        marks.rescued = crate::objects::ids(&listed).map(|(pack, _)| pack).collect();
        Ok(marks)
    }

    /// Packs that will be deleted.
    pub(crate) fn marked(&self) -> HashSet<PackId> {
        let packs = self.files.iter().flat_map(|(_, file)| &file.packs);
        packs.filter(|pack| !self.rescued.contains(pack)).copied().collect()
    }

    /// Packs whose time has come.
    pub(crate) fn due(&self, now: Timestamp) -> HashSet<PackId> {
        let packs = self.files.iter().filter(|(_, file)| file.delete_after <= now).flat_map(|(_, file)| &file.packs);
        packs.filter(|pack| !self.rescued.contains(pack)).copied().collect()
    }

    /// Removes the files whose time has come, and rescues that no other file needs. To be called when [`Self::due`] is
    /// deleted.
    pub(crate) async fn finish(&self, remote: &dyn Remote, now: Timestamp) -> Result<(), Error> {
        let (past, coming): (Vec<_>, Vec<_>) = self.files.iter().partition(|(_, file)| file.delete_after <= now);
        let waiting: HashSet<&PackId> = coming.iter().flat_map(|(_, file)| &file.packs).collect();
        for (name, file) in past {
            // The rescues first: without their file they would be found no more.
            let rescued = |pack: &&PackId| self.rescued.contains(*pack) && !waiting.contains(*pack);
            remote.delete(name).await?;
            for pack in file.packs.iter().filter(rescued) {
                remote.delete(&rescue_name(pack)).await?;
            }
        }
        Ok(())
    }

    /// Marks packs: from now on no new backup builds on them, and after `grace` they may be deleted.
    pub(crate) async fn add(
        remote: &dyn Remote,
        packs: &[PackId],
        now: Timestamp,
        grace: SignedDuration,
    ) -> Result<(), Error> {
        let delete_after = now.saturating_add(grace).unwrap_or(Timestamp::MAX);
        // A rescue from an earlier mark would make this one void.
        let rescued = Self::load(remote).await?.rescued;
        for pack in packs.iter().filter(|pack| rescued.contains(pack)) {
            remote.delete(&rescue_name(pack)).await?;
        }
        for packs in packs.chunks(MAX_PACKS) {
            let file = MarkFile { version: VERSION, created: now, delete_after, packs: packs.to_vec() };
            let body = serde_json::to_vec(&file).expect("a mark has only plain fields");
            let name = folder(MARKS).join(format!("{}.json", Uuid::new_v4())).map_err(coffer_remote::Error::from)?;
            remote.create(&name, vec![Bytes::from(body)]).await?;
        }
        Ok(())
    }
}

/// Takes packs that a backup needs out of all marks.
///
/// # Errors
/// [`Error::PackMissing`] when it is too late for one.
pub(crate) async fn rescue(remote: &dyn Remote, packs: &[PackId]) -> Result<(), Error> {
    if packs.is_empty() {
        return Ok(());
    }
    let marks = Marks::load(remote).await?;
    let marked = marks.marked();
    for pack in packs.iter().filter(|pack| marked.contains(pack)) {
        let now = Timestamp::now();
        let in_time = |file: &MarkFile| {
            let half = file.delete_after.duration_since(file.created) / 2;
            now.duration_since(file.created) < half
        };
        if !marks.files.iter().filter(|(_, file)| file.packs.contains(pack)).all(|(_, file)| in_time(file)) {
            return Err(Error::PackMissing { pack: *pack });
        }
        rescue_one(remote, pack).await?;
    }
    Ok(())
}

/// Takes packs out of all marks that a listed snapshot needs, whatever the time: they would not be deleted anyway, but
/// backups that build on them would come too late for a rescue.
pub(super) async fn rescue_needed(remote: &dyn Remote, packs: &[PackId]) -> Result<(), Error> {
    for pack in packs {
        rescue_one(remote, pack).await?;
    }
    Ok(())
}

async fn rescue_one(remote: &dyn Remote, pack: &PackId) -> Result<(), Error> {
    match remote.create(&rescue_name(pack), vec![Bytes::from_static(b"\n")]).await {
        Ok(()) | Err(coffer_remote::Error::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
