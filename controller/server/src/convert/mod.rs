//! Between records and messages. What comes in is bounded and checked here; what goes out never holds a secret.

pub(crate) mod place;
pub(crate) mod point;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod task;

use coffer_model::names::Named;
use jiff::Timestamp;

use crate::fault::Fault;

/// A point in time for the wire.
pub(crate) fn time_out(time: Timestamp) -> prost_types::Timestamp {
    let nanos = time.as_nanosecond();
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(i64::MAX);
    let nanos = i32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0);
    prost_types::Timestamp { seconds, nanos }
}

/// A point in time from the wire.
pub(crate) fn time_in(field: &str, time: prost_types::Timestamp) -> Result<Timestamp, Fault> {
    Timestamp::new(time.seconds, time.nanos).map_err(|_| Fault::invalid(field, "must be a point in time of this era"))
}

/// A duration for the wire.
pub(crate) fn duration_out(duration: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A duration from the wire, not negative.
pub(crate) fn duration_in(field: &str, duration: prost_types::Duration) -> Result<std::time::Duration, Fault> {
    let seconds = u64::try_from(duration.seconds);
    let nanos = u32::try_from(duration.nanos);
    match (seconds, nanos) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(std::time::Duration::new(seconds, nanos)),
        _ => Err(Fault::invalid(field, "must be a duration that is not negative")),
    }
}

/// A resource name from the wire.
pub(crate) fn name_in<T: Named>(field: &str, text: &str) -> Result<T, Fault> {
    T::from_name(text).map_err(|error| Fault::invalid(field, error.explain()))
}

/// An id from the wire.
pub(crate) fn id_in<T: std::str::FromStr<Err = coffer_model::IdError>>(field: &str, text: &str) -> Result<T, Fault> {
    text.parse().map_err(|error: coffer_model::IdError| Fault::invalid(field, error.to_string()))
}

/// A text of at most `most` characters; longer ones are refused.
pub(crate) fn text_in(field: &str, text: String, most: usize) -> Result<String, Fault> {
    if text.chars().count() > most {
        return Err(Fault::invalid(field, format!("must have at most {most} characters")));
    }
    Ok(text)
}

/// A text cut to at most `most` characters: for what agents say in words.
pub(crate) fn cut(text: String, most: usize) -> String {
    if text.chars().count() <= most { text } else { text.chars().take(most).chain(['…']).collect() }
}
