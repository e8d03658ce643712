//! Strikes out what belonged to pools and remotes that were removed: inventories, and the catalogue's restore points.
//! Nothing on a remote is touched.

use std::collections::BTreeMap;

use coffer_core::{Change, Key, State};

use super::Duty;
use crate::fault::Fault;
use crate::plane::Plane;

/// Most keys that one change deletes.
const CHUNK: usize = 100;

pub(super) struct Upkeep;

impl Duty for Upkeep {
    const NAME: &'static str = "upkeep";

    async fn round(&mut self, plane: &Plane) -> Result<(), Fault> {
        for change in plane.read(orphans) {
            plane.commit(change).await?;
        }
        Ok(())
    }
}

fn orphans(state: &State) -> Vec<Change> {
    let mut found: BTreeMap<Key, Vec<Key>> = BTreeMap::new();
    let mut orphan = |parent: Key, key: Key| found.entry(parent).or_default().push(key);
    let no_pool = |pool: &coffer_model::PoolId| !state.pools.contains_key(&(pool.clone(),));
    let no_remote = |remote: &coffer_model::RemoteId| !state.remotes.contains_key(&(remote.clone(),));
    for (pool, vm) in state.vms.keys().filter(|(pool, _)| no_pool(pool)) {
        orphan(Key::Pool(pool.clone()), Key::Vm(pool.clone(), *vm));
    }
    for (pool, sr) in state.srs.keys().filter(|(pool, _)| no_pool(pool)) {
        orphan(Key::Pool(pool.clone()), Key::Sr(pool.clone(), *sr));
    }
    for (point,) in state.points.keys().filter(|(point,)| no_remote(&point.remote)) {
        orphan(Key::Remote(point.remote.clone()), Key::Point(point.clone()));
    }
    let mut changes = Vec::new();
    for (parent, keys) in found {
        for chunk in keys.chunks(CHUNK) {
            // One of the same name may have come meanwhile.
            let change = Change::new().absent(parent.clone());
            changes.push(chunk.iter().cloned().fold(change, Change::delete));
        }
    }
    changes
}
