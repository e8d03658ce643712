//! The objects of a pool by class, changed only by events and by reading a class anew. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use crate::records::{GuestMetrics, Host, HostMetrics, Network, Pbd, Pool, Sr, Task, Vbd, Vdi, Vif, Vm, decode_record};
use crate::wire::{Batch, Event, Operation};
use crate::{Class, Ref};

/// The objects of one class. Cloning shares them.
#[derive(Debug, PartialEq)]
pub struct Table<C: Class> {
    objects: Arc<HashMap<Ref<C>, Arc<C::Record>>>,
    /// Objects whose record cannot be read: they count, or deletions would seem lost for ever.
    unreadable: Arc<HashSet<Ref<C>>>,
}

impl<C: Class> Default for Table<C> {
    fn default() -> Self {
        Self { objects: Arc::default(), unreadable: Arc::default() }
    }
}

impl<C: Class> Clone for Table<C> {
    fn clone(&self) -> Self {
        Self { objects: Arc::clone(&self.objects), unreadable: Arc::clone(&self.unreadable) }
    }
}

impl<C: Class> Table<C> {
    /// An object.
    #[must_use]
    pub fn get(&self, reference: &Ref<C>) -> Option<&C::Record> {
        self.objects.get(reference).map(Arc::as_ref)
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = (&Ref<C>, &C::Record)> {
        self.objects.iter().map(|(reference, record)| (reference, record.as_ref()))
    }

    /// How many objects there are, those that cannot be read included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len() + self.unreadable.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put(&mut self, reference: Ref<C>, record: Value) {
        match decode_record::<C>(record) {
            Ok(record) => {
                Arc::make_mut(&mut self.unreadable).remove(&reference);
                Arc::make_mut(&mut self.objects).insert(reference, Arc::new(record));
            }
            Err(error) => {
                tracing::warn!(class = C::NAME, object = %reference, error = &error as &dyn std::error::Error, "an object of the pool cannot be read");
                Arc::make_mut(&mut self.objects).remove(&reference);
                Arc::make_mut(&mut self.unreadable).insert(reference);
            }
        }
    }

    fn apply(&mut self, event: Event) {
        let Some(reference) = Ref::new(&event.reference) else { return };
        match (event.operation, event.snapshot) {
            (Operation::Add | Operation::Mod, Some(record)) => self.put(reference, record),
            // A change without a record says nothing; the next one will.
            (Operation::Add | Operation::Mod, None) => {}
            (Operation::Del, _) => {
                Arc::make_mut(&mut self.objects).remove(&reference);
                Arc::make_mut(&mut self.unreadable).remove(&reference);
            }
        }
    }

    fn replace(&mut self, records: serde_json::Map<String, Value>) {
        *self = Self::default();
        for (reference, record) in records {
            if let Some(reference) = Ref::new(&reference) {
                self.put(reference, record);
            }
        }
    }
}

/// A class that the cache holds.
pub trait Watched: Class {
    /// Its objects.
    fn table(tables: &Tables) -> &Table<Self>
    where
        Self: Sized;
}

