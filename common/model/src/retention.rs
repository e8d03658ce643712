//! Which restore points are kept.
//!
//! Each rhythm (a schedule of a job, or a job's runs by hand) keeps its newest points of each machine on each remote,
//! by count. Whatever the counts say: the last good point of a machine on a remote stays, a pinned point stays, a point
//! of a rhythm that is not known (a deleted job or schedule, another installation) stays, and a clock that cannot be
//! right deletes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{JobId, RemoteId, RestorePointId, ScheduleId, VmUuid};

/// The rhythm that a restore point belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Label {
    /// The job that made it.
    pub job: JobId,
    /// The schedule that made it; `None`: started by hand.
    pub schedule: Option<ScheduleId>,
}

impl fmt::Display for Label {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schedule {
            Some(schedule) => write!(formatter, "schedule {schedule} of job {}", self.job),
            None => write!(formatter, "runs of job {} by hand", self.job),
        }
    }
}

/// What retention has to know of a complete restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its id; says the remote.
    pub id: RestorePointId,
    /// The machine.
    pub vm: VmUuid,
    /// The instant of its snapshot.
    pub time: Timestamp,
    /// The rhythm; `None`: not known.
    pub label: Option<Label>,
    /// Somebody or something needs it: it stays.
    pub pinned: bool,
    /// A verification found it wrong: it counts for nothing.
    pub damaged: bool,
}

/// How many points each rhythm keeps, per machine and remote. A rhythm that is not in it keeps all.
pub type Policy = BTreeMap<Label, NonZeroU32>;

/// Keep or delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It goes.
    Delete,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Its place among the good points of its rhythm, from 1 for the newest, is within the count.
    Within {
        /// The rhythm.
        label: Label,
        /// Its place.
        place: u32,
        /// The count.
        count: NonZeroU32,
    },
    /// There are enough newer good points of its rhythm.
    Beyond {
        /// The rhythm.
        label: Label,
        /// The count.
        count: NonZeroU32,
    },
    /// It is the newest good point of its machine on its remote.
    Newest,
    /// Its machine has no good point on its remote: even a damaged one may be better than nothing.
    NoGoodPoint,
    /// It is pinned.
    Pinned,
    /// Its rhythm is not known.
    UnknownRhythm,
    /// The clock shows a time before the newest point was made.
    ClockSuspect,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within { label, place, count } => write!(formatter, "number {place} of {count} kept by {label}"),
            Self::Beyond { label, count } => {
                write!(formatter, "{label} keeps {count}, and as many newer ones are there")
            }
            Self::Newest => formatter.write_str("the last good restore point of its virtual machine on its remote"),
            Self::NoGoodPoint => formatter.write_str("its virtual machine has no good restore point on its remote"),
            Self::Pinned => formatter.write_str("just made, in use or protected"),
            Self::UnknownRhythm => formatter.write_str("its job or schedule is not known here; delete it by hand"),
            Self::ClockSuspect => {
                formatter.write_str("the clock is earlier than the newest restore point; nothing is deleted")
            }
        }
    }
}

/// What becomes of a restore point, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The point.
    pub id: RestorePointId,
    /// Keep or delete.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
}

impl Decision {
    fn keep(point: &Point, reason: Reason) -> Self {
        Self { id: point.id.clone(), verdict: Verdict::Keep, reason }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Keep => "keep",
            Verdict::Delete => "delete",
        };
        write!(formatter, "{verdict} {}: {}", self.id, self.reason)
    }
}

/// Decides about all points given, of any machines and remotes. One decision per point, newest first within a machine
/// and remote; a point that is given twice counts once.
#[must_use]
pub fn decide(points: &[Point], policy: &Policy, now: Timestamp) -> Vec<Decision> {
    let mut groups: BTreeMap<(VmUuid, &RemoteId), Vec<&Point>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for point in points.iter().filter(|point| seen.insert(&point.id)) {
        groups.entry((point.vm, &point.id.remote)).or_default().push(point);
    }
    let suspect = points.iter().any(|point| point.time > now);
    let mut decisions = Vec::with_capacity(points.len());
    for group in groups.values_mut() {
        group.sort_by(|a, b| (b.time, &b.id).cmp(&(a.time, &a.id)));
        let newest_good = group.iter().find(|point| !point.damaged).map(|point| &point.id);
        let mut good_so_far: BTreeMap<&Label, u32> = BTreeMap::new();
        for point in group.iter() {
            let decision = judge(point, policy, newest_good, &mut good_so_far);
            let stays = decision.verdict == Verdict::Keep || !suspect;
            decisions.push(if stays { decision } else { Decision::keep(point, Reason::ClockSuspect) });
        }
    }
    decisions
}

