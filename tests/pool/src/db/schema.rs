//! Classes, fields and their types, read from `schema.txt`. Pure; decides what a value of a type may look like.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value as Json;

use crate::config::Profile;
use crate::value::{NULL, Value, parse_time};

/// Type of a field or parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Type {
    Str,
    Int,
    Float,
    Bool,
    Time,
    Ref(String),
    Set(Box<Type>),
    Map(Box<Type>, Box<Type>),
    /// A struct of a class, for constructors.
    Rec(String),
}

/// Who may change a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Set,
    Full,
}

/// One field of a class.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: Type,
    pub(crate) access: Access,
    pub(crate) default: Value,
    /// Class and field of the set that mirrors this reference.
    pub(crate) mirror: Option<(String, String)>,
}

/// One class.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub(crate) name: String,
    /// Whether changes are events.
    pub(crate) events: bool,
    pub(crate) fields: Vec<Field>,
}

impl Class {
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.name == name)
    }
}

/// All classes of a profile.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    classes: BTreeMap<String, Class>,
}

impl Schema {
    pub(crate) fn new(profile: Profile) -> Self {
        let text = include_str!("schema.txt");
        let mut classes: BTreeMap<String, Class> = BTreeMap::new();
        let mut present: Option<String> = None;
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let newer = line.split_whitespace().last() == Some("8.3");
            let words: Vec<&str> = line.split_whitespace().filter(|w| *w != "8.3").collect();
            if words.first() == Some(&"class") {
                let name = words.get(1).expect("schema.txt names its classes").to_string();
                present = (!newer || profile == Profile::V8_3).then(|| name.clone());
                if let Some(name) = &present {
                    let events = !words.contains(&"silent");
                    classes.insert(name.clone(), Class { name: name.clone(), events, fields: Vec::new() });
                }
            } else if let Some(class) = present.as_ref().and_then(|name| classes.get_mut(name))
                && (!newer || profile == Profile::V8_3)
            {
                class.fields.extend(parse_fields(line, &words));
            }
        }
        Self { classes }
    }

    pub(crate) fn class(&self, name: &str) -> Option<&Class> {
        self.classes.get(name)
    }

    pub(crate) fn classes(&self) -> impl Iterator<Item = &Class> {
        self.classes.values()
    }
}

fn parse_fields(line: &str, words: &[&str]) -> Vec<Field> {
    let (names, kind, access) = match words {
        [names, kind, access, ..] => (*names, parse_type(kind), *access),
        _ => unreachable!("schema.txt has a line without three words: {line}"),
    };
    let access = match access {
        "rw" => Access::Full,
        "set" => Access::Set,
        _ => Access::Read,
    };
    let written = words.iter().find_map(|w| w.strip_prefix('='));
    let mirror = words.iter().position(|w| *w == "->").and_then(|at| words.get(at + 1)?.split_once('.'));
    names
        .split(',')
        .map(|name| Field {
            name: name.to_owned(),
            default: written.and_then(|text| kind.decode(&Json::from(text))).unwrap_or_else(|| kind.empty()),
            kind: kind.clone(),
            access,
            mirror: mirror.map(|(class, field)| (class.to_owned(), field.to_owned())),
        })
        .collect()
}

/// `string`, `ref(VM)`, `set`, `set(ref(VDI))`, `map`, `map(int,float)`, `rec(VM)`.
pub(crate) fn parse_type(text: &str) -> Type {
    let inner = text.split_once('(').and_then(|(head, rest)| Some((head, rest.strip_suffix(')')?)));
    match (text, inner) {
        ("string", _) => Type::Str,
        ("int", _) => Type::Int,
        ("float", _) => Type::Float,
        ("bool", _) => Type::Bool,
        ("time", _) => Type::Time,
        ("set", _) => Type::Set(Box::new(Type::Str)),
        ("map", _) => Type::Map(Box::new(Type::Str), Box::new(Type::Str)),
        (_, Some(("ref", class))) => Type::Ref(class.to_owned()),
        (_, Some(("rec", class))) => Type::Rec(class.to_owned()),
        (_, Some(("set", of))) => Type::Set(Box::new(parse_type(of))),
        (_, Some(("map", of))) => {
            let (key, value) = of.rsplit_once(',').expect("maps name two types");
            Type::Map(Box::new(parse_type(key)), Box::new(parse_type(value)))
        }
        _ => unreachable!("unknown type {text} in a table of this crate"),
    }
}

