//! What outlives a restart: the database, the guests' behaviour, ports. SRs keep their own state.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pool_disks::SrStore;
use serde::{Deserialize, Serialize};

use crate::config::Profile;
use crate::control::GuestBehaviour;
use crate::error::Error;
use crate::ops::disks::sync_sr;
use crate::world::{World, lock};

/// Beside the database.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) profile: Profile,
    pub(crate) port: u16,
    pub(crate) control_port: u16,
    pub(crate) nbd_ports: Vec<u16>,
    /// Host records in order.
    pub(crate) hosts: Vec<String>,
    pub(crate) guests: HashMap<String, GuestBehaviour>,
    pub(crate) database: serde_json::Value,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("pool.json")
}

/// What an earlier program left in a folder.
pub(crate) fn load(folder: &Path) -> Result<Option<Saved>, Error> {
    let path = path(folder);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::state("reading", &path, error)),
        Ok(bytes) => {
            let parsed = serde_json::from_slice(&bytes);
            parsed.map(Some).map_err(|e| Error::BadState { path, detail: e.to_string() })
        }
    }
}

/// Writes everything, the old state stays until the new one is whole.
pub(crate) fn save(world: &World, control_port: u16) -> Result<(), Error> {
    let _one_at_a_time = lock(&world.saving);
    let saved = Saved {
        profile: world.profile(),
        port: world.hosts.first().map_or(0, crate::world::Host::port),
        control_port,
        nbd_ports: world.hosts.iter().map(crate::world::Host::nbd_port).collect(),
        hosts: world.hosts.iter().map(|h| h.reference.clone()).collect(),
        guests: lock(&world.guests).clone(),
        database: world.read(crate::db::Db::to_json),
    };
    let (path, aside) = (path(&world.folder), world.folder.join("pool.json.new"));
    let bytes =
        serde_json::to_vec(&saved).map_err(|e| Error::BadState { path: path.clone(), detail: e.to_string() })?;
    std::fs::write(&aside, bytes).map_err(|e| Error::state("writing", &aside, e))?;
    std::fs::rename(&aside, &path).map_err(|e| Error::state("renaming", &aside, e))
}

/// Saves every change until the program stops; what changes meanwhile is in the next round.
pub(crate) async fn keep(world: Arc<World>, control_port: u16) {
    let mut changes = world.changes();
    loop {
        let change = *changes.borrow_and_update();
        let saving = Arc::clone(&world);
        let saved = tokio::task::spawn_blocking(move || save(&saving, control_port)).await;
        if let Ok(Err(error)) = saved {
            tracing::error!(error = &error as &dyn std::error::Error, "the state could not be saved");
        }
        world.is_saved(change);
        tokio::select! {
            () = world.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Opens the storage of every SR and brings the records in line with it. A disk that no record names was being made
/// when the program died, and nobody was told of it: it is removed.
pub(crate) fn open_stores(world: &World) -> Result<(), Error> {
    let srs = world.read(|db| db.rows("SR").map(|(sr, _)| (sr.to_owned(), db.uuid("SR", sr))).collect::<Vec<_>>());
    for (sr, uuid) in srs {
        let broken = |source| Error::Storage { sr: uuid.clone(), source };
        let store = SrStore::open(&world.folder.join("sr").join(&uuid)).map_err(broken)?;
        for node in store.nodes().into_iter().filter(|node| !node.hidden) {
            if world.read(|db| db.by_uuid("VDI", &node.id.to_string())).is_err() {
                store.destroy(node.id).map_err(broken)?;
            }
        }
        world.add_store(&sr, store);
        sync_sr(world, &sr);
        world.garbage.due(world, &sr);
    }
    Ok(())
}
