//! A controller that says what a test tells it to, over loopback: the whole protocol, none of the decisions.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coffer_agent::{Agent, AgentOptions};
use coffer_proto::v1::work_service_server::{WorkService, WorkServiceServer};
use coffer_proto::v1::{
    AgentConfig, Assignment, CompleteRequest, CompleteResponse, PlanRetentionRequest, PlanRetentionResponse,
    PoolReport, Problem, RegisterRequest, RegisterResponse, RemoteAccess, RemoteReport, RemoteSpec,
    ReportCatalogueRequest, ReportCatalogueResponse, ReportDeletedRequest, ReportDeletedResponse,
    ReportInventoryRequest, ReportInventoryResponse, ReportProgressRequest, ReportProgressResponse,
    RequestCommitRequest, RequestCommitResponse, SyncRequest, SyncResponse, TaskSpec, TransitionRequest,
    TransitionResponse, complete_request, task_spec,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// The token that controllers know unless told otherwise.
pub(crate) const TOKEN: &str = "right";

/// What an agent called, in the order in which it arrived.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Register {
        instance: String,
    },
    Sync {
        held: Vec<(String, u64)>,
    },
    Progress {
        held: Vec<(String, u64)>,
    },
    /// A record of a task: epoch, number, step.
    Record {
        task: String,
        epoch: u64,
        op_seq: u64,
        step: String,
    },
    Complete {
        task: String,
        epoch: u64,
        op_seq: u64,
        succeeded: bool,
    },
}

/// What is answered.
#[derive(Default)]
pub(crate) struct Script {
    /// What the agent should hold; every answer carries each with its specification.
    pub(crate) tasks: Vec<Assignment>,
    pub(crate) config: AgentConfig,
    pub(crate) config_revision: u64,
    /// The session in force; another one is not known.
    pub(crate) session: u64,
    /// The token that is known.
    pub(crate) token: String,
    /// How long an agent may go on without an answer.
    pub(crate) hard_stop: Duration,
    /// Refuses records of tasks with this reason.
    pub(crate) denies_records: Option<&'static str>,
    /// What the agent called.
    pub(crate) calls: Vec<Call>,
    /// Calls that were refused for the token.
    pub(crate) refused: usize,
    /// Calls of tasks that wait for their answer at this moment.
    pub(crate) waiting: usize,
    /// Exchanges that do.
    pub(crate) asking: usize,
    /// Ends that were told, and whose reply is waited for.
    pub(crate) telling: usize,
    /// The last report on each pool and remote.
    pub(crate) pools: Vec<PoolReport>,
    pub(crate) remotes: Vec<RemoteReport>,
    /// Why tasks failed.
    pub(crate) failures: Vec<Problem>,
}

struct Inner {
    script: Mutex<Script>,
    /// Counts what happened, so that tests can wait for it.
    happened: watch::Sender<u64>,
    records_pass: watch::Sender<bool>,
    syncs_pass: watch::Sender<bool>,
    ends_pass: watch::Sender<bool>,
}

/// The controller. Clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Controller(Arc<Inner>);

impl Controller {
    fn new() -> Self {
        let (token, hard_stop) = (TOKEN.to_owned(), Duration::from_secs(20));
        let script = Script { session: 1, token, hard_stop, ..Script::default() };
        Self(Arc::new(Inner {
            script: Mutex::new(script),
            happened: watch::channel(0).0,
            records_pass: watch::channel(true).0,
            syncs_pass: watch::channel(true).0,
            ends_pass: watch::channel(true).0,
        }))
    }

