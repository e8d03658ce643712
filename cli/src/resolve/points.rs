//! Restore points: by id, as `VM@latest`, or by the beginning of their time as `VM@2026-01-01 03:00`.

use coffer_model::RestorePointId;
use coffer_model::names::Named;
use coffer_proto::v1;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{LISTED, near};
use crate::Error;
use crate::client::Client;
use crate::show::text::{id, instant, plain, shown};

/// Which of a machine's points is meant.
enum When<'text> {
    Latest,
    At(&'text str),
}

/// A restore point: its id, `VM@latest` or `VM@TIME`. `remote` narrows down to one remote.
pub(crate) async fn point(client: &Client, text: &str, remote: Option<&str>, zone: &TimeZone) -> Result<String, Error> {
    let bare = text.strip_prefix("restorePoints/").unwrap_or(text);
    if let Ok(point) = bare.parse::<RestorePointId>() {
        return Ok(point.name());
    }
    // The name of a machine may hold an '@'; a time does not.
    let Some((vm, when)) = text.rsplit_once('@').filter(|(vm, when)| !vm.is_empty() && !when.is_empty()) else {
        return Err(Error::usage(
            format!("{text:?} is not a restore point"),
            Some("expected an id as `coffer backup list` shows it, VM@latest, or VM@TIME as db1@2026-01-01 03:00"),
        ));
    };
    let when = if when == "latest" { When::Latest } else { When::At(when) };
    let remote = remote.map(super::remote).transpose()?.unwrap_or_default();
    let points =
        client.all_points(v1::ListRestorePointsRequest { vm: vm.to_owned(), remote, ..Default::default() }).await?;
    if points.is_empty() {
        let all = client.all_points(v1::ListRestorePointsRequest::default()).await?;
        let labels: Vec<&str> = all.iter().map(|point| point.vm_label.as_str()).collect();
        return Err(Error::rejected(
            format!("there is no restore point of a virtual machine {:?}", plain(vm)),
            near::advice(vm, &labels, "`coffer backup list` shows all restore points"),
        ));
    }
    choose(vm, &when, &points, zone)
}

fn choose(vm: &str, when: &When<'_>, points: &[v1::RestorePoint], zone: &TimeZone) -> Result<String, Error> {
    let mut uuids: Vec<&str> = points.iter().map(|point| point.vm_uuid.as_str()).collect();
    uuids.sort_unstable();
    uuids.dedup();
    if uuids.len() > 1 {
        let advice = format!("say which, by UUID: {}", uuids.into_iter().take(LISTED).collect::<Vec<_>>().join(", "));
        return Err(Error::rejected(format!("restore points of several virtual machines are called {vm:?}"), advice));
    }
    let mut matching: Vec<(Timestamp, &v1::RestorePoint)> =
        points.iter().filter_map(|point| Some((instant(point.time.as_ref())?, point))).collect();
    match when {
        When::Latest => {
            let newest = matching.iter().map(|(time, _)| *time).max();
            matching.retain(|(time, _)| Some(*time) == newest);
        }
        When::At(text) => matching.retain(|(time, _)| is_at(*time, text, zone)),
    }
    match matching.as_slice() {
        [(_, one)] => Ok(one.name.clone()),
        [] => Err(Error::rejected(
            format!("no restore point of {:?} is of that time", plain(vm)),
            format!("there are: {}", listed(points.iter(), zone)),
        )),
        several => Err(Error::rejected(
            format!("{} restore points of {:?} are meant by that", several.len(), plain(vm)),
            format!("say which: {}", listed(several.iter().map(|(_, point)| *point), zone)),
        )),
    }
}

/// True when a text is that instant, or the beginning of how it is shown in the zone.
fn is_at(time: Timestamp, text: &str, zone: &TimeZone) -> bool {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return instant.as_second() == time.as_second();
    }
    // `2026-01-01T03:00` is meant as `2026-01-01 03:00`. Less than a whole date is no time.
    let text = text.replacen('T', " ", 1);
    text.len() >= "2026-01-01".len() && shown(time, zone).starts_with(&text)
}

fn listed<'point>(points: impl Iterator<Item = &'point v1::RestorePoint>, zone: &TimeZone) -> String {
    let one = |point: &v1::RestorePoint| {
        let time = instant(point.time.as_ref()).map_or_else(|| "?".to_owned(), |time| shown(time, zone));
        format!("{} ({time})", id(&point.name))
    };
    points.take(LISTED).map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(id: &str, vm: &str, time: &str) -> v1::RestorePoint {
        let time: Timestamp = time.parse().unwrap();
        v1::RestorePoint {
            name: format!("restorePoints/{id}"),
            vm_uuid: vm.to_owned(),
            time: Some(prost_types::Timestamp { seconds: time.as_second(), nanos: 0 }),
            ..Default::default()
        }
    }

    fn check(when: &When<'_>, points: &[v1::RestorePoint]) -> Result<String, String> {
        let zone = TimeZone::get("Europe/Paris").unwrap();
        choose("db", when, points, &zone).map(|name| id(&name).to_owned()).map_err(|error| {
            let report = error.report();
            format!("{} | {}", report.message, report.advice.unwrap_or_default())
        })
    }

    #[test]
    fn a_point_is_found_as_the_latest_or_by_its_time_as_it_is_shown() {
        let points = [
            point("c", "u", "2026-01-03T02:00:00Z"),
            point("b", "u", "2026-01-02T02:00:00Z"),
            point("a", "u", "2026-01-02T01:00:00Z"),
        ];
        assert_eq!(check(&When::Latest, &points).unwrap(), "c");
        assert_eq!(check(&When::At("2026-01-03"), &points).unwrap(), "c");
        assert_eq!(check(&When::At("2026-01-02 03:00"), &points).unwrap(), "b");
        assert_eq!(check(&When::At("2026-01-02T02:00"), &points).unwrap(), "a");
        assert_eq!(check(&When::At("2026-01-02T02:00:00Z"), &points).unwrap(), "b");
        assert_eq!(
            check(&When::At("2026-01-02"), &points).unwrap_err(),
            "2 restore points of \"db\" are meant by that | say which: b (2026-01-02 03:00:00), a (2026-01-02 02:00:00)"
        );
        assert!(
            check(&When::At("2"), &points)
                .unwrap_err()
                .starts_with("no restore point of \"db\" is of that time | there are: c")
        );
    }

    #[test]
    fn the_latest_on_two_remotes_or_of_two_machines_is_not_guessed() {
        let twice = [point("a.nas", "u", "2026-01-02T01:00:00Z"), point("a.cloud", "u", "2026-01-02T01:00:00Z")];
        assert!(check(&When::Latest, &twice).unwrap_err().starts_with("2 restore points"));
        let two = [point("a", "u1", "2026-01-02T01:00:00Z"), point("b", "u2", "2026-01-03T01:00:00Z")];
        assert!(check(&When::Latest, &two).unwrap_err().contains("say which, by UUID: u1, u2"));
    }
}
