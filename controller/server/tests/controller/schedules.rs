//! Schedules fire by the controller's clock, and each keeps its own restore points.

use coffer_proto::v1;
use v1::run::State;

use crate::support::{Agent, PATIENCE, SetClock, World};

/// A world in which it is this time, with a job that has these schedules: id, rule, restore points to keep.
async fn scheduled(clock: &SetClock, schedules: &[(&str, &str, u32)]) -> (World, Agent) {
    let world = World::with_job_and(0, |options| options.clock = std::sync::Arc::new(clock.clone())).await;
    for (id, cron, retention) in schedules {
        let schedule = v1::Schedule { cron: (*cron).to_owned(), retention: *retention, ..Default::default() };
        let request = v1::CreateScheduleRequest {
            parent: "jobs/all".to_owned(),
            schedule_id: (*id).to_owned(),
            schedule: Some(schedule),
            ..Default::default()
        };
        world.jobs().create_schedule(request).await.unwrap();
    }
    let agent = Agent::start(&world, "rack-1", 1).await;
    (world, agent)
}

/// Waits for a run that nobody asked for.
async fn fired(world: &World, run: &str) -> v1::Run {
    let wait = async {
        loop {
            if let Some(run) = world.list_runs().await.into_iter().find(|known| known.name == run) {
                return run;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{run} should be started"))
}

async fn schedule(world: &World, id: &str) -> v1::Schedule {
    let request = v1::GetScheduleRequest { name: format!("jobs/all/schedules/{id}") };
    world.jobs().get_schedule(request).await.unwrap().into_inner()
}

fn seconds(time: Option<prost_types::Timestamp>) -> i64 {
    time.unwrap().seconds
}

#[tokio::test]
async fn each_tick_of_a_schedule_makes_one_run_and_none_while_it_is_paused() {
    let clock = SetClock::at("2026-03-01T00:30:00Z");
    let (world, mut agent) = scheduled(&clock, &[("hourly", "0 * * * *", 7)]).await;
    assert_eq!(world.list_runs().await, [], "it fired before its time");

    clock.set("2026-03-01T01:00:07Z");
    let run = fired(&world, "runs/all.hourly.20260301T010000Z").await;
    assert_eq!((run.job.as_str(), run.schedule.as_str()), ("jobs/all", "jobs/all/schedules/hourly"));
    let task = agent.told(&[], |tasks| !tasks.is_empty()).await.remove(0);
    agent.back_up(&task).await;
    assert_eq!(world.end_of(&run.name).await.state(), State::Succeeded);
    let told = schedule(&world, "hourly").await;
    assert_eq!(seconds(told.next_time) - seconds(told.last_time), 3600);

    // While it is paused ticks pass; the first one behind that fires again, and shows that none was made up for.
    let pause = |paused: bool| v1::UpdateScheduleRequest {
        schedule: Some(v1::Schedule { name: "jobs/all/schedules/hourly".to_owned(), paused, ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["paused".to_owned()] }),
    };
    world.jobs().update_schedule(pause(true)).await.unwrap();
    clock.set("2026-03-01T05:30:00Z");
    world.jobs().update_schedule(pause(false)).await.unwrap();
    clock.set("2026-03-01T06:00:01Z");
    fired(&world, "runs/all.hourly.20260301T060000Z").await;
    // The backup of six o'clock is not over at seven.
    clock.set("2026-03-01T07:00:01Z");
    let skipped = fired(&world, "runs/all.hourly.20260301T070000Z").await;
    assert_eq!(skipped.state(), State::Skipped, "{skipped:?}");
    assert!(skipped.message.contains("all.hourly.20260301T060000Z"), "{}", skipped.message);
    let names: Vec<_> = world.list_runs().await.into_iter().map(|run| run.name).collect();
    let expected = ["01", "06", "07"].map(|hour| format!("runs/all.hourly.20260301T{hour}0000Z"));
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_schedule_keeps_as_many_points_as_it_says_and_those_of_another_stay() {
    let clock = SetClock::at("2026-03-01T00:45:00Z");
    let rules = [("often", "0 * * * *", 2), ("rarely", "30 */2 * * *", 3)];
    let (world, mut agent) = scheduled(&clock, &rules).await;
    let ticks = [
        ("often", "01:00"),
        ("often", "02:00"),
        ("rarely", "02:30"),
        ("often", "03:00"),
        ("often", "04:00"),
        ("rarely", "04:30"),
        ("often", "05:00"),
    ];
    let mut deleted = Vec::new();
    for (rule, time) in ticks {
        clock.set(&format!("2026-03-01T{time}:01Z"));
        let run = fired(&world, &format!("runs/all.{rule}.20260301T{}00Z", time.replace(':', ""))).await;
        let task = agent.told(&[], |tasks| !tasks.is_empty()).await.remove(0);
        deleted.extend(agent.back_up_and_tidy(&task, &format!("2026-03-01T{time}:01Z")).await);
        assert_eq!(world.end_of(&run.name).await.state(), State::Succeeded);
    }
    let told = |points: Vec<v1::RestorePoint>| {
        let mut told: Vec<_> = points
            .into_iter()
            .map(|point| {
                let time = jiff::Timestamp::from_second(seconds(point.time)).unwrap().strftime("%H:%M").to_string();
                (point.schedule.rsplit('/').next().unwrap_or_default().to_owned(), time)
            })
            .collect();
        told.sort();
        told
    };
    let expected = [("often", "04:00"), ("often", "05:00"), ("rarely", "02:30"), ("rarely", "04:30")];
    assert_eq!(told(world.points().await), expected.map(|(rule, time)| (rule.to_owned(), time.to_owned())));
    assert_eq!(deleted.len(), 3, "{deleted:?}");
}