    /// What is answered, and what was called.
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock().unwrap()
    }

    /// Whether records of tasks are answered, or held until they may be.
    pub(crate) fn let_records_pass(&self, pass: bool) {
        self.0.records_pass.send_replace(pass);
    }

    /// Whether the end of a task, once it is known, is replied to, or the reply held until it may go.
    pub(crate) fn let_replies_to_ends_pass(&self, pass: bool) {
        self.0.ends_pass.send_replace(pass);
    }

    /// From now on an exchange has to wait for its answer; returns when one does.
    pub(crate) async fn hold_exchange(&self) {
        self.0.syncs_pass.send_replace(false);
        self.until("an exchange to wait", |script| script.asking == 1).await;
    }

    /// Answers it, with what was true when it was asked.
    pub(crate) fn answer_exchange(&self) {
        self.0.syncs_pass.send_replace(true);
    }

    /// Assigns a scan of the remote: the least that a task can be.
    pub(crate) fn assign(&self, task: u128, epoch: u64) -> String {
        let spec = TaskSpec { kind: Some(task_spec::Kind::Scan(RemoteSpec { remote: "remotes/vault".into() })) };
        let name = task_name(task);
        let assignment = Assignment { task: name.clone(), epoch, attempt: 1, spec: Some(spec), ..Default::default() };
        let mut script = self.script();
        script.tasks.retain(|known| known.task != name);
        script.tasks.push(assignment);
        name
    }

    /// Waits until something holds of what is answered and what was called.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut(&Script) -> bool) {
        let mut happened = self.0.happened.subscribe();
        let waiting = async {
            while !holds(&self.script()) {
                happened.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("{what} did not happen; the calls were {:#?}", self.script().calls);
        }
    }

    /// Waits until the agent has exchanged so often from now on, which it does several times in a second.
    pub(crate) async fn exchanges(&self, times: usize) {
        let already = self.script().syncs();
        self.until("more exchanges", |script| script.syncs() >= already + times).await;
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script());
        self.0.happened.send_modify(|count| *count += 1);
    }

    fn note(&self, call: Call) {
        self.change(|script| script.calls.push(call));
    }

    fn check(&self, session: &str) -> Result<(), Status> {
        if session == format!("session-{}", self.script().session) {
            return Ok(());
        }
        Err(denied(Code::Unauthenticated, "SESSION_UNKNOWN"))
    }

    /// Checks a call of a task and holds it as long as it must wait; the session may be over afterwards.
    async fn pass(&self, session: &str) -> Result<(), Status> {
        self.check(session)?;
        let _waiting = Waiting::begin(self, |script| &mut script.waiting);
        self.0.records_pass.subscribe().wait_for(|pass| *pass).await.unwrap();
        self.check(session)?;
        match self.script().denies_records {
            Some(reason) => Err(denied(Code::FailedPrecondition, reason)),
            None => Ok(()),
        }
    }
}

/// A call that waits and is counted for as long; whoever cuts it off ends it.
struct Waiting<'a>(&'a Controller, fn(&mut Script) -> &mut usize);

impl<'a> Waiting<'a> {
    fn begin(controller: &'a Controller, count: fn(&mut Script) -> &mut usize) -> Self {
        controller.change(|script| *count(script) += 1);
        Self(controller, count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.change(|script| *(self.1)(script) -= 1);
    }
}

impl Script {
    fn syncs(&self) -> usize {
        self.calls.iter().filter(|call| matches!(call, Call::Sync { .. })).count()
    }

    /// What the last exchange said is held.
    pub(crate) fn held(&self) -> Vec<(String, u64)> {
        let last = self.calls.iter().rev().find_map(|call| match call {
            Call::Sync { held } => Some(held.clone()),
            _ => None,
        });
        last.unwrap_or_default()
    }

    /// How often a task was begun under an epoch.
    pub(crate) fn begun(&self, task: &str, epoch: u64) -> usize {
        self.records_of(task, epoch).filter(|(op_seq, _)| *op_seq == 1).count()
    }

    /// Numbers and steps of what was recorded of a task under an epoch.
    pub(crate) fn records_of(&self, task: &str, epoch: u64) -> impl Iterator<Item = (u64, &str)> {
        self.calls.iter().filter_map(move |call| match call {
            Call::Record { task: of, epoch: under, op_seq, step } if of == task && *under == epoch => {
                Some((*op_seq, step.as_str()))
            }
            _ => None,
        })
    }

    /// The epochs under which a task was completed.
    pub(crate) fn completed(&self, task: &str) -> Vec<u64> {
        let of_task = self.calls.iter().filter_map(|call| match call {
            Call::Complete { task: of, epoch, succeeded: true, .. } if of == task => Some(*epoch),
            _ => None,
        });
        of_task.collect()
    }

