//! A controller over a real socket, with agents that do what the tests tell them.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod probes;
mod requests;
mod runs;
mod schedules;
mod sealing;
mod support;

use coffer_proto::v1;
use support::{Agent, World, reason};
use tonic::Code;
use v1::run::State;

#[tokio::test]
async fn a_backup_goes_from_the_request_to_its_restore_point() {
    let world = World::with_job(0).await;
    let mut agent = Agent::start(&world, "rack-1", 1).await;
    let run = world.run_job().await;
    let tasks = agent.told(&[], |tasks| !tasks.is_empty()).await;
    assert_eq!(tasks.len(), 1);
    agent.back_up(&tasks[0]).await;
    let ended = world.end_of(&run).await;
    assert_eq!(ended.state(), State::Succeeded, "{ended:?}");
    assert_eq!(ended.tasks.unwrap().succeeded, 1);
    assert!(agent.told(&[&tasks[0]], <[_]>::is_empty).await.is_empty());
    let mut points = v1::restore_point_service_client::RestorePointServiceClient::new(world.service());
    let points = points.list_restore_points(v1::ListRestorePointsRequest::default()).await.unwrap().into_inner();
    assert_eq!(points.restore_points.len(), 1);
    assert_eq!(world.tasks(&run).await[0].restore_points, [points.restore_points[0].name.clone()]);
    world.controller.shutdown().await.unwrap();
}

#[tokio::test]
async fn no_more_tasks_run_at_once_than_the_job_allows() {
    let world = World::with_job(1).await;
    let mut agent = Agent::start(&world, "rack-1", 3).await;
    let run = world.run_job().await;
    for left in (0..3).rev() {
        let tasks = agent.told(&[], |tasks| !tasks.is_empty()).await;
        assert_eq!(tasks.len(), 1);
        let waiting: Vec<_> =
            world.tasks(&run).await.into_iter().filter(|task| task.state() == v1::task::State::Waiting).collect();
        assert_eq!(waiting.len(), left);
        assert!(waiting.iter().all(|task| task.waits_for.contains("1 of 1 in use")), "{waiting:?}");
        agent.back_up(&tasks[0]).await;
    }
    assert_eq!(world.end_of(&run).await.state(), State::Succeeded);
}

#[tokio::test]
async fn a_silent_agent_is_replaced_in_a_new_epoch_and_its_old_one_is_fenced() {
    let world = World::with_job(0).await;
    let mut silent = Agent::start(&world, "rack-1", 1).await;
    let run = world.run_job().await;
    let old = silent.told(&[], |tasks| !tasks.is_empty()).await.remove(0);
    silent.step(&old, 1).await.unwrap();

    let mut other = Agent::start(&world, "rack-2", 1).await;
    let new = other.told(&[], |tasks| !tasks.is_empty()).await.remove(0);
    assert_eq!((&new.task, new.epoch, new.attempt), (&old.task, old.epoch + 1, 2));

    let forgotten = silent.step(&old, 2).await.unwrap_err();
    assert_eq!((forgotten.code(), reason(&forgotten).as_str()), (Code::Unauthenticated, "SESSION_UNKNOWN"));
    silent.register().await;
    for refused in [
        silent.step(&old, 2).await.unwrap_err(),
        silent.commit(&old, 2).await.unwrap_err(),
        silent.step(&new, 1).await.unwrap_err(),
    ] {
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "FENCED"));
    }
    assert!(silent.sync(&[&old]).await.unwrap().is_empty());

    other.back_up(&new).await;
    assert_eq!(world.end_of(&run).await.state(), State::Succeeded);
}

#[tokio::test]
async fn cancelling_ends_what_waits_and_tells_who_holds() {
    let world = World::with_job(1).await;
    let mut agent = Agent::start(&world, "rack-1", 2).await;
    let run = world.run_job().await;
    let held = agent.told(&[], |tasks| !tasks.is_empty()).await.remove(0);
    assert!(!agent.step(&held, 1).await.unwrap());
    world.runs().cancel_run(v1::CancelRunRequest { name: run.clone() }).await.unwrap();
    agent.told(&[&held], |tasks| tasks.len() == 1 && tasks[0].cancel).await;
    let refused = agent.commit(&held, 2).await.unwrap_err();
    assert_eq!(reason(&refused), "CANCELLED");
    let cancelled = v1::complete_request::Outcome::Cancelled(v1::TaskCancelled {});
    agent.complete(&held, 2, cancelled).await.unwrap();
    assert_eq!(world.end_of(&run).await.state(), State::Cancelled);
    assert!(world.tasks(&run).await.iter().all(|task| task.state() == v1::task::State::Cancelled));
}

