//! Answers as JSON, for programs: every field of the API's messages under its name in the protos, present even when it
//! is empty, so that a program never has to ask whether it is there. Times are RFC 3339 in UTC, durations seconds,
//! enums their names, all numbers numbers. Passwords, which no answer holds, have no field.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};
use serde_json::{Map, Number, Value as Json};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(coffer_proto::FILE_DESCRIPTOR_SET).expect("the descriptors are compiled in and complete")
});

/// A message of the API as JSON. `kind` is its name in the protos, as `Pool`.
pub(crate) fn message(kind: &str, message: &impl Message) -> Json {
    let bytes = message.encode_to_vec();
    let descriptor = POOL.get_message_by_name(&format!("coffer.v1.{kind}"));
    let dynamic = descriptor.and_then(|descriptor| DynamicMessage::decode(descriptor, bytes.as_slice()).ok());
    dynamic.map_or(Json::Null, |dynamic| object(&dynamic))
}

/// Messages of one kind as a JSON array.
pub(crate) fn messages(kind: &str, all: &[impl Message]) -> Json {
    Json::Array(all.iter().map(|one| message(kind, one)).collect())
}

fn object(message: &DynamicMessage) -> Json {
    match message.descriptor().full_name() {
        "google.protobuf.Timestamp" => return timestamp(message),
        "google.protobuf.Duration" => return seconds(message),
        _ => {}
    }
    let shown = |field: &FieldDescriptor| {
        let is_absent = field.supports_presence() && !message.has_field(field);
        field.name() != "password" && !(is_absent && field.containing_oneof().is_some())
    };
    let fields = message.descriptor();
    let fields = fields.fields().filter(shown).map(|field| {
        let json = if field.supports_presence() && !message.has_field(&field) {
            Json::Null
        } else {
            value(&message.get_field(&field), &field.kind())
        };
        (field.name().to_owned(), json)
    });
    Json::Object(fields.collect::<Map<_, _>>())
}

fn value(value: &Value, kind: &Kind) -> Json {
    match value {
        Value::Bool(value) => Json::Bool(*value),
        Value::I32(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::U64(value) => (*value).into(),
        Value::F32(value) => Number::from_f64(f64::from(*value)).map_or(Json::Null, Json::Number),
        Value::F64(value) => Number::from_f64(*value).map_or(Json::Null, Json::Number),
        Value::String(value) => Json::String(value.clone()),
        Value::Bytes(value) => Json::Array(value.iter().map(|byte| (*byte).into()).collect()),
        Value::EnumNumber(number) => {
            let name = kind.as_enum().and_then(|kind| kind.get_value(*number)).map(|value| value.name().to_owned());
            name.map_or_else(|| (*number).into(), Json::String)
        }
        Value::Message(message) => object(message),
        Value::List(items) => Json::Array(items.iter().map(|item| self::value(item, kind)).collect()),
        Value::Map(entries) => {
            let kind = kind.as_message().and_then(|entry| entry.get_field_by_name("value")).map(|field| field.kind());
            let entry = |(key, item): (&MapKey, &Value)| {
                let item = kind.as_ref().map_or(Json::Null, |kind| self::value(item, kind));
                (key_text(key), item)
            };
            Json::Object(entries.iter().map(entry).collect())
        }
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn parts(message: &DynamicMessage) -> (i64, i32) {
    let number = |name| message.get_field_by_name(name);
    let seconds = number("seconds").and_then(|value| value.as_i64()).unwrap_or(0);
    (seconds, number("nanos").and_then(|value| value.as_i32()).unwrap_or(0))
}

fn timestamp(message: &DynamicMessage) -> Json {
    let (seconds, nanos) = parts(message);
    jiff::Timestamp::new(seconds, nanos).map_or(Json::Null, |time| Json::String(time.to_string()))
}

fn seconds(message: &DynamicMessage) -> Json {
    let (seconds, nanos) = parts(message);
    if nanos == 0 {
        return seconds.into();
    }
    let duration = jiff::SignedDuration::new(seconds, nanos);
    Number::from_f64(duration.as_secs_f64()).map_or(Json::Null, Json::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_proto::v1;

    #[test]
    fn every_field_is_there_under_its_name_in_the_protos_and_no_password() {
        let pool = v1::Pool {
            name: "pools/lab".to_owned(),
            hosts: vec!["xcp1".to_owned()],
            password: "correct horse".to_owned(),
            state: v1::pool::State::Connected.into(),
            state_time: Some(prost_types::Timestamp { seconds: 1_767_225_600, nanos: 0 }),
            vm_count: 3,
            ..Default::default()
        };
        let json = message("Pool", &pool);
        assert_eq!(json["name"], "pools/lab");
        assert_eq!(json["hosts"], serde_json::json!(["xcp1"]));
        assert_eq!(json["state"], "CONNECTED");
        assert_eq!(json["state_time"], "2026-01-01T00:00:00Z");
        assert_eq!((json["vm_count"].clone(), json["username"].clone()), (3.into(), "".into()));
        assert!(json.get("password").is_none());
        assert_eq!(json.as_object().unwrap().len(), 16);
    }

    #[test]
    fn large_numbers_are_numbers_and_what_is_absent_is_null() {
        let remote = v1::Remote {
            location: Some(v1::remote::Location::Local(v1::LocalLocation { path: "/backups".to_owned() })),
            size_bytes: 1 << 52,
            ..Default::default()
        };
        let json = message("Remote", &remote);
        assert_eq!(json["size_bytes"], 1_u64 << 52);
        assert_eq!(json["local"]["path"], "/backups");
        assert_eq!(json["state_time"], Json::Null);
        let schedule = v1::Schedule {
            catch_up_window: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(message("Schedule", &schedule)["catch_up_window"], 3600);
    }
}