macro_rules! tables {
    ($($(#[$doc:meta])* $field:ident: $class:ident = $event_class:literal,)*) => {
        /// The objects of a pool. Cloning shares them.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Tables {
            $($(#[$doc])* pub $field: Table<$class>,)*
        }

        $(impl Watched for $class {
            fn table(tables: &Tables) -> &Table<Self> {
                &tables.$field
            }
        })*

        /// The classes held, as events spell them and as calls do.
        pub(super) const CLASSES: &[(&str, &str)] = &[$(($event_class, <$class as Class>::NAME)),*];

        impl Tables {
            fn apply_one(&mut self, event: Event) {
                match event.class.as_str() {
                    $($event_class => self.$field.apply(event),)*
                    _ => {}
                }
            }

            /// How many objects of a class are held.
            pub(super) fn count(&self, event_class: &str) -> usize {
                match event_class {
                    $($event_class => self.$field.len(),)*
                    _ => 0,
                }
            }

            /// Takes the objects of a class for all there are.
            pub(crate) fn replace(&mut self, event_class: &str, records: serde_json::Map<String, Value>) {
                match event_class {
                    $($event_class => self.$field.replace(records),)*
                    _ => {}
                }
            }
        }
    };
}

tables! {
    /// The pool itself, one.
    pools: Pool = "pool",
    /// Hosts.
    hosts: Host = "host",
    /// Whether hosts live.
    host_metrics: HostMetrics = "host_metrics",
    /// Storage repositories.
    srs: Sr = "sr",
    /// Their connections to hosts.
    pbds: Pbd = "pbd",
    /// Networks.
    networks: Network = "network",
    /// VMs, templates, snapshots, control domains.
    vms: Vm = "vm",
    /// What guests report.
    guest_metrics: GuestMetrics = "vm_guest_metrics",
    /// Disks and CDs of VMs.
    vbds: Vbd = "vbd",
    /// Network interfaces of VMs.
    vifs: Vif = "vif",
    /// Disks.
    vdis: Vdi = "vdi",
    /// Tasks.
    tasks: Task = "task",
}

impl Tables {
    /// An object.
    #[must_use]
    pub fn get<C: Watched>(&self, reference: &Ref<C>) -> Option<&C::Record> {
        C::table(self).get(reference)
    }

    pub(super) fn get_shared<C: Watched>(&self, reference: &Ref<C>) -> Option<Arc<C::Record>> {
        C::table(self).objects.get(reference).map(Arc::clone)
    }

    pub(crate) fn apply(&mut self, batch: Batch) {
        for event in batch.events {
            self.apply_one(event);
        }
    }

    /// The classes whose number of objects is not what the server says: events about them were lost.
    pub(crate) fn miscounted(&self, counts: &HashMap<String, u64>) -> Vec<(&'static str, u64)> {
        CLASSES
            .iter()
            .filter_map(|(event_class, _)| {
                let expected = *counts.get(*event_class)?;
                let held = u64::try_from(self.count(event_class)).unwrap_or(u64::MAX);
                (held != expected).then_some((*event_class, expected))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event(operation: Operation, id: u8, snapshot: Option<Value>) -> Event {
        Event { class: "vm".into(), operation, reference: format!("OpaqueRef:{id}"), snapshot }
    }

    fn batch(events: Vec<Event>) -> Batch {
        Batch { events, valid_ref_counts: HashMap::new(), token: String::new() }
    }

    #[test]
    fn a_deletion_that_was_lost_shows_in_the_count() {
        let mut tables = Tables::default();
        tables.apply(batch(vec![
            event(Operation::Add, 1, Some(json!({"name_label": "a"}))),
            event(Operation::Add, 2, Some(json!({"VBDs": "nonsense"}))),
        ]));
        let counts = |count: u64| HashMap::from([("vm".to_owned(), count), ("unknown".to_owned(), 9)]);
        assert!(tables.miscounted(&counts(2)).is_empty(), "an unreadable object must count");
        assert_eq!(tables.miscounted(&counts(1)), [("vm", 1)]);
        tables.apply(batch(vec![event(Operation::Del, 2, None)]));
        assert!(tables.miscounted(&counts(1)).is_empty());
    }

    #[test]
    fn a_held_copy_does_not_change() {
        let mut tables = Tables::default();
        tables.apply(batch(vec![event(Operation::Add, 1, Some(json!({"name_label": "a"})))]));
        let copy = tables.clone();
        tables.apply(batch(vec![event(Operation::Del, 1, None)]));
        assert_eq!((copy.vms.len(), tables.vms.len()), (1, 0));
    }

    proptest! {
        #[test]
        fn the_cache_is_what_the_events_say(steps in proptest::collection::vec((0..3_u8, 0..6_u8, "[a-c]"), 0..60)) {
            let mut tables = Tables::default();
            let mut model: BTreeMap<u8, String> = BTreeMap::new();
            for (operation, id, name) in steps {
                let record = Some(json!({"name_label": name}));
                let event = match operation {
                    0 => event(Operation::Add, id, record),
                    1 => event(Operation::Mod, id, record),
                    _ => event(Operation::Del, id, None),
                };
                if operation < 2 { model.insert(id, name); } else { model.remove(&id); }
                tables.apply(batch(vec![event]));
            }
            prop_assert_eq!(tables.vms.len(), model.len());
            for (id, name) in model {
                let reference = Ref::new(&format!("OpaqueRef:{id}")).unwrap();
                prop_assert_eq!(&tables.vms.get(&reference).unwrap().name_label, &name);
            }
        }
    }
}