    pub(crate) fn registrations(&self) -> usize {
        self.calls.iter().filter(|call| matches!(call, Call::Register { .. })).count()
    }
}

pub(crate) fn task_name(task: u128) -> String {
    let run = uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
    format!("runs/{run}/tasks/{}", uuid::Uuid::from_u128(task))
}

fn denied(code: Code, reason: &str) -> Status {
    let details =
        ErrorDetails::with_error_info(reason, "coffer.v1", std::collections::HashMap::<String, String>::new());
    Status::with_error_details(code, "no", details)
}

fn seconds(duration: Duration) -> Option<prost_types::Duration> {
    Some(duration.try_into().unwrap())
}

#[tonic::async_trait]
impl WorkService for Controller {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let hard_stop = self.script().hard_stop;
        self.note(Call::Register { instance: request.into_inner().instance });
        let session = format!("session-{}", self.script().session);
        Ok(Response::new(RegisterResponse {
            session,
            sync_interval: seconds(Duration::from_millis(200)),
            authority: seconds(hard_stop / 2),
            hard_stop: seconds(hard_stop),
            site: "site".into(),
        }))
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        let request = request.into_inner();
        self.check(&request.session)?;
        for report in request.pools {
            let mut script = self.script();
            script.pools.retain(|known| known.pool != report.pool);
            script.pools.push(report);
        }
        for report in request.remotes {
            let mut script = self.script();
            script.remotes.retain(|known| known.remote != report.remote);
            script.remotes.push(report);
        }
        self.note(Call::Sync { held: request.held.into_iter().map(|held| (held.task, held.epoch)).collect() });
        // What is answered was true when the question arrived, however late that is.
        let (tasks, config_revision, config) = {
            let script = self.script();
            (script.tasks.clone(), script.config_revision, script.config.clone())
        };
        let asking = Waiting::begin(self, |script| &mut script.asking);
        self.0.syncs_pass.subscribe().wait_for(|pass| *pass).await.unwrap();
        drop(asking);
        self.check(&request.session)?;
        let config = (request.config_revision != config_revision).then_some(config);
        Ok(Response::new(SyncResponse { tasks, config, config_revision }))
    }

    async fn report_progress(
        &self,
        request: Request<ReportProgressRequest>,
    ) -> Result<Response<ReportProgressResponse>, Status> {
        let request = request.into_inner();
        self.check(&request.session)?;
        self.note(Call::Progress { held: request.held.into_iter().map(|held| (held.task, held.epoch)).collect() });
        Ok(Response::new(ReportProgressResponse {}))
    }

    async fn transition(&self, request: Request<TransitionRequest>) -> Result<Response<TransitionResponse>, Status> {
        let request = request.into_inner();
        let step = request.step.map(|step| format!("{} {:?}", step.name, step.state())).unwrap_or_default();
        self.check(&request.session)?;
        self.note(Call::Record { task: request.task, epoch: request.epoch, op_seq: request.op_seq, step });
        self.pass(&request.session).await?;
        Ok(Response::new(TransitionResponse::default()))
    }

    async fn request_commit(
        &self,
        _: Request<RequestCommitRequest>,
    ) -> Result<Response<RequestCommitResponse>, Status> {
        Err(Status::unimplemented("no test publishes"))
    }

    async fn plan_retention(
        &self,
        _: Request<PlanRetentionRequest>,
    ) -> Result<Response<PlanRetentionResponse>, Status> {
        Err(Status::unimplemented("no test lets anything go"))
    }

    async fn report_deleted(
        &self,
        _: Request<ReportDeletedRequest>,
    ) -> Result<Response<ReportDeletedResponse>, Status> {
        Err(Status::unimplemented("no test deletes"))
    }

    async fn complete(&self, request: Request<CompleteRequest>) -> Result<Response<CompleteResponse>, Status> {
        let request = request.into_inner();
        self.pass(&request.session).await?;
        let succeeded = matches!(request.outcome, Some(complete_request::Outcome::Success(_)));
        if let Some(complete_request::Outcome::Failure(problem)) = request.outcome {
            self.script().failures.push(problem);
        }
        self.script().tasks.retain(|task| task.task != request.task || task.epoch != request.epoch);
        let (task, epoch, op_seq) = (request.task, request.epoch, request.op_seq);
        let _telling = Waiting::begin(self, |script| &mut script.telling);
        self.note(Call::Complete { task, epoch, op_seq, succeeded });
        self.0.ends_pass.subscribe().wait_for(|pass| *pass).await.unwrap();
        Ok(Response::new(CompleteResponse::default()))
    }

