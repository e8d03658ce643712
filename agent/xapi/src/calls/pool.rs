//! The pool and its storage as a whole.

use serde_json::{Map, Value, json};

use crate::records::{Pool, PoolRecord, Sr};
use crate::{Client, Error, Ref};

impl Client {
    /// The pool itself.
    ///
    /// # Errors
    /// As any call.
    pub async fn pool(&self) -> Result<(Ref<Pool>, PoolRecord), Error> {
        self.all_records().await?.pop().ok_or_else(|| Error::Answer {
            what: "pool.get_all_records".to_owned(),
            source: crate::wire::Malformed::Shape("there is no pool"),
        })
    }

    /// Whether disks of a type of storage repository (`ext`, `nfs`, …) can have their changed blocks tracked.
    ///
    /// # Errors
    /// As any call.
    pub async fn storage_tracks_changes(&self, kind: &str) -> Result<bool, Error> {
        let drivers: Map<String, Value> = self.read("SM.get_all_records", Vec::new()).await?;
        let mut of_kind = drivers.values().filter(|driver| driver["type"] == kind);
        Ok(of_kind.any(|driver| driver["features"].get("VDI_CONFIG_CBT").is_some()))
    }

    /// Makes the pool look at a storage repository again: its disks, its space.
    ///
    /// # Errors
    /// As any operation.
    pub async fn sr_scan(&self, sr: &Ref<Sr>) -> Result<(), Error> {
        self.operation("SR.scan", vec![json!(sr)]).await.map(drop)
    }
}
