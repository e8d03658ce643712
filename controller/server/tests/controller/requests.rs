//! Request ids: what is asked for twice is done once.

use coffer_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{Agent, World};

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Refused as the id of another request; nothing else is wrong with it.
fn is_of_another(refused: &Status) {
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let fields = refused.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    assert_eq!(fields.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(), ["request_id"]);
}

#[tokio::test]
async fn a_repeated_creation_returns_the_first_answer_and_the_id_of_another_is_refused() {
    let world = World::with_job(0).await;

    let remote = |remote_id: &str, request_id: &str| v1::CreateRemoteRequest {
        remote_id: remote_id.to_owned(),
        remote: Some(v1::Remote {
            location: Some(v1::remote::Location::Local(v1::LocalLocation { path: "/srv/second".to_owned() })),
            password: "correct horse battery".to_owned(),
            ..Default::default()
        }),
        request_id: request_id.to_owned(),
    };
    let id = new_id();
    let first = world.remotes().create_remote(remote("second", &id)).await.unwrap().into_inner();
    let again = world.remotes().create_remote(remote("second", &id)).await.unwrap().into_inner();
    assert_eq!(first, again);
    is_of_another(&world.remotes().create_remote(remote("third", &id)).await.unwrap_err());
    let without = world.remotes().create_remote(remote("second", "")).await.unwrap_err();
    assert_eq!(without.code(), Code::AlreadyExists);
    let page = world.remotes().list_remotes(v1::ListRemotesRequest::default()).await.unwrap().into_inner();
    assert_eq!(page.remotes.len(), 2, "{page:?}");

    let job = |job_id: &str, request_id: &str| v1::CreateJobRequest {
        job_id: job_id.to_owned(),
        job: Some(v1::Job {
            selection: Some(v1::Selection { pools: vec!["pools/lab".to_owned()], ..Default::default() }),
            remotes: vec!["remotes/nas".to_owned()],
            ..Default::default()
        }),
        request_id: request_id.to_owned(),
    };
    let id = new_id();
    let first = world.jobs().create_job(job("second", &id)).await.unwrap().into_inner();
    assert_eq!(world.jobs().create_job(job("second", &id)).await.unwrap().into_inner(), first);
    is_of_another(&world.jobs().create_job(job("third", &id)).await.unwrap_err());
    let page = world.jobs().list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner();
    assert_eq!(page.jobs.len(), 2, "{page:?}");

    let schedule = |cron: &str, request_id: &str| v1::CreateScheduleRequest {
        parent: "jobs/all".to_owned(),
        schedule_id: "daily".to_owned(),
        schedule: Some(v1::Schedule { cron: cron.to_owned(), ..Default::default() }),
        request_id: request_id.to_owned(),
    };
    let id = new_id();
    let first = world.jobs().create_schedule(schedule("0 3 * * *", &id)).await.unwrap().into_inner();
    assert_eq!(world.jobs().create_schedule(schedule("0 3 * * *", &id)).await.unwrap().into_inner(), first);
    is_of_another(&world.jobs().create_schedule(schedule("0 4 * * *", &id)).await.unwrap_err());

    let pool = |pool_id: &str, request_id: &str| v1::CreatePoolRequest {
        pool_id: pool_id.to_owned(),
        pool: Some(v1::Pool {
            hosts: vec!["192.0.2.20".to_owned()],
            username: "root".to_owned(),
            password: "not a secret".to_owned(),
            ..Default::default()
        }),
        request_id: request_id.to_owned(),
    };
    let id = new_id();
    let first = world.pools().create_pool(pool("second", &id)).await.unwrap().into_inner();
    assert_eq!(world.pools().create_pool(pool("second", &id)).await.unwrap().into_inner(), first);
    is_of_another(&world.pools().create_pool(pool("third", &id)).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn creations_repeated_at_the_same_moment_get_the_same_answer() {
    let world = World::with_job(0).await;
    for round in 0..20 {
        let request = v1::CreateRemoteRequest {
            remote_id: format!("remote-{round}"),
            remote: Some(v1::Remote {
                location: Some(v1::remote::Location::Local(v1::LocalLocation { path: format!("/srv/{round}") })),
                password: "correct horse battery".to_owned(),
                ..Default::default()
            }),
            request_id: new_id(),
        };
        let calls = (0..4).map(|_| {
            let (mut remotes, request) = (world.remotes(), request.clone());
            tokio::spawn(async move { remotes.create_remote(request).await })
        });
        let answers = futures::future::join_all(calls.collect::<Vec<_>>()).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().unwrap().into_inner()).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
}

#[tokio::test]
async fn a_run_asked_for_twice_at_once_or_later_is_one_run() {
    let world = World::with_job(0).await;
    let mut agent = Agent::start(&world, "rack-1", 1).await;
    let request = |vms: &[&str], request_id: &str| v1::RunJobRequest {
        name: "jobs/all".to_owned(),
        vms: vms.iter().map(ToString::to_string).collect(),
        request_id: request_id.to_owned(),
    };
    let id = new_id();
    let (mut one, mut other) = (world.jobs(), world.jobs());
    let (one, other) = tokio::join!(one.run_job(request(&[], &id)), other.run_job(request(&[], &id)));
    let run = one.unwrap().into_inner().name;
    assert_eq!(other.unwrap().into_inner().name, run);

    let task = agent.told(&[], |tasks| !tasks.is_empty()).await.remove(0);
    agent.back_up(&task).await;
    world.end_of(&run).await;
    // Who did not hear the answer may ask when the run is over already.
    assert_eq!(world.jobs().run_job(request(&[], &id)).await.unwrap().into_inner().name, run);
    let vm = format!("pools/lab/vms/{}", uuid::Uuid::from_u128(1));
    is_of_another(&world.jobs().run_job(request(&[&vm], &id)).await.unwrap_err());
    let not_an_id = world.jobs().run_job(request(&[], "twice")).await.unwrap_err();
    assert_eq!(not_an_id.code(), Code::InvalidArgument);
    assert_eq!(world.list_runs().await.len(), 1);

    let next = world.jobs().run_job(request(&[], &new_id())).await.unwrap().into_inner().name;
    assert_ne!(next, run);
}