/// Judges one point, when those of its group that are newer have been judged.
fn judge<'point>(
    point: &'point Point,
    policy: &Policy,
    newest_good: Option<&RestorePointId>,
    good_so_far: &mut BTreeMap<&'point Label, u32>,
) -> Decision {
    let place = point.label.as_ref().map_or(1, |label| {
        let good = good_so_far.entry(label).or_default();
        let place = good.saturating_add(1);
        if !point.damaged {
            *good = place;
        }
        place
    });
    if point.pinned {
        return Decision::keep(point, Reason::Pinned);
    }
    let Some((label, count)) = point.label.as_ref().and_then(|label| policy.get_key_value(label)) else {
        return Decision::keep(point, Reason::UnknownRhythm);
    };
    if place <= count.get() {
        return Decision::keep(point, Reason::Within { label: label.clone(), place, count: *count });
    }
    match newest_good {
        None => Decision::keep(point, Reason::NoGoodPoint),
        Some(newest) if *newest == point.id => Decision::keep(point, Reason::Newest),
        Some(_) => Decision {
            id: point.id.clone(),
            verdict: Verdict::Delete,
            reason: Reason::Beyond { label: label.clone(), count: *count },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TaskId;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn label(schedule: &str) -> Option<Label> {
        let schedule = (!schedule.is_empty()).then(|| schedule.parse().unwrap());
        Some(Label { job: "nightly".parse().unwrap(), schedule })
    }

    fn point(number: u8, schedule: &str) -> Point {
        Point {
            id: RestorePointId { task: TaskId::new(Uuid::from_u128(number.into())), remote: "nas".parse().unwrap() },
            vm: VmUuid::new(Uuid::from_u128(1)),
            time: Timestamp::from_second(i64::from(number) * 3600).unwrap(),
            label: label(schedule),
            pinned: false,
            damaged: false,
        }
    }

    fn policy(counts: &[(&str, u32)]) -> Policy {
        counts.iter().map(|(schedule, count)| (label(schedule).unwrap(), NonZeroU32::new(*count).unwrap())).collect()
    }

    fn later() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn deleted(points: &[Point], policy: &Policy, now: Timestamp) -> Vec<u128> {
        let decisions = decide(points, policy, now);
        assert_eq!(decisions.len(), points.len());
        let gone = decisions.into_iter().filter(|decision| decision.verdict == Verdict::Delete);
        let mut gone: Vec<u128> = gone.map(|decision| decision.id.task.uuid().as_u128()).collect();
        gone.sort_unstable();
        gone
    }

    #[test]
    fn each_rhythm_keeps_its_newest_by_count_and_knows_nothing_of_the_others() {
        let points: Vec<Point> =
            (1..=9).map(|number| point(number, ["daily", "weekly", ""][usize::from(number % 3)])).collect();
        assert_eq!(deleted(&points, &policy(&[("daily", 1), ("weekly", 2), ("", 3)]), later()), [1, 3, 6]);
    }

    #[test]
    fn machines_and_remotes_are_counted_apart() {
        let mut points: Vec<Point> = (1..=4).map(|number| point(number, "daily")).collect();
        points[1].vm = VmUuid::new(Uuid::from_u128(2));
        points[2].id.remote = "cloud".parse().unwrap();
        assert_eq!(deleted(&points, &policy(&[("daily", 1)]), later()), [1]);
    }

    #[test]
    fn a_damaged_point_pushes_no_good_one_out_and_the_last_good_one_stays() {
        let mut points: Vec<Point> = (1..=4).map(|number| point(number, "daily")).collect();
        points[3].damaged = true;
        points[2].damaged = true;
        assert_eq!(deleted(&points, &policy(&[("daily", 1)]), later()), [1]);
        points[1].damaged = true;
        points[0].damaged = true;
        assert_eq!(deleted(&points, &policy(&[("daily", 1)]), later()), Vec::<u128>::new());
    }

    #[test]
    fn pinned_points_and_those_of_unknown_rhythms_stay() {
        let mut points: Vec<Point> = (1..=4).map(|number| point(number, "daily")).collect();
        points[0].pinned = true;
        points[1].label = None;
        points.push(point(5, "forgotten"));
        assert_eq!(deleted(&points, &policy(&[("daily", 1)]), later()), [3]);
    }

    #[test]
    fn a_clock_before_the_newest_point_deletes_nothing() {
        let points: Vec<Point> = (1..=4).map(|number| point(number, "daily")).collect();
        let policy = policy(&[("daily", 1)]);
        let early = points[3].time - jiff::SignedDuration::from_secs(1);
        assert_eq!(deleted(&points, &policy, early), Vec::<u128>::new());
        assert_eq!(deleted(&points, &policy, points[3].time), [1, 2, 3]);
        let reasons: Vec<String> = decide(&points, &policy, early).iter().map(ToString::to_string).collect();
        assert!(
            reasons[3].starts_with("keep 00000000-0000-0000-0000-000000000001.nas: the clock is earlier"),
            "{reasons:?}"
        );
    }

    fn any_point() -> impl Strategy<Value = Point> {
        let rhythm = prop::sample::select(vec!["daily", "weekly", "", "unknown"]);
        (0_u8..60, 0_u128..3, 0..2_usize, rhythm, prop::bool::weighted(0.1), prop::bool::weighted(0.2)).prop_map(
            |(number, vm, remote, rhythm, pinned, damaged)| {
                let mut point = point(number, rhythm);
                point.id.task =
                    TaskId::new(Uuid::from_u128(u128::from(number) + vm * 1000 + if remote == 0 { 0 } else { 10_000 }));
                point.id.remote = ["nas", "cloud"][remote].parse().unwrap();
                point.vm = VmUuid::new(Uuid::from_u128(vm));
                Point { pinned, damaged, ..point }
            },
        )
    }

    proptest! {
        #[test]
        fn whatever_the_points_and_the_clock_the_promises_hold(
            points in prop::collection::vec(any_point(), 0..60), daily in 1_u32..4, weekly in 1_u32..4, hour in 0_i64..80,
        ) {
            let policy = policy(&[("daily", daily), ("weekly", weekly), ("", 2)]);
            let now = Timestamp::from_second(hour * 3600).unwrap();
            let decisions = decide(&points, &policy, now);
            let ids: BTreeSet<_> = points.iter().map(|point| &point.id).collect();
            prop_assert_eq!(decisions.len(), ids.len());
            let gone: BTreeSet<_> =
                decisions.iter().filter(|decision| decision.verdict == Verdict::Delete).map(|decision| &decision.id).collect();
            let mut unique = BTreeSet::new();
            let points: Vec<&Point> = points.iter().filter(|point| unique.insert(&point.id)).collect();
            for point in &points {
                let is_gone = gone.contains(&point.id);
                let known = point.label.as_ref().and_then(|label| policy.get(label));
                prop_assert!(!is_gone || (!point.pinned && known.is_some() && now >= point.time));
                if let (true, Some(count)) = (is_gone, known) {
                    // As many newer good points of its rhythm stay.
                    let newer = points.iter().filter(|other| {
                        (other.vm, &other.id.remote, &other.label) == (point.vm, &point.id.remote, &point.label)
                            && (other.time, &other.id) > (point.time, &point.id)
                            && !other.damaged && !gone.contains(&other.id)
                    });
                    prop_assert!(newer.count() >= count.get() as usize);
                }
                // Its machine keeps a good point on its remote, if it had one.
                let same = |other: &&&Point| (other.vm, &other.id.remote) == (point.vm, &point.id.remote);
                let good = points.iter().filter(same).filter(|other| !other.damaged);
                prop_assert!(good.clone().count() == 0 || good.clone().any(|other| !gone.contains(&other.id)));
            }
            // Deciding again about what is left deletes nothing more.
            let left: Vec<Point> = points.into_iter().filter(|point| !gone.contains(&point.id)).cloned().collect();
            prop_assert!(decide(&left, &policy, now).iter().all(|decision| decision.verdict == Verdict::Keep));
        }
    }
}
