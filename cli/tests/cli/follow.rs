//! Following a run through broken connections, against a server that breaks them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use coffer_proto::v1;
use coffer_proto::v1::run_service_server::{RunService, RunServiceServer};
use futures::Stream;
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::{Done, coffer};

type Message = Result<v1::FollowRunResponse, Status>;
/// What one call is answered: a stream, or a refusal.
type Script = Result<Vec<Message>, Status>;

/// Answers each call of `FollowRun` with the next script, and shows how it was called.
#[derive(Clone, Default)]
struct Server {
    scripts: Arc<Mutex<VecDeque<Script>>>,
    tokens: Arc<Mutex<Vec<String>>>,
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not part of this test"))
}

#[tonic::async_trait]
impl RunService for Server {
    type FollowRunStream = Pin<Box<dyn Stream<Item = Message> + Send>>;

    async fn follow_run(
        &self,
        request: Request<v1::FollowRunRequest>,
    ) -> Result<Response<Self::FollowRunStream>, Status> {
        let token = request.metadata().get("authorization").and_then(|token| token.to_str().ok()).unwrap_or_default();
        self.tokens.lock().expect("no test panics with it").push(token.to_owned());
        let script = self.scripts.lock().expect("no test panics with it").pop_front();
        let script = script.unwrap_or_else(|| Err(Status::internal("called too often")))?;
        Ok(Response::new(Box::pin(futures::stream::iter(script))))
    }

    async fn get_run(&self, _: Request<v1::GetRunRequest>) -> Result<Response<v1::Run>, Status> {
        unused()
    }
    async fn list_runs(&self, _: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let run = v1::Run { name: "runs/nightly.daily.20260101T020000Z".to_owned(), ..Default::default() };
        Ok(Response::new(v1::ListRunsResponse { runs: vec![run], ..Default::default() }))
    }
    async fn get_task(&self, _: Request<v1::GetTaskRequest>) -> Result<Response<v1::Task>, Status> {
        unused()
    }
    async fn list_tasks(&self, _: Request<v1::ListTasksRequest>) -> Result<Response<v1::ListTasksResponse>, Status> {
        unused()
    }
    async fn cancel_run(&self, _: Request<v1::CancelRunRequest>) -> Result<Response<v1::Run>, Status> {
        unused()
    }
    async fn retry_run(&self, _: Request<v1::RetryRunRequest>) -> Result<Response<v1::Run>, Status> {
        unused()
    }
}

fn change(run: v1::run::State, task: v1::task::State) -> v1::FollowRunResponse {
    let run = v1::Run {
        name: "runs/nightly.daily.20260101T020000Z".to_owned(),
        kind: v1::run::Kind::Backup.into(),
        job: "jobs/nightly".to_owned(),
        state: run.into(),
        ..Default::default()
    };
    let task = v1::Task {
        name: format!("{}/tasks/1", run.name),
        subject_label: "web".to_owned(),
        state: task.into(),
        attempt: 1,
        ..Default::default()
    };
    v1::FollowRunResponse { run: Some(run), tasks: vec![task] }
}

/// Runs a command against a server with these scripts.
async fn against(scripts: Vec<Script>, arguments: &[&str]) -> (Done, Vec<String>) {
    let server = Server { scripts: Arc::new(Mutex::new(scripts.into())), ..Server::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port should be free");
    let address: SocketAddr = listener.local_addr().expect("it is bound");
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let serving = tonic::transport::Server::builder().add_service(RunServiceServer::new(server.clone()));
    let serving = tokio::spawn(serving.serve_with_incoming(incoming));
    let folder = tempfile::tempdir().expect("a folder should be made");
    let token: PathBuf = folder.path().join("token");
    std::fs::write(&token, "0123abcd\n").expect("a file should be written");
    let address = address.to_string();
    let mut all = vec!["--server", &address, "--token-file", token.to_str().expect("the path is text")];
    all.extend(arguments);
    let done = coffer(&all, "").await;
    serving.abort();
    let tokens = server.tokens.lock().expect("no test panics with it").clone();
    (done, tokens)
}

#[tokio::test]
async fn a_run_is_followed_through_broken_connections_and_told_once() {
    use v1::run::State;
    use v1::task::State as Task;
    let active = change(State::Active, Task::Running);
    let scripts = vec![
        Ok(vec![Ok(active.clone()), Err(Status::unavailable("the controller stops"))]),
        Err(Status::unavailable("not there yet")),
        // Closed in order, but the run goes on: the controller was told to stop.
        Ok(vec![Ok(active.clone())]),
        Ok(vec![Ok(active), Ok(change(State::Succeeded, Task::Succeeded))]),
    ];
    let (done, tokens) = against(scripts, &["run", "follow", "nightly@latest"]).await;
    assert_eq!(tokens, ["Bearer 0123abcd"; 4]);
    let said: Vec<&str> = done.out.lines().map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest)).collect();
    let expected = [
        "nightly.daily.20260101T020000Z: backup of nightly by hand, 1 task",
        "web: begins",
        "web: SUCCEEDED in -",
        "SUCCEEDED: -",
    ];
    assert_eq!((said, done.code), (expected.to_vec(), 0), "{}", done.err);
}

#[tokio::test]
async fn a_program_that_follows_gets_every_message_as_a_line_and_the_runs_outcome_as_exit_code() {
    let last = change(v1::run::State::Partial, v1::task::State::Failed);
    let scripts = vec![Ok(vec![Ok(change(v1::run::State::Active, v1::task::State::Running)), Ok(last)])];
    let (done, _) = against(scripts, &["--output", "json", "run", "follow", "latest"]).await;
    let states: Vec<String> = done
        .out
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("each line is JSON")["run"]["state"].to_string()
        })
        .collect();
    assert_eq!((states, done.code), (vec!["\"ACTIVE\"".to_owned(), "\"PARTIAL\"".to_owned()], 2));
}

#[tokio::test]
async fn what_the_controller_refuses_is_said_in_one_line_with_advice_and_not_tried_again() {
    let details =
        ErrorDetails::with_error_info("RUN_NOT_FOUND", "coffer", [("advice".to_owned(), "List runs.".to_owned())]);
    let refused = Status::with_error_details(Code::NotFound, "there is no run runs/x", details);
    let (done, tokens) = against(vec![Err(refused)], &["run", "follow", "latest"]).await;
    assert_eq!(tokens.len(), 1);
    assert_eq!(done.err, "error: there is no run runs/x (RUN_NOT_FOUND)\nadvice: List runs.\n");
    assert_eq!((done.code, done.out.as_str()), (65, ""));
}

#[tokio::test]
async fn without_a_controller_or_a_token_the_advice_is_to_start_one() {
    let folder = tempfile::tempdir().expect("a folder should be made");
    let token = folder.path().join("token");
    let arguments =
        ["--server", "127.0.0.1:1", "--token-file", token.to_str().expect("the path is text"), "run", "list"];
    let done = coffer(&arguments, "").await;
    assert_eq!(done.code, 77);
    assert!(done.err.starts_with("error: no access to the API: cannot read the secret in "), "{}", done.err);
    assert!(done.err.contains("advice: start one with `coffer up`"), "{}", done.err);
    std::fs::write(&token, "0123abcd\n").expect("a file should be written");
    let done = coffer(&arguments, "").await;
    assert_eq!(done.code, 69);
    assert!(done.err.starts_with("error: no controller answers at 127.0.0.1:1: "), "{}", done.err);
}