#[tokio::test]
async fn a_call_without_the_right_token_is_refused() {
    let world = World::start().await;
    let request = || v1::ListRemotesRequest::default();
    let mut without = v1::remote_service_client::RemoteServiceClient::new(world.channel());
    let refused = without.list_remotes(request()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "TOKEN_REQUIRED"));
    let mut wrong = tonic::Request::new(request());
    wrong.metadata_mut().insert("authorization", format!("Bearer {}", "0".repeat(64)).parse().unwrap());
    assert_eq!(without.list_remotes(wrong).await.unwrap_err().code(), Code::Unauthenticated);
    world.remotes().list_remotes(request()).await.unwrap();
}

#[tokio::test]
async fn pages_show_everything_once_and_a_stale_etag_changes_nothing() {
    let world = World::start().await;
    for id in ["a", "b", "c"] {
        world.create_remote(id).await;
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListRemotesRequest { page_size: 2, page_token };
        let page = world.remotes().list_remotes(request).await.unwrap().into_inner();
        names.extend(page.remotes.into_iter().map(|remote| remote.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["remotes/a", "remotes/b", "remotes/c"]);

    let get = v1::GetRemoteRequest { name: "remotes/a".to_owned() };
    let read = world.remotes().get_remote(get.clone()).await.unwrap().into_inner();
    assert_eq!(read.password, "");
    let rename = |display_name: &str| v1::UpdateRemoteRequest {
        remote: Some(v1::Remote { display_name: display_name.to_owned(), ..read.clone() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".to_owned()] }),
    };
    world.remotes().update_remote(rename("first")).await.unwrap();
    let refused = world.remotes().update_remote(rename("second")).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    assert_eq!(world.remotes().get_remote(get).await.unwrap().into_inner().display_name, "first");
}

#[tokio::test]
async fn what_an_agent_said_of_a_pool_before_it_was_set_anew_counts_for_nothing() {
    let world = World::with_job(1).await;
    let mut agent = Agent::start(&world, "rack-1", 1).await;
    let mut pools = v1::pool_service_client::PoolServiceClient::new(world.service());
    let get = || v1::GetPoolRequest { name: "pools/lab".to_owned() };
    let pool = pools.get_pool(get()).await.unwrap().into_inner();
    assert_eq!(pool.state(), v1::pool::State::Connected);

    let update = v1::UpdatePoolRequest {
        pool: Some(v1::Pool { password: "another".to_owned(), ..pool }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["password".to_owned()] }),
    };
    let updated = pools.update_pool(update).await.unwrap().into_inner();
    assert_eq!(updated.state(), v1::pool::State::Pending);
    // This report was under way: the agent does not know the new password yet.
    agent.sync(&[]).await.unwrap();
    assert_eq!(pools.get_pool(get()).await.unwrap().into_inner().state(), v1::pool::State::Pending);
    agent.sync(&[]).await.unwrap();
    assert_eq!(pools.get_pool(get()).await.unwrap().into_inner().state(), v1::pool::State::Connected);
}

#[tokio::test]
async fn the_address_file_lives_as_long_as_the_controller() {
    let world = World::start().await;
    let path = world.folder.path().join(coffer_controller::ADDRESS_FILE);
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), world.controller.local_addr().to_string());
    world.controller.shutdown().await.unwrap();
    assert!(!path.exists());
}

fn holds(remote: &str, repository: &str) -> v1::RemoteReport {
    let (remote, ready) = (format!("remotes/{remote}"), !repository.is_empty());
    v1::RemoteReport { remote, ready, repository_id: repository.repeat(32), ..Default::default() }
}

async fn remote(world: &World, id: &str) -> v1::Remote {
    let request = v1::GetRemoteRequest { name: format!("remotes/{id}") };
    world.remotes().get_remote(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn the_repository_that_a_remote_had_first_is_told_to_every_agent_and_no_other_is_worked_on() {
    use v1::remote::State as Stands;
    let world = World::with_job(0).await;
    let mut first = Agent::start(&world, "rack-1", 1).await;
    first.remotes = vec![holds("nas", "aa")];
    first.sync(&[]).await.unwrap();
    assert_eq!(remote(&world, "nas").await.repository_id, "aa".repeat(32));
    first.remotes = vec![holds("nas", "")];
    first.sync(&[]).await.unwrap();
    assert_eq!(first.told_of[0].repository_id, "aa".repeat(32), "the agent that was first is told as well");
    let unmounted = remote(&world, "nas").await;
    assert_eq!((unmounted.state(), unmounted.repository_id), (Stands::Unavailable, "aa".repeat(32)));

    let mut other = Agent::start(&world, "rack-2", 1).await;
    assert_eq!(other.told_of[0].repository_id, "aa".repeat(32));
    other.remotes = vec![holds("nas", "bb")];
    other.sync(&[]).await.unwrap();
    let run = world.run_job().await;
    for _ in 0..3 {
        assert!(other.sync(&[]).await.unwrap().is_empty(), "a task was given to an agent with another repository");
    }
    let refused = remote(&world, "nas").await;
    assert_eq!((refused.state(), refused.repository_id), (Stands::Unavailable, "aa".repeat(32)));
    assert!(refused.state_message.contains("mounted"), "{}", refused.state_message);

    first.remotes = vec![holds("nas", "aa")];
    let task = first.told(&[], |tasks| !tasks.is_empty()).await.remove(0);
    first.back_up(&task).await;
    assert_eq!(world.end_of(&run).await.state(), State::Succeeded);
}

#[tokio::test]
async fn one_repository_is_not_used_as_two_remotes() {
    use v1::remote::State as Stands;
    let world = World::with_job(0).await;
    world.create_remote("copy").await;
    let mut agent = Agent::start(&world, "rack-1", 1).await;
    agent.remotes = vec![holds("nas", "aa"), holds("copy", "aa")];
    agent.sync(&[]).await.unwrap();
    agent.sync(&[]).await.unwrap();
    assert_eq!(remote(&world, "nas").await.state(), Stands::Ready);
    let twice = remote(&world, "copy").await;
    assert_eq!((twice.state(), twice.repository_id.as_str()), (Stands::Unavailable, ""));
    assert!(twice.state_message.contains("remotes/nas"), "the other is not named: {}", twice.state_message);
}

fn enters(pool: &str, uuid: &str) -> v1::PoolReport {
    let (pool, connected) = (format!("pools/{pool}"), !uuid.is_empty());
    v1::PoolReport { pool, connected, pool_uuid: uuid.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn one_pool_is_not_used_as_two() {
    use v1::pool::State as Stands;
    let world = World::with_job(0).await;
    world.create_pool("twin").await;
    let pool = async |id: &str| {
        let request = v1::GetPoolRequest { name: format!("pools/{id}") };
        world.pools().get_pool(request).await.unwrap().into_inner()
    };
    let mut agent = Agent::start(&world, "rack-1", 1).await;
    agent.pools = vec![enters("lab", "one"), enters("twin", "one")];
    // Twice: the first makes the configuration new, and what was said under the old one says nothing.
    agent.sync(&[]).await.unwrap();
    agent.sync(&[]).await.unwrap();
    assert_eq!(pool("lab").await.state(), Stands::Connected);
    let twin = pool("twin").await;
    assert_eq!(twin.state(), Stands::Unreachable);
    assert!(twin.state_message.contains("pools/lab"), "the other is not named: {}", twin.state_message);

    // A pool that is away keeps its place; another one there is welcome; and once the first is another pool, or gone,
    // the second may have its own.
    for (first, second, state) in [("", "one", Stands::Unreachable), ("", "two", Stands::Connected)] {
        agent.pools = vec![enters("lab", first), enters("twin", second)];
        agent.sync(&[]).await.unwrap();
        agent.sync(&[]).await.unwrap();
        assert_eq!(pool("twin").await.state(), state, "{first:?} {second:?}");
    }
    agent.pools = vec![enters("lab", "three"), enters("twin", "one")];
    for _ in 0..3 {
        agent.sync(&[]).await.unwrap();
    }
    assert_eq!((pool("lab").await.state(), pool("twin").await.state()), (Stands::Connected, Stands::Connected));
}
