//! The pool's database: rows, both directions of every relation, the generation counter, remembered deletions.
//!
//! Owns what every record holds and when it changed. Never decides whether a change is allowed, and never waits.

mod query;
mod schema;

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value as Json;
use uuid::Uuid;

pub(crate) use query::Query;
pub(crate) use schema::{Access, Class, Schema, Type, decode_record, parse_type};

use crate::value::{Failure, NULL, Outcome, Record, Value};

/// Deletions remembered for each table; older ones are lost to slow listeners.
const REMEMBERED_DELETIONS: usize = 512;

/// One object.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) record: Record,
    /// Generation that made it.
    pub(crate) created: u64,
    /// Generation that changed it last.
    pub(crate) changed: u64,
}

/// An object that is gone.
#[derive(Clone, Debug)]
pub(crate) struct Deleted {
    pub(crate) reference: String,
    pub(crate) created: u64,
    pub(crate) deleted: u64,
}

/// The objects of one class.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: BTreeMap<String, Row>,
    pub(crate) deleted: VecDeque<Deleted>,
}

/// All objects.
#[derive(Clone, Debug)]
pub(crate) struct Db {
    schema: Schema,
    tables: BTreeMap<String, Table>,
    generation: u64,
    /// Messages are counted apart.
    messages: u64,
}