impl Type {
    /// What a field holds when nobody set it.
    pub(crate) fn empty(&self) -> Value {
        match self {
            Self::Str => Value::str(""),
            Self::Int => Value::Int(0),
            Self::Float => Value::Float(0.0),
            Self::Bool => Value::Bool(false),
            Self::Time => Value::Time(Timestamp::UNIX_EPOCH),
            Self::Ref(_) => Value::null(),
            Self::Set(_) => Value::Set(Vec::new()),
            Self::Map(..) | Self::Rec(_) => Value::Map(BTreeMap::new()),
        }
    }

    /// Reads a parameter or a saved value, with the leniency of the server; `None` is a type error. Records of a
    /// class are read by [`decode_record`].
    pub(crate) fn decode(&self, json: &Json) -> Option<Value> {
        match (self, json) {
            (Self::Str, Json::String(s)) => Some(Value::str(s.clone())),
            (Self::Ref(_), Json::String(s)) => Some(Value::str(if s.is_empty() { NULL } else { s })),
            (Self::Int, Json::Number(n)) => n.as_i64().map(Value::Int),
            (Self::Int, Json::String(s)) => s.trim().parse().ok().map(Value::Int),
            (Self::Float, Json::Number(n)) => n.as_f64().map(Value::Float),
            (Self::Float, Json::String(s)) => s.trim().parse().ok().map(Value::Float),
            (Self::Bool, Json::Bool(b)) => Some(Value::Bool(*b)),
            (Self::Bool, Json::String(s)) => match s.to_ascii_lowercase().as_str() {
                "true" => Some(Value::Bool(true)),
                "false" => Some(Value::Bool(false)),
                _ => None,
            },
            (Self::Time, Json::String(s)) => parse_time(s).map(Value::Time),
            (Self::Set(of), Json::Array(items)) => {
                items.iter().map(|item| of.decode(item)).collect::<Option<_>>().map(Value::Set)
            }
            (Self::Map(_, of), Json::Object(map)) => {
                map.iter().map(|(k, v)| Some((k.clone(), of.decode(v)?))).collect::<Option<_>>().map(Value::Map)
            }
            _ => None,
        }
    }
}

/// Reads a struct of a class: unknown keys are ignored; the name of a field with a wrong type is the error.
pub(crate) fn decode_record(class: &Class, json: &Json) -> Result<Value, String> {
    let Json::Object(map) = json else { return Err(class.name.clone()) };
    let mut record = BTreeMap::new();
    for (name, given) in map {
        if let Some(field) = class.field(name) {
            record.insert(name.clone(), field.kind.decode(given).ok_or_else(|| name.clone())?);
        }
    }
    Ok(Value::Map(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mirror_is_a_set_of_references_to_the_class_that_names_it() {
        for profile in [Profile::V8_2, Profile::V8_3] {
            let schema = Schema::new(profile);
            for class in schema.classes() {
                for field in &class.fields {
                    let Some((target, set)) = &field.mirror else { continue };
                    assert_eq!(field.kind, Type::Ref(target.clone()), "{}.{}", class.name, field.name);
                    let mirrored = schema.class(target).and_then(|c| c.field(set)).map(|f| f.kind.clone());
                    assert_eq!(mirrored, Some(Type::Set(Box::new(Type::Ref(class.name.clone())))));
                }
            }
        }
    }

    #[test]
    fn the_older_profile_lacks_what_came_later() {
        let (old, new) = (Schema::new(Profile::V8_2), Schema::new(Profile::V8_3));
        assert!(old.class("VTPM").is_none() && new.class("VTPM").is_some());
        let has = |schema: &Schema, class: &str, field: &str| schema.class(class).unwrap().field(field).is_some();
        assert!(!has(&old, "Certificate", "fingerprint_sha256") && has(&new, "Certificate", "fingerprint_sha256"));
        assert!(has(&old, "VM", "NVRAM"));
    }

    #[test]
    fn numbers_may_come_as_text_and_text_may_not_come_as_numbers() {
        assert_eq!(Type::Int.decode(&Json::from("42")), Some(Value::Int(42)));
        assert_eq!(Type::Int.decode(&Json::from(42)), Some(Value::Int(42)));
        assert_eq!(Type::Float.decode(&Json::from(60)), Some(Value::Float(60.0)));
        assert_eq!(Type::Str.decode(&Json::from(42)), None);
        assert_eq!(Type::Bool.decode(&Json::from("maybe")), None);
    }
}
