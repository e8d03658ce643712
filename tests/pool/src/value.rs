//! The values that cross XAPI, whatever the encoding, and the failures. Never knows a class or a call.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

/// The null reference.
pub(crate) const NULL: &str = "OpaqueRef:NULL";

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Void,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Strings, enumerations and references.
    Str(String),
    Time(Timestamp),
    Set(Vec<Value>),
    /// Maps and records.
    Map(BTreeMap<String, Value>),
}

/// A record, or the fields of a row.
pub(crate) type Record = BTreeMap<String, Value>;

impl Value {
    pub(crate) fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    pub(crate) fn null() -> Self {
        Self::str(NULL)
    }

    /// A set of strings or references.
    pub(crate) fn set<S: Into<String>>(items: impl IntoIterator<Item = S>) -> Self {
        Self::Set(items.into_iter().map(Value::str).collect())
    }

    /// A map from strings to strings.
    pub(crate) fn map<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::Map(pairs.into_iter().map(|(k, v)| (k.into(), Value::str(v))).collect())
    }

    /// A byte count.
    pub(crate) fn bytes(count: u64) -> Self {
        Self::Int(i64::try_from(count).unwrap_or(i64::MAX))
    }

    pub(crate) fn now() -> Self {
        Self::Time(Timestamp::now())
    }

    /// The text, or nothing of another kind.
    pub(crate) fn as_str(&self) -> &str {
        if let Self::Str(text) = self { text } else { "" }
    }

    pub(crate) fn as_bool(&self) -> bool {
        matches!(self, Self::Bool(true))
    }

    pub(crate) fn as_int(&self) -> i64 {
        if let Self::Int(number) = self { *number } else { 0 }
    }

    /// A size in bytes; negative ones are none.
    pub(crate) fn as_bytes(&self) -> u64 {
        u64::try_from(self.as_int()).unwrap_or(0)
    }

    pub(crate) fn as_set(&self) -> &[Value] {
        if let Self::Set(items) = self { items } else { &[] }
    }

    /// The strings of a set.
    pub(crate) fn strings(&self) -> Vec<String> {
        self.as_set().iter().map(|v| v.as_str().to_owned()).collect()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        if let Self::Map(map) = self { map.get(key) } else { None }
    }

    pub(crate) fn as_map(&self) -> BTreeMap<String, Value> {
        if let Self::Map(map) = self { map.clone() } else { BTreeMap::new() }
    }

    /// As JSON-RPC shows it.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Self::Void => Json::String(String::new()),
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(i) => Json::from(*i),
            Self::Float(f) => Json::from(*f),
            Self::Str(s) => Json::String(s.clone()),
            Self::Time(t) => Json::String(format_time(*t)),
            Self::Set(items) => Json::Array(items.iter().map(Value::to_json).collect()),
            Self::Map(map) => Json::Object(map.iter().map(|(k, v)| (k.clone(), v.to_json())).collect()),
        }
    }
}

/// `20230305T18:18:29Z`.
pub(crate) fn format_time(time: Timestamp) -> String {
    time.strftime("%Y%m%dT%H:%M:%SZ").to_string()
}

/// The server's leniency: with or without `Z`, compact or extended ISO 8601.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let digits: String = text.chars().filter(char::is_ascii_digit).take(14).collect();
    if digits.len() != 14 || !text.contains('T') {
        return None;
    }
    let part = |range: std::ops::Range<usize>| digits.get(range).and_then(|d| d.parse::<i16>().ok());
    let small = |range| part(range).and_then(|n| i8::try_from(n).ok());
    let civil = jiff::civil::DateTime::new(
        part(0..4)?,
        small(4..6)?,
        small(6..8)?,
        small(8..10)?,
        small(10..12)?,
        small(12..14)?,
        0,
    )
    .ok()?;
    civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp())
}

/// What XAPI answers when it does not do as told: a code and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) params: Vec<String>,
}

/// The result of every call.
pub(crate) type Outcome<T = Value> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: &str, params: &[&str]) -> Self {
        Self { code: code.to_owned(), params: params.iter().map(|p| (*p).to_owned()).collect() }
    }

    pub(crate) fn internal(text: impl fmt::Display) -> Self {
        Self::new("INTERNAL_ERROR", &[&text.to_string()])
    }

    pub(crate) fn handle_invalid(class: &str, reference: &str) -> Self {
        Self::new("HANDLE_INVALID", &[class, reference])
    }

    pub(crate) fn session_invalid(reference: &str) -> Self {
        Self::new("SESSION_INVALID", &[reference])
    }

    /// Code and parameters in one list.
    pub(crate) fn list(&self) -> Vec<String> {
        std::iter::once(self.code.clone()).chain(self.params.iter().cloned()).collect()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.code, self.params.join(", "))
    }
}

impl From<pool_disks::XapiFailure> for Failure {
    fn from(failure: pool_disks::XapiFailure) -> Self {
        Self { code: failure.code, params: failure.params }
    }
}

impl From<pool_disks::Error> for Failure {
    fn from(error: pool_disks::Error) -> Self {
        error.xapi().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_shape_that_hosts_accept() {
        let expected = parse_time("20230305T18:18:29Z").unwrap();
        assert_eq!(format_time(expected), "20230305T18:18:29Z");
        for shape in ["20230305T18:18:29", "2023-03-05T18:18:29Z", "2023-03-05T18:18:29.000Z", "20230305T181829Z"] {
            assert_eq!(parse_time(shape), Some(expected), "{shape}");
        }
        for wrong in ["", "yesterday", "20230305", "20231305T18:18:29Z"] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }
}