impl Db {
    pub(crate) fn new(schema: Schema) -> Self {
        let tables = schema.classes().map(|c| (c.name.clone(), Table::default())).collect();
        Self { schema, tables, generation: 1, messages: 1 }
    }

    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Database generation and message generation.
    pub(crate) fn generations(&self) -> (u64, u64) {
        (self.generation, self.messages)
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = (&str, &Table)> {
        self.tables.iter().map(|(name, table)| (name.as_str(), table))
    }

    fn next(&mut self, class: &str) -> u64 {
        let counter = if class == "message" { &mut self.messages } else { &mut self.generation };
        *counter += 1;
        *counter
    }

    fn table(&self, class: &str) -> Option<&Table> {
        self.tables.get(class)
    }

    /// References of a class.
    pub(crate) fn references(&self, class: &str) -> Vec<String> {
        self.table(class).map(|t| t.rows.keys().cloned().collect()).unwrap_or_default()
    }

    /// Every object of a class.
    pub(crate) fn rows(&self, class: &str) -> impl Iterator<Item = (&str, &Record)> {
        self.table(class).into_iter().flat_map(|t| &t.rows).map(|(reference, row)| (reference.as_str(), &row.record))
    }

    pub(crate) fn exists(&self, class: &str, reference: &str) -> bool {
        self.table(class).is_some_and(|t| t.rows.contains_key(reference))
    }

    /// One record.
    pub(crate) fn record(&self, class: &str, reference: &str) -> Outcome<&Record> {
        self.table(class)
            .and_then(|t| t.rows.get(reference))
            .map(|row| &row.record)
            .ok_or_else(|| Failure::handle_invalid(class, reference))
    }

    /// One field.
    pub(crate) fn field(&self, class: &str, reference: &str, field: &str) -> Outcome<&Value> {
        self.record(class, reference)?
            .get(field)
            .ok_or_else(|| Failure::internal(format!("Db_exn.DBCache_NotFound({class}.{field})")))
    }

    /// One text or reference; empty when the object or the field does not exist.
    pub(crate) fn text(&self, class: &str, reference: &str, field: &str) -> String {
        self.field(class, reference, field).map(|v| v.as_str().to_owned()).unwrap_or_default()
    }

    pub(crate) fn flag(&self, class: &str, reference: &str, field: &str) -> bool {
        self.field(class, reference, field).is_ok_and(Value::as_bool)
    }

    pub(crate) fn int(&self, class: &str, reference: &str, field: &str) -> i64 {
        self.field(class, reference, field).map_or(0, Value::as_int)
    }

    /// The members of a set of texts or references.
    pub(crate) fn list(&self, class: &str, reference: &str, field: &str) -> Vec<String> {
        self.field(class, reference, field).map(Value::strings).unwrap_or_default()
    }

    /// A value of a map of texts.
    pub(crate) fn entry(&self, class: &str, reference: &str, field: &str, key: &str) -> Option<String> {
        self.field(class, reference, field).ok()?.get(key).map(|v| v.as_str().to_owned())
    }

    pub(crate) fn uuid(&self, class: &str, reference: &str) -> String {
        self.text(class, reference, "uuid")
    }

    /// The object with this UUID.
    pub(crate) fn by_uuid(&self, class: &str, uuid: &str) -> Outcome<String> {
        self.rows(class)
            .find(|(_, record)| record.get("uuid").is_some_and(|v| v.as_str().eq_ignore_ascii_case(uuid)))
            .map(|(reference, _)| reference.to_owned())
            .ok_or_else(|| Failure::new("UUID_INVALID", &[class, uuid]))
    }

    /// Makes an object: unset fields get their defaults, `uuid` a fresh one. Returns its reference.
    pub(crate) fn create(&mut self, class: &str, given: Record) -> String {
        let reference = format!("OpaqueRef:{}", Uuid::new_v4());
        self.create_as(class, &reference, given);
        reference
    }

    /// As [`create`](Self::create), with a reference that is known already.
    pub(crate) fn create_as(&mut self, class: &str, reference: &str, given: Record) {
        let mut record: Record = BTreeMap::new();
        let mut links = Vec::new();
        let Some(definition) = self.schema.class(class) else { return };
        for field in &definition.fields {
            let value = given.get(&field.name).cloned();
            if field.name == "uuid" {
                let value = value.filter(|v| !v.as_str().is_empty());
                record.insert("uuid".to_owned(), value.unwrap_or_else(|| Value::str(Uuid::new_v4().to_string())));
                continue;
            }
            let value = value.unwrap_or_else(|| field.default.clone());
            if let Some(mirror) = &field.mirror {
                links.push((mirror.clone(), value.as_str().to_owned()));
            }
            record.insert(field.name.clone(), value);
        }
        let generation = self.next(class);
        if let Some(table) = self.tables.get_mut(class) {
            table.rows.insert(reference.to_owned(), Row { record, created: generation, changed: generation });
        }
        for ((target, set), other) in links {
            self.link(&target, &set, &other, reference, true);
        }
    }

    /// Sets a field; a change is an event. Setting an object that is gone does nothing.
    pub(crate) fn set(&mut self, class: &str, reference: &str, field: &str, value: Value) {
        let mirror = self.schema.class(class).and_then(|c| c.field(field)).and_then(|f| f.mirror.clone());
        let Some(row) = self.tables.get_mut(class).and_then(|t| t.rows.get_mut(reference)) else { return };
        let Some(slot) = row.record.get_mut(field) else { return };
        if *slot == value {
            return;
        }
        let before = std::mem::replace(slot, value.clone());
        self.touch(class, reference);
        if let Some((target, set)) = mirror {
            self.link(&target, &set, before.as_str(), reference, false);
            self.link(&target, &set, value.as_str(), reference, true);
        }
    }

    /// Counts the object as changed; returns the generation before.
    pub(crate) fn touch(&mut self, class: &str, reference: &str) -> u64 {
        let generation = self.next(class);
        if let Some(row) = self.tables.get_mut(class).and_then(|t| t.rows.get_mut(reference)) {
            row.changed = generation;
        }
        generation - 1
    }

    /// Puts a value into a map field.
    pub(crate) fn put(&mut self, class: &str, reference: &str, field: &str, key: &str, value: impl Into<String>) {
        let mut map = self.field(class, reference, field).map(Value::as_map).unwrap_or_default();
        map.insert(key.to_owned(), Value::Str(value.into()));
        self.set(class, reference, field, Value::Map(map));
    }

    /// Takes a key out of a map field.
    pub(crate) fn take(&mut self, class: &str, reference: &str, field: &str, key: &str) {
        let mut map = self.field(class, reference, field).map(Value::as_map).unwrap_or_default();
        if map.remove(key).is_some() {
            self.set(class, reference, field, Value::Map(map));
        }
    }

    fn link(&mut self, class: &str, set: &str, target: &str, member: &str, add: bool) {
        if target == NULL || !self.exists(class, target) {
            return;
        }
        let mut members = self.list(class, target, set);
        members.retain(|m| m != member);
        if add {
            members.push(member.to_owned());
        }
        self.set(class, target, set, Value::set(members));
    }

    /// Deletes an object and every reference that a mirrored field of another object holds on it.
    pub(crate) fn delete(&mut self, class: &str, reference: &str) {
        let Some(row) = self.tables.get_mut(class).and_then(|t| t.rows.remove(reference)) else { return };
        let generation = self.next(class);
        if let Some(table) = self.tables.get_mut(class) {
            let gone = Deleted { reference: reference.to_owned(), created: row.created, deleted: generation };
            table.deleted.push_back(gone);
            if table.deleted.len() > REMEMBERED_DELETIONS {
                table.deleted.drain(..REMEMBERED_DELETIONS / 2);
            }
        }
        for (target, set, other) in self.mirrors(class, &row.record) {
            self.link(&target, &set, &other, reference, false);
        }
        for (holder, field, member) in self.holders(class, &row.record) {
            self.set(&holder, &member, &field, Value::null());
        }
    }

    /// Sets of other objects in which an object is listed.
    fn mirrors(&self, class: &str, record: &Record) -> Vec<(String, String, String)> {
        let fields = self.schema.class(class).map(|c| c.fields.as_slice()).unwrap_or_default();
        fields
            .iter()
            .filter_map(|f| {
                let (target, set) = f.mirror.clone()?;
                Some((target, set, record.get(&f.name)?.as_str().to_owned()))
            })
            .collect()
    }

    /// Objects that refer to this one by a mirrored field: class, field, reference.
    fn holders(&self, class: &str, record: &Record) -> Vec<(String, String, String)> {
        let mut found = Vec::new();
        for other in self.schema.classes() {
            for field in &other.fields {
                if let Some((target, set)) = &field.mirror
                    && target == class
                    && let Some(members) = record.get(set)
                {
                    found.extend(members.strings().into_iter().map(|m| (other.name.clone(), field.name.clone(), m)));
                }
            }
        }
        found
    }

    /// Everything that outlives a restart.
    pub(crate) fn to_json(&self) -> Json {
        let tables: serde_json::Map<String, Json> = self
            .tables
            .iter()
            .filter(|(class, _)| *class != "session")
            .map(|(class, table)| {
                let rows = table.rows.iter().map(|(r, row)| (r.clone(), Value::Map(row.record.clone()).to_json()));
                (class.clone(), Json::Object(rows.collect()))
            })
            .collect();
        serde_json::json!({ "generation": self.generation, "messages": self.messages, "tables": tables })
    }

    /// Reads what [`to_json`](Self::to_json) wrote; fields of another profile are dropped or get their defaults.
    pub(crate) fn from_json(schema: Schema, saved: &Json) -> Self {
        let mut db = Self::new(schema);
        db.generation = saved["generation"].as_u64().unwrap_or(1);
        db.messages = saved["messages"].as_u64().unwrap_or(1);
        let classes: Vec<Class> = db.schema.classes().cloned().collect();
        for class in classes {
            let Some(rows) = saved["tables"][&class.name].as_object() else { continue };
            for (reference, fields) in rows {
                let record = class
                    .fields
                    .iter()
                    .map(|f| (f.name.clone(), f.kind.decode(&fields[&f.name]).unwrap_or_else(|| f.default.clone())))
                    .collect();
                let generation = db.next(&class.name);
                if let Some(table) = db.tables.get_mut(&class.name) {
                    table.rows.insert(reference.clone(), Row { record, created: generation, changed: generation });
                }
            }
        }
        db
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Profile;

    fn db() -> Db {
        Db::new(Schema::new(Profile::V8_3))
    }

    fn vbd(vm: &str, vdi: &str) -> Record {
        Record::from([("VM".to_owned(), Value::str(vm)), ("VDI".to_owned(), Value::str(vdi))])
    }

    #[test]
    fn both_directions_of_a_relation_agree_after_create_set_and_delete() {
        let mut db = db();
        let (vm, one, two) =
            (db.create("VM", Record::new()), db.create("VDI", Record::new()), db.create("VDI", Record::new()));
        let vbd = db.create("VBD", vbd(&vm, &one));
        assert_eq!(db.list("VM", &vm, "VBDs"), std::slice::from_ref(&vbd));
        assert_eq!(db.list("VDI", &one, "VBDs"), std::slice::from_ref(&vbd));
        db.set("VBD", &vbd, "VDI", Value::str(two.clone()));
        assert!(db.list("VDI", &one, "VBDs").is_empty());
        assert_eq!(db.list("VDI", &two, "VBDs"), std::slice::from_ref(&vbd));
        db.delete("VDI", &two);
        assert_eq!(db.text("VBD", &vbd, "VDI"), NULL);
        db.delete("VBD", &vbd);
        assert!(db.list("VM", &vm, "VBDs").is_empty());
    }

    #[test]
    fn setting_what_is_there_already_is_no_change() {
        let mut db = db();
        let vm = db.create("VM", Record::new());
        let before = db.generations();
        db.set("VM", &vm, "name_label", Value::str(""));
        assert_eq!(db.generations(), before);
    }

    #[test]
    fn a_saved_database_reads_back_with_its_types() {
        let mut db = db();
        let vm = db.create("VM", Record::from([("HVM_shadow_multiplier".to_owned(), Value::Float(2.0))]));
        db.put("VM", &vm, "other_config", "mac_seed", "x");
        let back = Db::from_json(Schema::new(Profile::V8_3), &db.to_json());
        assert_eq!(back.record("VM", &vm).unwrap(), db.record("VM", &vm).unwrap());
    }

    #[test]
    fn only_so_many_deletions_are_remembered() {
        let mut db = db();
        for _ in 0..2000 {
            let task = db.create("task", Record::new());
            db.delete("task", &task);
        }
        let remembered = db.tables["task"].deleted.len();
        assert!((256..=512).contains(&remembered), "{remembered}");
    }
}
