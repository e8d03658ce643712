//! The pool, its storage and its secrets as a whole.

use serde_json::json;

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

    /// Makes the pool look at a storage repository again: its disks, its space.
    ///
    /// # Errors
    /// As any operation.
    pub async fn sr_scan(&self, sr: &Ref<Sr>) -> Result<(), Error> {
        self.operation("SR.scan", vec![json!(sr)]).await.map(drop)
    }
}