    async fn report_inventory(
        &self,
        _: Request<Streaming<ReportInventoryRequest>>,
    ) -> Result<Response<ReportInventoryResponse>, Status> {
        Ok(Response::new(ReportInventoryResponse::default()))
    }

    async fn report_catalogue(
        &self,
        request: Request<Streaming<ReportCatalogueRequest>>,
    ) -> Result<Response<ReportCatalogueResponse>, Status> {
        let mut parts = request.into_inner();
        while let Some(part) = parts.message().await? {
            self.check(&part.session)?;
        }
        Ok(Response::new(ReportCatalogueResponse::default()))
    }
}

/// A controller's listener. Whoever is connected is cut off when it is dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    server: AbortOnDropHandle<()>,
}

impl Served {
    pub(crate) async fn at(controller: &Controller, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let knows_token = {
            let controller = controller.clone();
            move |request: Request<()>| {
                let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
                if shown == Some(&format!("Bearer {}", controller.script().token)) {
                    return Ok(request);
                }
                controller.change(|script| script.refused += 1);
                Err(denied(Code::Unauthenticated, "TOKEN_REQUIRED"))
            }
        };
        let service = WorkServiceServer::with_interceptor(controller.clone(), knows_token);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = async move {
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        };
        Self { address, server: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    /// Ends, and every connection with it.
    pub(crate) async fn stop(self) -> SocketAddr {
        self.server.abort();
        let address = self.address;
        let _ = self.server.await;
        address
    }
}

/// A controller with an agent that works for it.
pub(crate) struct Stage {
    pub(crate) controller: Controller,
    pub(crate) served: Option<Served>,
    pub(crate) folder: TempDir,
    stop: CancellationToken,
    agent: Option<tokio::task::JoinHandle<Result<(), coffer_agent::Error>>>,
}

impl Stage {
    /// With a remote that tasks can scan.
    pub(crate) async fn set() -> Self {
        let mut stage = Self::without_agent().await;
        stage.configure(&["vault"]);
        stage.enter(TOKEN, None, &[]);
        stage.controller.until("the remote to be ready", |script| script.remotes.iter().any(|r| r.ready)).await;
        stage
    }

    pub(crate) async fn without_agent() -> Self {
        let controller = Controller::new();
        let served = Served::at(&controller, "127.0.0.1:0".parse().unwrap()).await;
        let folder = TempDir::with_prefix("coffer-exchange-").unwrap();
        Self { controller, served: Some(served), folder, stop: CancellationToken::new(), agent: None }
    }

    /// The remotes with folders of these names, which exist.
    pub(crate) fn configure(&self, remotes: &[&str]) {
        let access = |name: &&str| {
            let path = self.folder.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            RemoteAccess {
                remote: format!("remotes/{name}"),
                local_path: path.display().to_string(),
                password: "password".into(),
                ..Default::default()
            }
        };
        self.reconfigure(AgentConfig { pools: Vec::new(), remotes: remotes.iter().map(access).collect() });
    }

    pub(crate) fn reconfigure(&self, config: AgentConfig) {
        let mut script = self.controller.script();
        script.config = config;
        script.config_revision += 1;
    }

    /// Starts the agent; `others` are controllers that it asks first.
    pub(crate) fn enter(&mut self, token: &str, token_file: Option<std::path::PathBuf>, others: &[SocketAddr]) {
        let served = self.served.as_ref().unwrap().address;
        let controllers = others.iter().chain([&served]).map(|address| format!("http://{address}")).collect();
        let options = AgentOptions {
            token_file,
            ..AgentOptions::new(controllers, token.to_owned().into(), self.folder.path().join("agent"))
        };
        self.agent = Some(tokio::spawn(Agent::run(options, self.stop.clone())));
    }

    /// Asks the agent to stop and waits until it has.
    pub(crate) async fn leave(mut self) {
        self.stop.cancel();
        let agent = self.agent.take().expect("an agent has entered");
        tokio::time::timeout(PATIENCE, agent).await.expect("the agent stops").unwrap().unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
