//! When a job runs. Ticks are a function of the rule and of where one looks from, never of the current time: every
//! controller computes the same ticks, and a tick that was computed twice is the same tick.
//!
//! The rule is read in the wall-clock time of a zone, and that is turned into instants here, so that summer time does
//! what the API promises: a wall-clock time that is skipped becomes the first instant after the gap, one that comes
//! twice counts the first time only.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ids::ScheduleId;
use std::num::NonZeroU32;

/// How late a missed tick is made up for where the operator does not say.
pub const DEFAULT_CATCH_UP: Duration = Duration::from_secs(60 * 60);
/// Up to how many missed ticks are counted; more are "at least so many".
pub const MISSED_COUNTED: u32 = 1_000;
/// How many skipped or repeated wall-clock times one step looks past: more than any zone's change has minutes.
const LOOK_AHEAD: u32 = 3 * 24 * 60;

/// An instant at which a schedule fires; whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tick(pub Timestamp);

impl fmt::Display for Tick {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A rule and its zone are not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The rule cannot be read.
    #[error(
        "{rule:?} is not a cron rule: {reason}; expected five fields: minute hour day month weekday, as `0 2 * * *`"
    )]
    Rule {
        /// The rule, cut to 200 characters.
        rule: String,
        /// What is wrong.
        reason: String,
    },
    /// The rule never comes true.
    #[error("{rule:?} never fires, as no day matches it")]
    Never {
        /// The rule.
        rule: String,
    },
    /// The zone is not known.
    #[error("{zone:?} is not a time zone; expected an IANA name as Europe/Paris")]
    Zone {
        /// The zone, cut to 200 characters.
        zone: String,
    },
}

/// A rule in a time zone, compiled.
#[derive(Clone)]
pub struct Cron {
    rule: String,
    zone: TimeZone,
    zone_name: String,
    pattern: Box<croner::Cron>,
}

impl Cron {
    /// Reads a rule of five fields; an empty zone means UTC.
    ///
    /// # Errors
    /// [`CronError`], naming what is wrong.
    pub fn parse(rule: &str, zone: &str) -> Result<Self, CronError> {
        let shown = |text: &str| text.chars().take(200).collect::<String>();
        let invalid = |reason: String| CronError::Rule { rule: shown(rule), reason };
        let fields = rule.split_whitespace().count();
        if fields != 5 {
            return Err(invalid(format!("it has {fields} fields")));
        }
        let zone_name = if zone.is_empty() { "UTC" } else { zone };
        let zone = TimeZone::get(zone_name).map_err(|_| CronError::Zone { zone: shown(zone_name) })?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let pattern = parser.parse(rule).map_err(|error| invalid(error.to_string()))?;
        let cron = Self { rule: rule.to_owned(), zone, zone_name: zone_name.to_owned(), pattern: Box::new(pattern) };
        // A rule like `0 0 30 2 *` is well-formed and never true.
        match cron.next_tick(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err(CronError::Never { rule: shown(rule) }),
        }
    }

    /// The rule, as it was given.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The zone's IANA name.
    #[must_use]
    pub fn zone_name(&self) -> &str {
        &self.zone_name
    }

    /// The first tick after an instant; `None` when there is none until the end of the calendar.
    #[must_use]
    pub fn next_tick(&self, after: Timestamp) -> Option<Tick> {
        let mut wall = self.zone.to_datetime(after);
        for _ in 0..LOOK_AHEAD {
            wall = self.next_wall(wall)?;
            let instant = self.instant(wall)?;
            // Wall-clock times of a repeated hour lie before an instant in its second pass.
            if instant > after {
                return Some(Tick(instant));
            }
        }
        None
    }

    /// The newest tick in `(after, until]`.
    fn last_tick(&self, after: Timestamp, until: Timestamp) -> Option<Tick> {
        let within = |from| self.next_tick(from).filter(|tick| tick.0 <= until);
        let mut newest = within(after)?;
        // Between `newest` and `late` lie all that is unknown; none begins at or after `late`.
        let mut late = until;
        while newest.0.as_second() < late.as_second() {
            let middle = newest.0.as_second() + (late.as_second() - newest.0.as_second()) / 2;
            let middle = Timestamp::from_second(middle).ok()?;
            match within(middle) {
                Some(tick) => newest = tick,
                None => late = middle,
            }
        }
        Some(newest)
    }

    /// The next wall-clock time that matches, summer time aside.
    fn next_wall(&self, after: DateTime) -> Option<DateTime> {
        let flat = after.to_zoned(TimeZone::UTC).ok()?;
        Some(self.pattern.find_next_occurrence(&flat, false).ok()?.datetime())
    }

    /// The instant at which a wall-clock time counts.
    fn instant(&self, wall: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(wall).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wall).ok(),
            AmbiguousOffset::Gap { before, after } => {
                // Read with the later offset, a skipped time lies before the gap; with the earlier one, after it.
                let low = after.to_timestamp(wall).ok()?;
                let high = before.to_timestamp(wall).ok()?;
                let changes = self.zone.following(low).take_while(|change| change.timestamp() <= high);
                changes.filter(|change| change.offset() == after).map(|change| change.timestamp()).next()
            }
        }
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Cron({:?} in {})", self.rule, self.zone_name)
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.rule == other.rule && self.zone_name == other.zone_name
    }
}

