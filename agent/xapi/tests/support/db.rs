//! Objects with the generation of their last change, for `event.from`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

#[derive(Default)]
pub(crate) struct Db {
    generation: u64,
    objects: BTreeMap<String, BTreeMap<String, (Value, u64)>>,
    deleted: Vec<(String, String, u64)>,
}

impl Db {
    pub(crate) fn put(&mut self, class: &str, reference: &str, record: Value) {
        self.generation += 1;
        let generation = self.generation;
        self.objects.entry(class.to_owned()).or_default().insert(reference.to_owned(), (record, generation));
    }

    /// Counts changes anew, as after a restart.
    pub(crate) fn rewind(&mut self) {
        self.generation = 1;
        self.deleted.clear();
        for (_, generation) in self.objects.values_mut().flat_map(BTreeMap::values_mut) {
            *generation = 1;
        }
    }

    pub(crate) fn get(&self, class: &str, reference: &str) -> Option<&Value> {
        self.objects.get(class)?.get(reference).map(|(record, _)| record)
    }

    pub(crate) fn update(&mut self, class: &str, reference: &str, change: impl FnOnce(&mut Value)) {
        if let Some(mut record) = self.get(class, reference).cloned() {
            change(&mut record);
            self.put(class, reference, record);
        }
    }

    pub(crate) fn delete(&mut self, class: &str, reference: &str, told: bool) -> bool {
        let removed = self.objects.get_mut(class).and_then(|objects| objects.remove(reference)).is_some();
        if removed && told {
            self.generation += 1;
            self.deleted.push((class.to_owned(), reference.to_owned(), self.generation));
        }
        removed
    }

    pub(crate) fn clear(&mut self, class: &str) {
        for reference in self.all(class).keys() {
            self.delete(class, reference, true);
        }
    }

    pub(crate) fn all(&self, class: &str) -> Map<String, Value> {
        let objects = self.objects.get(class).into_iter().flatten();
        objects.map(|(reference, (record, _))| (reference.clone(), record.clone())).collect()
    }

    /// The answer to `event.from`; `None` while there is nothing new.
    pub(crate) fn events(&self, classes: &[String], token: &str) -> Option<Value> {
        let since: u64 = token.split(',').next().unwrap_or_default().parse().unwrap_or(0);
        let wanted = |class: &str| classes.iter().any(|wanted| wanted.eq_ignore_ascii_case(class));
        let mut events = Vec::new();
        for (class, objects) in self.objects.iter().filter(|(class, _)| wanted(class)) {
            for (reference, (record, generation)) in objects.iter().filter(|(_, (_, changed))| *changed > since) {
                let operation = if since == 0 { "add" } else { "mod" };
                events.push(json!({"id": generation.to_string(), "timestamp": "0.0", "class": class.to_lowercase(),
                    "operation": operation, "ref": reference, "snapshot": record}));
            }
        }
        if since > 0 {
            for (class, reference, generation) in
                self.deleted.iter().filter(|(class, _, at)| *at > since && wanted(class))
            {
                events.push(json!({"id": generation.to_string(), "timestamp": "0.0", "class": class.to_lowercase(),
                    "operation": "del", "ref": reference}));
            }
        }
        (!events.is_empty()).then(|| self.batch(events))
    }

    pub(crate) fn batch(&self, events: Vec<Value>) -> Value {
        let counts: Map<String, Value> =
            self.objects.iter().map(|(class, objects)| (class.to_lowercase(), json!(objects.len()))).collect();
        json!({"events": events, "valid_ref_counts": counts, "token": format!("{:020},{:020}", self.generation, 0)})
    }
}
