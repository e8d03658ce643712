//! Runs that are repeated, and followed past their end.

use std::time::Duration;

use coffer_controller::Timings;
use coffer_core::state::LIVE;
use coffer_proto::v1;
use coffer_store::RangeRequest;
use tonic::Code;
use v1::run::State;

use crate::support::{Agent, PATIENCE, World, reason};

/// A run of three machines of which the second one's backup failed; its name, and the subject that failed.
async fn partial(world: &World, agent: &mut Agent) -> (String, String) {
    let run = world.run_job().await;
    let tasks = agent.told(&[], |tasks| tasks.len() == 3).await;
    agent.back_up(&tasks[0]).await;
    agent.back_up(&tasks[2]).await;
    agent.step(&tasks[1], 1).await.unwrap();
    let problem = v1::Problem {
        reason: "SR_FULL".to_owned(),
        message: "no room".to_owned(),
        advice: "make some".to_owned(),
        retryable: false,
    };
    agent.complete(&tasks[1], 2, v1::complete_request::Outcome::Failure(problem)).await.unwrap();
    assert_eq!(world.end_of(&run).await.state(), State::Partial);
    let failed = world.tasks(&run).await.into_iter().find(|task| task.name == tasks[1].task).unwrap();
    (run, failed.subject)
}

/// Waits until a run is in its history record only.
async fn archived(world: &World, run: &str) {
    let tasks = RangeRequest::prefix(format!("{LIVE}task/{}/", run.trim_start_matches("runs/")), 1);
    let gone = async {
        while !world.store.range(tasks.clone()).await.unwrap().entries.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the run should be folded into its history");
}

async fn world_with_three() -> (World, Agent) {
    // Ended runs become history at once, so that a test need not wait for what it does with those.
    let soon = Timings { fold_after: Duration::ZERO, ..Timings::short() };
    let world = World::with_job_and(3, |options| options.timings = soon).await;
    let agent = Agent::start(&world, "rack-1", 3).await;
    (world, agent)
}

#[tokio::test]
async fn a_retry_repeats_what_failed_and_nothing_else() {
    let (world, mut agent) = world_with_three().await;
    let (run, failed) = partial(&world, &mut agent).await;
    archived(&world, &run).await;
    let id = uuid::Uuid::new_v4().to_string();
    let request = || v1::RetryRunRequest { name: run.clone(), request_id: id.clone() };
    let retry = world.runs().retry_run(request()).await.unwrap().into_inner();
    assert_eq!(retry.retry_of, run);
    assert_eq!(world.runs().retry_run(request()).await.unwrap().into_inner().name, retry.name);

    let too_early = v1::RetryRunRequest { name: retry.name.clone(), ..Default::default() };
    let refused = world.runs().retry_run(too_early.clone()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "NOTHING_TO_RETRY"));

    let tasks = agent.told(&[], |tasks| !tasks.is_empty()).await;
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    agent.back_up(&tasks[0]).await;
    let ended = world.end_of(&retry.name).await;
    assert_eq!((ended.state(), ended.tasks.unwrap().total), (State::Succeeded, 1));
    let subjects: Vec<_> = world.tasks(&retry.name).await.into_iter().map(|task| task.subject).collect();
    assert_eq!(subjects, [failed]);

    let refused = world.runs().retry_run(too_early).await.unwrap_err();
    assert_eq!(reason(&refused), "NOTHING_TO_RETRY", "nothing of it failed");
    assert_eq!(world.list_runs().await.len(), 2);
}

/// All that a stream says, to its end: every run and task as last told, and how often the run was told.
async fn to_the_end(mut answers: tonic::Streaming<v1::FollowRunResponse>) -> (v1::Run, Vec<v1::Task>, usize) {
    let follow = async {
        let (mut run, mut tasks, mut told) = (None, std::collections::BTreeMap::new(), 0);
        while let Some(answer) = answers.message().await.unwrap() {
            told += usize::from(answer.run.is_some());
            run = answer.run.or(run);
            tasks.extend(answer.tasks.into_iter().map(|task| (task.name.clone(), task)));
        }
        (run.unwrap(), tasks.into_values().collect(), told)
    };
    tokio::time::timeout(PATIENCE, follow).await.expect("the stream should end with the run")
}

#[tokio::test]
async fn who_follows_a_run_sees_its_end_and_who_comes_later_sees_the_same() {
    let (world, mut agent) = world_with_three().await;
    let run = world.run_job().await;
    let follow = || v1::FollowRunRequest { name: run.clone(), ..Default::default() };
    let answers = world.runs().follow_run(follow()).await.unwrap().into_inner();
    let following = tokio::spawn(to_the_end(answers));
    let tasks = agent.told(&[], |tasks| tasks.len() == 3).await;
    for task in &tasks {
        agent.back_up(task).await;
    }
    let (ended, seen, told) = following.await.unwrap();
    assert_eq!(ended.state(), State::Succeeded);
    assert!(told > 1, "the run was told only when it had ended");
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|task| task.state() == v1::task::State::Succeeded && task.restore_points.len() == 1));

    // Right behind the end, and when it is history.
    let answers = world.runs().follow_run(follow()).await.unwrap().into_inner();
    let (later, seen_later, _) = to_the_end(answers).await;
    assert_eq!((&later, &seen_later), (&ended, &seen));
    archived(&world, &run).await;
    let answers = world.runs().follow_run(follow()).await.unwrap().into_inner();
    let (history, seen_in_history, _) = to_the_end(answers).await;
    assert_eq!((history, seen_in_history), (ended, seen));

    let unknown = v1::FollowRunRequest { name: format!("runs/{}", uuid::Uuid::now_v7()), ..Default::default() };
    assert_eq!(world.runs().follow_run(unknown).await.unwrap_err().code(), Code::NotFound);
}