impl Eq for Cron {}

impl FromStr for Cron {
    type Err = CronError;

    /// A rule in UTC.
    fn from_str(rule: &str) -> Result<Self, CronError> {
        Self::parse(rule, "UTC")
    }
}

/// When a job runs, and how many restore points of that rhythm are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Its id, within its job.
    pub id: ScheduleId,
    /// The rule.
    pub cron: Cron,
    /// How many restore points of each machine it keeps.
    pub retention: NonZeroU32,
    /// It does not fire.
    pub paused: bool,
    /// How late a missed tick is made up for.
    pub catch_up: Duration,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The tick to make a run of, if any: the newest, if it is not too old.
    pub fire: Option<Tick>,
    /// How many ticks are passed over; [`MISSED_COUNTED`] means at least so many.
    pub missed: u32,
    /// Where to look from next: the newest tick that has come, else where one looked from. Never earlier than that.
    pub cursor: Timestamp,
}

/// What a schedule owes at `now`, when everything up to `cursor` has been dealt with. A clock that went backwards owes
/// nothing.
#[must_use]
pub fn due(cron: &Cron, cursor: Timestamp, now: Timestamp, catch_up: Duration) -> Due {
    let Some(newest) = (cursor < now).then(|| cron.last_tick(cursor, now)).flatten() else {
        return Due { fire: None, missed: 0, cursor };
    };
    let late = now.duration_since(newest.0);
    let in_time = SignedDuration::try_from(catch_up).map_or(true, |limit| late <= limit);
    let mut missed = u32::from(!in_time);
    let mut at = cursor;
    while missed < MISSED_COUNTED {
        match cron.next_tick(at) {
            Some(tick) if tick < newest => at = tick.0,
            _ => break,
        }
        missed += 1;
    }
    Due { fire: in_time.then_some(newest), missed, cursor: newest.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn ticks(rule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = Cron::parse(rule, zone).unwrap();
        let mut at = time(after);
        let next = || {
            let tick = cron.next_tick(at)?;
            at = tick.0;
            Some(tick.to_string())
        };
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn rules_are_read_in_their_zone() {
        assert_eq!(
            ticks("0 2 * * *", "Europe/Paris", "2026-01-01T00:00:00Z", 2),
            ["2026-01-01T01:00:00Z", "2026-01-02T01:00:00Z"]
        );
        assert_eq!(ticks("0 2 * * *", "", "2026-01-01T02:00:00Z", 1), ["2026-01-02T02:00:00Z"]);
        assert_eq!(
            ticks("30 22 * * MON-FRI", "UTC", "2026-01-02T22:30:00Z", 2),
            ["2026-01-05T22:30:00Z", "2026-01-06T22:30:00Z"]
        );
        assert_eq!(
            ticks("0 0 L * *", "UTC", "2026-01-31T00:00:00Z", 2),
            ["2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"]
        );
        assert_eq!(ticks("0 3 * * SUN#1", "UTC", "2026-01-05T00:00:00Z", 1), ["2026-02-01T03:00:00Z"]);
        assert_eq!(
            ticks("*/20 9-10 1 1,7 *", "UTC", "2026-01-01T10:20:00Z", 2),
            ["2026-01-01T10:40:00Z", "2026-07-01T09:00:00Z"]
        );
    }

    #[test]
    fn a_time_that_summer_time_skips_fires_once_at_the_first_instant_after_it() {
        // Paris goes from 02:00 to 03:00 at 2026-03-29T01:00Z.
        assert_eq!(
            ticks("30 2 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            ticks("*/15 2 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]
        );
        // A tick of its own at the end of the gap is the same instant.
        assert_eq!(
            ticks("0,30 2,3 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", 3),
            ["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:00:00Z"]
        );
        // Apia had no 30th of December 2011.
        assert_eq!(
            ticks("0 12 30 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z", 2),
            ["2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"]
        );
        // Lord Howe moves by half an hour, from 02:00 to 02:30.
        assert_eq!(ticks("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 1), ["2026-10-03T15:30:00Z"]);
    }

    #[test]
    fn a_time_that_comes_twice_fires_the_first_time_only() {
        // Paris goes from 03:00 back to 02:00 at 2026-10-25T01:00Z.
        assert_eq!(
            ticks("30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            ticks("*/30 * * * *", "Europe/Paris", "2026-10-25T00:00:00Z", 3),
            ["2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z", "2026-10-25T02:30:00Z"]
        );
        // Looked at from within the second pass.
        assert_eq!(ticks("*/30 * * * *", "Europe/Paris", "2026-10-25T01:10:00Z", 1), ["2026-10-25T02:00:00Z"]);
    }

    #[test]
    fn what_is_no_rule_or_never_fires_is_refused_with_the_reason() {
        let check = |rule: &str, zone: &str| Cron::parse(rule, zone).unwrap_err().to_string();
        for rule in ["", "* * * *", "0 0 2 * * *", "61 * * * *", "0 2 * * XYZ", "@daily"] {
            assert!(check(rule, "UTC").contains("expected five fields"), "{}", check(rule, "UTC"));
        }
        assert!(check("0 0 30 2 *", "UTC").contains("never fires"));
        assert!(check("0 2 * * *", "Mars/Olympus").contains("\"Mars/Olympus\" is not a time zone"));
    }

    fn check_due(cursor: &str, now: &str, catch_up_minutes: u64) -> (Option<String>, u32, String) {
        let cron = Cron::parse("0 * * * *", "UTC").unwrap();
        let due = due(&cron, time(cursor), time(now), Duration::from_secs(60 * catch_up_minutes));
        (due.fire.map(|tick| tick.to_string()), due.missed, due.cursor.to_string())
    }

    #[test]
    fn the_newest_missed_tick_is_made_up_for_within_the_window_and_the_others_are_counted() {
        let fires = |tick: &str, missed, cursor: &str| (Some(tick.to_owned()), missed, cursor.to_owned());
        let nothing = |missed, cursor: &str| (None, missed, cursor.to_owned());
        let (two, six) = ("2026-01-01T02:00:00Z", "2026-01-01T06:00:00Z");
        assert_eq!(check_due(two, "2026-01-01T02:59:59Z", 60), nothing(0, two));
        assert_eq!(
            check_due(two, "2026-01-01T03:00:00Z", 60),
            fires("2026-01-01T03:00:00Z", 0, "2026-01-01T03:00:00Z")
        );
        assert_eq!(check_due(two, "2026-01-01T06:30:00Z", 60), fires(six, 3, six));
        assert_eq!(check_due(two, "2026-01-01T06:30:00Z", 10), nothing(4, six));
        // The clock went backwards.
        assert_eq!(check_due(six, "2026-01-01T02:30:00Z", 60), nothing(0, six));
        assert_eq!(check_due("2016-01-01T00:00:00Z", "2026-01-01T06:00:00Z", 0), fires(six, MISSED_COUNTED, six));
    }

    const ZONES: [&str; 8] = [
        "UTC",
        "Europe/Paris",
        "America/New_York",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Africa/Casablanca",
        "Asia/Kathmandu",
        "America/St_Johns",
    ];
    const RULES: [&str; 8] = [
        "0 2 * * *",
        "30 2 * * *",
        "*/7 1-3 * * *",
        "0 0 * * SUN",
        "15 */5 * * *",
        "59 23 L * *",
        "0 0 1 1 *",
        "* * * * *",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn ticks_do_not_depend_on_where_one_looks_from(
            zone in 0..ZONES.len(), rule in 0..RULES.len(), from in 1_000_000_000_i64..2_000_000_000, skip in 0_i64..200_000,
        ) {
            let cron = Cron::parse(RULES[rule], ZONES[zone]).unwrap();
            let (early, late) = (Timestamp::from_second(from).unwrap(), Timestamp::from_second(from + skip).unwrap());
            let tick = cron.next_tick(late).unwrap();
            prop_assert!(tick.0 > late);
            // Walking there step by step comes by the same tick (as far as steps are affordable).
            let mut at = early;
            for _ in 0..5_000 {
                let next = cron.next_tick(at).unwrap();
                prop_assert!(next.0 > at, "{next} is not after {at}");
                at = next.0;
                if at > late {
                    prop_assert_eq!(next, tick);
                    break;
                }
            }
            prop_assert_eq!(cron.last_tick(early, tick.0), Some(tick));
        }

        #[test]
        fn a_controller_that_asks_at_any_moments_fires_ascending_ticks_of_the_rule_and_none_twice(
            zone in 0..ZONES.len(), rule in 0..RULES.len(), from in 1_000_000_000_i64..2_000_000_000,
            steps in prop::collection::vec(-20_000_i64..100_000, 1..20),
        ) {
            let cron = Cron::parse(RULES[rule], ZONES[zone]).unwrap();
            let mut cursor = Timestamp::from_second(from).unwrap();
            let mut clock = from;
            let mut fired = Vec::new();
            for step in steps {
                clock += step;
                let now = Timestamp::from_second(clock).unwrap();
                let due = due(&cron, cursor, now, Duration::from_secs(3600));
                prop_assert!(due.cursor >= cursor);
                if let Some(tick) = due.fire {
                    prop_assert!(tick.0 > cursor && tick.0 <= now && due.cursor == tick.0);
                    let before = tick.0 - SignedDuration::from_secs(1);
                    prop_assert_eq!(cron.next_tick(before), Some(tick));
                    fired.push(tick);
                }
                cursor = due.cursor;
            }
            prop_assert!(fired.is_sorted_by(|a, b| a < b));
        }
    }
}
