//! What becomes of tasks when answers come twice, late, from a restarted controller, or not at all.

use std::time::{Duration, Instant};

use crate::controller::{Call, Served, Stage, TOKEN, task_name};

#[tokio::test]
async fn a_task_is_carried_out_once_however_often_the_answers_name_it() {
    let stage = Stage::set().await;
    let controller = &stage.controller;
    controller.let_records_pass(false);
    let task = controller.assign(1, 1);
    let twice = controller.script().tasks.clone();
    controller.script().tasks.extend(twice);
    controller.until("the task to be held", |script| script.held() == [(task.clone(), 1)]).await;
    controller.exchanges(3).await;
    controller.let_records_pass(true);
    controller.until("its end", |script| script.completed(&task) == [1]).await;
    controller.exchanges(2).await;
    let script = controller.script();
    assert_eq!((script.begun(&task, 1), script.held()), (1, vec![]));
    let numbers: Vec<u64> = script.records_of(&task, 1).map(|(op_seq, _)| op_seq).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "records are numbered without gaps");
}

#[tokio::test]
async fn an_answer_that_comes_after_the_end_of_a_task_does_not_begin_it_again() {
    let stage = Stage::set().await;
    let controller = &stage.controller;
    controller.let_records_pass(false);
    let task = controller.assign(1, 1);
    controller.until("the task to be held", |script| script.held() == [(task.clone(), 1)]).await;
    // A question that names the task is under way while the task ends; its answer still wants it.
    controller.hold_exchange().await;
    controller.let_records_pass(true);
    controller.until("its end", |script| script.completed(&task) == [1]).await;
    controller.answer_exchange();
    controller.exchanges(3).await;
    let script = controller.script();
    assert_eq!((script.begun(&task, 1), script.completed(&task)), (1, vec![1]));
}

#[tokio::test]
async fn an_end_that_is_known_is_not_taken_for_a_revocation_before_its_reply_arrives() {
    let stage = Stage::set().await;
    let controller = &stage.controller;
    controller.let_replies_to_ends_pass(false);
    let task = controller.assign(1, 1);
    controller.until("its end to be known", |script| script.completed(&task) == [1]).await;
    // By now no answer names the task any more.
    controller.exchanges(3).await;
    assert_eq!(controller.script().telling, 1, "the agent cut off what it was telling");
    controller.let_replies_to_ends_pass(true);
    controller.until("the task to be let go", |script| script.held().is_empty()).await;
    assert_eq!(controller.script().completed(&task), [1], "the end was told once");
}

#[tokio::test]
async fn a_revoked_task_does_nothing_more() {
    let stage = Stage::set().await;
    let controller = &stage.controller;
    controller.let_records_pass(false);
    let task = controller.assign(1, 1);
    controller.until("the task to work", |script| script.waiting == 1).await;
    controller.script().tasks.clear();
    controller.until("its work to be cut off", |script| script.waiting == 0).await;
    let before = controller.script().records_of(&task, 1).count();
    controller.let_records_pass(true);
    controller.exchanges(5).await;
    let script = controller.script();
    assert_eq!((script.records_of(&task, 1).count(), script.completed(&task)), (before, vec![]));
}

#[tokio::test]
async fn a_task_that_comes_back_under_a_newer_epoch_is_worked_on_under_that_alone() {
    let stage = Stage::set().await;
    let controller = &stage.controller;
    controller.let_records_pass(false);
    let task = controller.assign(1, 1);
    controller.until("the task to work", |script| script.begun(&task, 1) == 1).await;
    controller.assign(1, 2);
    controller.until("the newer one to work", |script| script.begun(&task, 2) == 1).await;
    controller.let_records_pass(true);
    controller.until("its end", |script| !script.completed(&task).is_empty()).await;
    controller.exchanges(2).await;
    let script = controller.script();
    assert_eq!((script.completed(&task), script.records_of(&task, 1).count()), (vec![2], 1));
}

#[tokio::test]
async fn a_fenced_task_ends_without_another_word_and_the_agent_works_on() {
    let stage = Stage::set().await;
    let controller = &stage.controller;
    controller.script().denies_records = Some("FENCED");
    let fenced = controller.assign(1, 1);
    controller.until("the task to be fenced off", |script| script.begun(&fenced, 1) == 1).await;
    controller.script().tasks.clear();
    controller.until("it to be let go", |script| script.held().is_empty()).await;
    controller.script().denies_records = None;
    let next = controller.assign(2, 1);
    controller.until("the next task to end", |script| script.completed(&next) == [1]).await;
    let script = controller.script();
    assert_eq!((script.completed(&fenced), script.records_of(&fenced, 1).count()), (vec![], 1));
}

