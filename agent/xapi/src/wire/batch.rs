//! The answer to `event.from`.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::Malformed;

/// What one `event.from` brought.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Batch {
    /// At most one event per object.
    pub events: Vec<Event>,
    /// How many objects of each class (lower case) there are; shows deletions that were lost.
    #[serde(default)]
    pub valid_ref_counts: HashMap<String, u64>,
    /// Where the next call goes on.
    pub token: String,
}

/// A change of one object.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Event {
    /// The class, lower case.
    pub class: String,
    /// What happened.
    pub operation: Operation,
    /// The object.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The whole record; absent when the object was deleted.
    #[serde(default)]
    pub snapshot: Option<Value>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// It is new, or new to this subscriber.
    Add,
    /// It changed.
    Mod,
    /// It is gone.
    Del,
}

/// Reads the result of `event.from`.
///
/// # Errors
/// [`Malformed`] when it is not a batch of events.
pub fn decode_batch(result: Value) -> Result<Batch, Malformed> {
    serde_json::from_value(result).map_err(|source| Malformed::Record { class: "event", source })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_batch_is_read_with_fields_nobody_knows() {
        let batch = decode_batch(json!({
            "events": [
                {"id": "1", "timestamp": "0.0", "class": "vm", "operation": "mod", "ref": "OpaqueRef:1", "snapshot": {"uuid": "x"}},
                {"id": "2", "timestamp": "0.0", "class": "vm", "operation": "del", "ref": "OpaqueRef:2"},
            ],
            "valid_ref_counts": {"vm": 1}, "token": "1,2", "new": true,
        }))
        .unwrap();
        assert_eq!(batch.events.len(), 2);
        assert_eq!(batch.events[1].operation, Operation::Del);
        assert_eq!(batch.valid_ref_counts["vm"], 1);
        assert!(decode_batch(json!({"events": [{"class": "vm"}], "token": ""})).is_err());
        assert!(decode_batch(json!(null)).is_err());
    }
}
