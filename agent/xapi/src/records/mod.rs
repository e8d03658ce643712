//! The records of XAPI's classes, as far as a backup program reads them.
//!
//! Reading is tolerant: a field that is missing takes its empty value, a field nobody here knows is skipped, a number
//! may be written as text. Where everything must be kept, as for the metadata of a VM that is to be restored
//! completely, [`Full`] carries the record as it was received beside what was understood.

mod decode;
mod device;
mod host;
mod storage;
mod task;
mod vm;

use std::fmt;
use std::ops::Deref;

use serde::de::Error as _;
use serde_json::{Map, Value};

use crate::wire::Malformed;
use crate::{Class, Ref};

pub use device::{Network, NetworkRecord, Vbd, VbdMode, VbdRecord, VbdType, Vif, VifRecord, Vtpm, VtpmRecord};
pub use host::{Host, HostMetrics, HostMetricsRecord, HostRecord, Pool, PoolRecord};
pub use storage::{Pbd, PbdRecord, Sr, SrRecord, Vdi, VdiRecord};
pub use task::{Task, TaskRecord, TaskStatus};
pub use vm::{GuestMetrics, GuestMetricsRecord, PowerState, Vm, VmRecord};

/// A record with everything that XAPI sent.
pub struct Full<C: Class> {
    /// The object.
    pub reference: Ref<C>,
    /// What was understood.
    pub fields: C::Record,
    /// All fields as received, fit to be kept and given to a `create`.
    pub raw: Map<String, Value>,
}

impl<C: Class> Full<C> {
    /// Reads a record.
    ///
    /// # Errors
    /// [`Malformed`] naming the class and the field.
    pub fn decode(reference: Ref<C>, record: Value) -> Result<Self, Malformed> {
        let fields = decode_record::<C>(record.clone())?;
        match record {
            Value::Object(raw) => Ok(Self { reference, fields, raw }),
            _ => Err(Malformed::Shape("a record is not an object")),
        }
    }
}

impl<C: Class> Deref for Full<C> {
    type Target = C::Record;

    fn deref(&self) -> &C::Record {
        &self.fields
    }
}

impl<C: Class> Clone for Full<C> {
    fn clone(&self) -> Self {
        Self { reference: self.reference.clone(), fields: self.fields.clone(), raw: self.raw.clone() }
    }
}

impl<C: Class> fmt::Debug for Full<C> {
    /// Without the raw fields: they may hold secrets of the guest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Full").field("reference", &self.reference).field("fields", &self.fields).finish_non_exhaustive()
    }
}

/// Reads the fields of a record.
///
/// # Errors
/// [`Malformed::Record`] naming the class.
pub fn decode_record<C: Class>(record: Value) -> Result<C::Record, Malformed> {
    let record = match record {
        Value::Object(_) => serde_json::from_value(record),
        _ => Err(serde_json::Error::custom("it is not an object")),
    };
    record.map_err(|source| Malformed::Record { class: C::NAME, source })
}

/// Declares a class of XAPI.
macro_rules! class {
    ($(#[$doc:meta])* $marker:ident, $name:literal, $record:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $marker {}

        impl $crate::Class for $marker {
            const NAME: &'static str = $name;
            type Record = $record;
        }
    };
}
use class;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_full_record_keeps_what_nobody_here_knows() {
        let record = json!({
            "uuid": "7c2b5b3a-4c5e-4f53-9f5e-000000000001", "name_label": "db", "power_state": "Running",
            "memory_static_max": "1073741824", "VBDs": ["OpaqueRef:b", "OpaqueRef:NULL"], "snapshot_of": "OpaqueRef:NULL",
            "a_field_of_the_future": {"x": [1]},
        });
        let vm = Full::<Vm>::decode(Ref::new("OpaqueRef:v").unwrap(), record.clone()).unwrap();
        assert_eq!(vm.power_state, PowerState::Running);
        assert_eq!(vm.memory_static_max, 1 << 30);
        assert_eq!(vm.vbds.len(), 1);
        assert_eq!(vm.snapshot_of, None);
        assert_eq!(Value::Object(vm.raw.clone()), record);
    }

    #[test]
    fn a_record_of_nonsense_names_its_class() {
        for record in [json!([]), json!("x"), json!({"VBDs": 7}), json!({"uuid": "not one"})] {
            let error = decode_record::<Vm>(record).unwrap_err();
            assert!(error.to_string().contains("VM"), "{error}");
        }
    }
}