#[tokio::test]
async fn a_lost_session_is_begun_anew_by_the_same_process_and_its_tasks_go_on() {
    let stage = Stage::set().await;
    let controller = &stage.controller;
    controller.let_records_pass(false);
    let task = controller.assign(1, 1);
    controller.until("the task to work", |script| script.begun(&task, 1) == 1).await;
    controller.script().session += 1;
    controller
        .until("the task under the new session", |script| {
            script.registrations() == 2 && script.held() == [(task.clone(), 1)]
        })
        .await;
    controller.let_records_pass(true);
    controller.until("its end", |script| script.completed(&task) == [1]).await;
    let script = controller.script();
    let processes: Vec<_> = script
        .calls
        .iter()
        .filter_map(|call| match call {
            Call::Register { instance } => Some(instance.clone()),
            _ => None,
        })
        .collect();
    assert!(processes.len() == 2 && processes[0] == processes[1], "{processes:?}");
    // What was asked under the old session is asked again, and nothing is begun twice.
    let numbers: std::collections::BTreeSet<u64> = script.records_of(&task, 1).map(|(op_seq, _)| op_seq).collect();
    assert_eq!(numbers.into_iter().collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_controller_that_restarts_finds_its_task_still_worked_on() {
    let mut stage = Stage::set().await;
    let controller = stage.controller.clone();
    controller.let_records_pass(false);
    let task = controller.assign(1, 1);
    controller.until("the task to work", |script| script.begun(&task, 1) == 1).await;
    let address = stage.served.take().unwrap().stop().await;
    controller.let_records_pass(true);
    stage.served = Some(Served::at(&controller, address).await);
    controller.until("its end", |script| script.completed(&task) == [1]).await;
    let script = controller.script();
    assert_eq!(script.registrations(), 1, "the session had outlived the controller");
    assert!(script.records_of(&task, 1).all(|(op_seq, _)| op_seq <= 2));
}

#[tokio::test]
async fn without_an_answer_all_work_stops_in_time_and_a_late_answer_does_not_bring_it_back() {
    let mut stage = Stage::without_agent().await;
    let controller = stage.controller.clone();
    let hard_stop = Duration::from_secs(2);
    controller.script().hard_stop = hard_stop;
    stage.configure(&["vault"]);
    stage.enter(TOKEN, None, &[]);
    controller.until("the remote to be ready", |script| script.remotes.iter().any(|remote| remote.ready)).await;
    controller.let_records_pass(false);
    let task = controller.assign(1, 1);
    controller.until("the task to work", |script| script.waiting == 1).await;

    let silent = Instant::now();
    controller.hold_exchange().await;
    let asked = Instant::now();
    controller.until("the work to stop", |script| script.waiting == 0).await;
    assert!(silent.elapsed() < 3 * hard_stop, "the work went on for {:?}", silent.elapsed());

    // The clock decides here: the last question, too, is to be older than what its answer could allow. Then the task is
    // given away, and only now does that answer arrive.
    tokio::time::sleep_until((asked + hard_stop).into()).await;
    controller.assign(1, 2);
    controller.answer_exchange();
    controller.let_records_pass(true);
    controller.until("the end of the new attempt", |script| !script.completed(&task).is_empty()).await;
    let script = controller.script();
    assert_eq!((script.completed(&task), script.records_of(&task, 1).count()), (vec![2], 1));
}

#[tokio::test]
async fn another_controller_is_asked_when_one_does_not_answer() {
    let mut stage = Stage::without_agent().await;
    stage.configure(&["vault"]);
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = silent.local_addr().unwrap();
    drop(silent);
    stage.enter(TOKEN, None, &[nobody]);
    let task = stage.controller.assign(1, 1);
    stage.controller.until("the task to end", |script| script.completed(&task) == [1]).await;
}

#[tokio::test]
async fn an_agent_that_is_asked_to_stop_hands_its_task_back_for_another_attempt() {
    let stage = Stage::set().await;
    let controller = stage.controller.clone();
    controller.let_records_pass(false);
    let task = controller.assign(1, 1);
    controller.until("the task to work", |script| script.begun(&task, 1) == 1).await;
    let leaving = tokio::spawn(stage.leave());
    controller.let_records_pass(true);
    leaving.await.unwrap();
    let script = controller.script();
    let ends: Vec<_> =
        script.calls.iter().filter(|call| matches!(call, Call::Complete { task: of, .. } if *of == task)).collect();
    assert_eq!(ends.len(), 1, "its end was told once: {ends:?}");
    assert_eq!(script.held(), [], "the last word says that nothing is held");
}

#[tokio::test]
async fn an_assignment_that_cannot_be_read_is_left_out_of_account() {
    let stage = Stage::set().await;
    let controller = &stage.controller;
    let good = controller.assign(1, 1);
    let mut nameless = controller.script().tasks[0].clone();
    nameless.task = "runs/nonsense".into();
    let mut aimless = controller.script().tasks[0].clone();
    (aimless.task, aimless.spec) = (task_name(9), Some(coffer_proto::v1::TaskSpec::default()));
    controller.script().tasks.splice(0..0, [nameless, aimless]);
    controller.until("the good one to end", |script| script.completed(&good) == [1]).await;
    controller
        .until("the aimless one to end as failed", |script| {
            script
                .calls
                .iter()
                .any(|call| matches!(call, Call::Complete { task, succeeded: false, .. } if *task == task_name(9)))
        })
        .await;
}
