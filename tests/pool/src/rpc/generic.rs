//! The calls that every class has: getters, setters, look-ups.

use super::{Args, Cx, Param};
use crate::db::{Access, Class, Query, Schema, Type};
use crate::value::{Failure, Outcome, Value, format_time};

/// A call on a class or field, found by its name.
#[derive(Debug)]
pub(super) struct Generic {
    class: String,
    action: Action,
    pub(super) params: Vec<Param>,
}

#[derive(Debug)]
enum Action {
    All,
    AllRecords,
    Where,
    Record,
    ByUuid,
    ByName,
    Get(String),
    Set(String),
    AddTo(String),
    RemoveFrom(String),
    Add(String),
    Remove(String),
}

fn param(name: &str, kind: Type) -> Param {
    Param { name: name.to_owned(), kind, default: None }
}

/// Finds the call; `None` when no class has it.
pub(super) fn resolve(schema: &Schema, name: &str) -> Option<Generic> {
    let (class, operation) = name.split_once('.')?;
    let class = schema.class(class)?;
    let own = || param("self", Type::Ref(class.name.clone()));
    if !class.events && operation.starts_with("get_all") {
        return None;
    }
    let (action, params) = match operation {
        "get_all" => (Action::All, vec![]),
        "get_all_records" => (Action::AllRecords, vec![]),
        "get_all_records_where" => (Action::Where, vec![param("expr", Type::Str)]),
        "get_record" => (Action::Record, vec![own()]),
        "get_by_uuid" => (Action::ByUuid, vec![param("uuid", Type::Str)]),
        "get_by_name_label" if class.field("name_label").is_some() => (Action::ByName, vec![param("label", Type::Str)]),
        _ => field_action(class, operation, own)?,
    };
    Some(Generic { class: class.name.clone(), action, params })
}

fn field_action(class: &Class, operation: &str, own: impl Fn() -> Param) -> Option<(Action, Vec<Param>)> {
    if let Some(field) = operation.strip_prefix("get_").and_then(|f| class.field(f)) {
        return Some((Action::Get(field.name.clone()), vec![own()]));
    }
    let writable = |name: &str, access: &[Access]| class.field(name).filter(|f| access.contains(&f.access));
    if let Some(field) = operation.strip_prefix("set_").and_then(|f| writable(f, &[Access::Set, Access::Full])) {
        return Some((Action::Set(field.name.clone()), vec![own(), param("value", field.kind.clone())]));
    }
    let full = |prefix: &str| operation.strip_prefix(prefix).and_then(|f| writable(f, &[Access::Full]));
    if let Some(field) = full("add_to_")
        && let Type::Map(key, value) = &field.kind
    {
        let params = vec![own(), param("key", (**key).clone()), param("value", (**value).clone())];
        return Some((Action::AddTo(field.name.clone()), params));
    }
    if let Some(field) = full("remove_from_")
        && let Type::Map(key, _) = &field.kind
    {
        return Some((Action::RemoveFrom(field.name.clone()), vec![own(), param("key", (**key).clone())]));
    }
    if let Some(field) = full("add_")
        && let Type::Set(of) = &field.kind
    {
        return Some((Action::Add(field.name.clone()), vec![own(), param("value", (**of).clone())]));
    }
    if let Some(field) = full("remove_")
        && let Type::Set(of) = &field.kind
    {
        return Some((Action::Remove(field.name.clone()), vec![own(), param("value", (**of).clone())]));
    }
    None
}

/// Every generic call of every class.
pub(super) fn names(schema: &Schema) -> Vec<String> {
    let mut names = Vec::new();
    for class in schema.classes() {
        let mut add = |operation: String| names.push(format!("{}.{operation}", class.name));
        for look_up in ["get_all", "get_all_records", "get_all_records_where", "get_record", "get_by_uuid"] {
            if !class.events && look_up.starts_with("get_all") {
                continue;
            }
            add(look_up.to_owned());
        }
        if class.field("name_label").is_some() {
            add("get_by_name_label".to_owned());
        }
        for field in &class.fields {
            add(format!("get_{}", field.name));
            if field.access == Access::Read {
                continue;
            }
            add(format!("set_{}", field.name));
            match (&field.kind, field.access) {
                (Type::Map(..), Access::Full) => {
                    add(format!("add_to_{}", field.name));
                    add(format!("remove_from_{}", field.name));
                }
                (Type::Set(_), Access::Full) => {
                    add(format!("add_{}", field.name));
                    add(format!("remove_{}", field.name));
                }
                _ => {}
            }
        }
    }
    names
}

impl Generic {
    pub(super) fn run(&self, cx: &Cx, args: &Args) -> Outcome {
        let class = self.class.as_str();
        let own = args.text(0);
        match &self.action {
            Action::All => Ok(cx.world.read(|db| Value::set(db.references(class)))),
            Action::AllRecords => Ok(cx.world.read(|db| {
                Value::Map(db.rows(class).map(|(r, record)| (r.to_owned(), Value::Map(record.clone()))).collect())
            })),
            Action::Where => {
                let expression = args.text(0);
                let query = Query::parse(&expression)
                    .ok_or_else(|| Failure::internal(format!("Db_filter.Expression_error({expression})")))?;
                Ok(cx.world.read(|db| {
                    let rows = db.rows(class).filter(|(_, record)| query.matches(record));
                    Value::Map(rows.map(|(r, record)| (r.to_owned(), Value::Map(record.clone()))).collect())
                }))
            }
            Action::Record => cx.world.read(|db| Ok(Value::Map(db.record(class, &own)?.clone()))),
            Action::ByUuid => cx.world.read(|db| db.by_uuid(class, &own).map(Value::str)),
            Action::ByName => Ok(cx.world.read(|db| {
                let named = |(_, record): &(&str, &crate::value::Record)| {
                    record.get("name_label").is_some_and(|name| name.as_str() == own)
                };
                Value::set(db.rows(class).filter(named).map(|(r, _)| r))
            })),
            Action::Get(field) => cx.world.read(|db| db.field(class, &own, field).cloned()),
            Action::Set(field) => {
                cx.world.write(|db| db.set(class, &own, field, args.value(1)));
                Ok(Value::Void)
            }
            Action::AddTo(field) => cx.world.write(|db| {
                let key = key_text(&args.value(1));
                let mut map = db.field(class, &own, field)?.as_map();
                if map.contains_key(&key) {
                    return Err(Failure::new("MAP_DUPLICATE_KEY", &[class, field, &db.uuid(class, &own), &key]));
                }
                map.insert(key, args.value(2));
                db.set(class, &own, field, Value::Map(map));
                Ok(Value::Void)
            }),
            Action::RemoveFrom(field) => {
                cx.world.write(|db| db.take(class, &own, field, &key_text(&args.value(1))));
                Ok(Value::Void)
            }
            Action::Add(field) | Action::Remove(field) => cx.world.write(|db| {
                let mut members = db.field(class, &own, field)?.as_set().to_vec();
                members.retain(|member| *member != args.value(1));
                let is_there = members.len() < db.field(class, &own, field)?.as_set().len();
                match &self.action {
                    Action::Add(_) if is_there => return Ok(Value::Void),
                    Action::Add(_) => members.push(args.value(1)),
                    _ => {}
                }
                db.set(class, &own, field, Value::Set(members));
                Ok(Value::Void)
            }),
        }
    }
}

/// Keys of maps are text in every encoding.
fn key_text(key: &Value) -> String {
    match key {
        Value::Int(number) => number.to_string(),
        Value::Time(time) => format_time(*time),
        other => other.as_str().to_owned(),
    }
}
