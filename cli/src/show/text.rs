//! Times, durations, sizes and names as people read them.

use coffer_model::ByteSize;
use coffer_proto::v1;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// An instant of the API; `None` when it is absent or out of range.
pub(crate) fn instant(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let time = time?;
    Timestamp::new(time.seconds, time.nanos).ok()
}

/// `2026-01-01 03:00:00` in a zone; `-` when absent.
pub(crate) fn time(time: Option<&prost_types::Timestamp>, zone: &TimeZone) -> String {
    instant(time).map_or_else(|| "-".to_owned(), |time| shown(time, zone))
}

pub(crate) fn shown(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `03:00:00`.
pub(crate) fn clock(time: Option<&prost_types::Timestamp>, zone: &TimeZone) -> String {
    instant(time).map_or_else(String::new, |time| time.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string())
}

/// `0.4 s`, `42 s`, `4 min 12 s`, `3 h 02 min`, `2 d 03 h`.
pub(crate) fn duration(duration: SignedDuration) -> String {
    let duration = duration.max(SignedDuration::ZERO);
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{}.{} s", seconds, duration.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {:02} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// How long something took, or has taken until `now` when it has not ended; `-` when it has not begun.
pub(crate) fn took(
    begin: Option<&prost_types::Timestamp>,
    end: Option<&prost_types::Timestamp>,
    now: Timestamp,
) -> String {
    match instant(begin) {
        Some(begin) => duration(instant(end).unwrap_or(now).duration_since(begin)),
        None => "-".to_owned(),
    }
}

/// `1.50 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// As [`size`]; `-` for 0, where that means "not known" or "none".
pub(crate) fn size_or_dash(bytes: u64) -> String {
    if bytes == 0 { "-".to_owned() } else { size(bytes) }
}

/// What was moved, in words, without what is zero: `1.50 GiB read, 8.50 GiB skipped, 310 MiB written`.
pub(crate) fn transfer(transfer: &v1::Transfer) -> String {
    let parts =
        [(transfer.read_bytes, "read"), (transfer.skipped_bytes, "skipped"), (transfer.written_bytes, "written")];
    let parts = parts.into_iter().filter(|(bytes, _)| *bytes > 0);
    parts.map(|(bytes, what)| format!("{} {what}", size(bytes))).collect::<Vec<_>>().join(", ")
}

/// The last part of a resource name: `lab` of `pools/lab`.
pub(crate) fn id(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Text, or `-` where there is none.
pub(crate) fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Text of others on one line of a terminal: no control characters, so that a name cannot move the cursor.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

pub(crate) use coffer_model::counted as count;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_exact_as_people_care() {
        for (millis, shown) in [
            (0, "0.0 s"),
            (440, "0.4 s"),
            (42_900, "42 s"),
            (252_000, "4 min 12 s"),
            (10_920_000, "3 h 02 min"),
            (183_600_000, "2 d 03 h"),
            (-5, "0.0 s"),
        ] {
            assert_eq!(duration(SignedDuration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn times_are_shown_in_the_readers_zone() {
        let stamp = prost_types::Timestamp { seconds: 1_767_225_600, nanos: 0 };
        assert_eq!(time(Some(&stamp), &TimeZone::UTC), "2026-01-01 00:00:00");
        assert_eq!(time(Some(&stamp), &TimeZone::get("Europe/Paris").unwrap()), "2026-01-01 01:00:00");
        assert_eq!(time(None, &TimeZone::UTC), "-");
    }

    #[test]
    fn names_of_others_cannot_move_the_cursor() {
        assert_eq!(plain("db\u{1b}[2J1\n"), "db [2J1 ");
    }
}
