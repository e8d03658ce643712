//! A controller on a store in memory, clients of it, and an agent that does exactly what a test tells it to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coffer_controller::{Clock, Controller, Handle, ServeOptions, Timings};
use coffer_proto::v1;
use coffer_store::{MemoryStore, StateStore};
use jiff::Timestamp;
use tempfile::TempDir;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

const FINGERPRINT: &str =
    "5E:0A:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:5E:0A:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE";
/// Longest that a test waits for something.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Service = InterceptedService<Channel, Bearer>;

#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

pub(crate) struct World {
    pub(crate) controller: Handle,
    pub(crate) folder: TempDir,
    pub(crate) store: Arc<dyn StateStore>,
}

/// A clock that stands still until a test sets it.
#[derive(Clone, Debug)]
pub(crate) struct SetClock(Arc<Mutex<Timestamp>>);

impl SetClock {
    pub(crate) fn at(time: &str) -> Self {
        Self(Arc::new(Mutex::new(time.parse().unwrap())))
    }

    pub(crate) fn set(&self, time: &str) {
        *self.0.lock().unwrap() = time.parse().unwrap();
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub(crate) async fn start_with(adjust: impl FnOnce(&mut ServeOptions)) -> Self {
        let folder = TempDir::new().unwrap();
        let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
        let mut options =
            ServeOptions { timings: Timings::short(), ..ServeOptions::new(Arc::clone(&store), folder.path()) };
        adjust(&mut options);
        Self { controller: Controller::serve(options).await.unwrap(), folder, store }
    }

    /// A pool, a remote, and a job that backs all of the pool up there.
    pub(crate) async fn with_job(concurrency: u32) -> Self {
        Self::with_job_and(concurrency, |_| ()).await
    }

    pub(crate) async fn with_job_and(concurrency: u32, adjust: impl FnOnce(&mut ServeOptions)) -> Self {
        let world = Self::start_with(adjust).await;
        world.create_pool("lab").await;
        world.create_remote("nas").await;
        let job = v1::Job {
            selection: Some(v1::Selection { pools: vec!["pools/lab".to_owned()], ..Default::default() }),
            mode: v1::job::Mode::Delta.into(),
            remotes: vec!["remotes/nas".to_owned()],
            concurrency,
            ..Default::default()
        };
        let job = v1::CreateJobRequest { job_id: "all".to_owned(), job: Some(job), ..Default::default() };
        world.jobs().create_job(job).await.unwrap();
        world
    }

    pub(crate) fn jobs(&self) -> v1::job_service_client::JobServiceClient<Service> {
        v1::job_service_client::JobServiceClient::new(self.service())
    }

    pub(crate) async fn points(&self) -> Vec<v1::RestorePoint> {
        let mut points = v1::restore_point_service_client::RestorePointServiceClient::new(self.service());
        let request = v1::ListRestorePointsRequest { page_size: 1000, ..Default::default() };
        points.list_restore_points(request).await.unwrap().into_inner().restore_points
    }

    /// All runs, by name.
    pub(crate) async fn list_runs(&self) -> Vec<v1::Run> {
        let request = v1::ListRunsRequest { page_size: 1000, ..Default::default() };
        let mut runs = self.runs().list_runs(request).await.unwrap().into_inner().runs;
        runs.sort_by(|one, other| one.name.cmp(&other.name));
        runs
    }

    pub(crate) async fn create_pool(&self, id: &str) {
        let pool = v1::Pool {
            hosts: vec!["192.0.2.10".to_owned()],
            username: "root".to_owned(),
            password: "not a secret".to_owned(),
            fingerprint: FINGERPRINT.to_owned(),
            ..Default::default()
        };
        let pool = v1::CreatePoolRequest { pool_id: id.to_owned(), pool: Some(pool), ..Default::default() };
        self.pools().create_pool(pool).await.unwrap();
    }

    pub(crate) fn pools(&self) -> v1::pool_service_client::PoolServiceClient<Service> {
        v1::pool_service_client::PoolServiceClient::new(self.service())
    }

    pub(crate) async fn create_remote(&self, id: &str) -> v1::Remote {
        let path = format!("/srv/{id}");
        let remote = v1::Remote {
            location: Some(v1::remote::Location::Local(v1::LocalLocation { path })),
            password: "correct horse battery".to_owned(),
            ..Default::default()
        };
        let request = v1::CreateRemoteRequest { remote_id: id.to_owned(), remote: Some(remote), ..Default::default() };
        self.remotes().create_remote(request).await.unwrap().into_inner()
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.controller.local_addr())).unwrap().connect_lazy()
    }

    pub(crate) fn service(&self) -> Service {
        let token = format!("Bearer {}", self.controller.api_token());
        InterceptedService::new(self.channel(), Bearer(token.parse().unwrap()))
    }

    pub(crate) fn remotes(&self) -> v1::remote_service_client::RemoteServiceClient<Service> {
        v1::remote_service_client::RemoteServiceClient::new(self.service())
    }

    pub(crate) fn runs(&self) -> v1::run_service_client::RunServiceClient<Service> {
        v1::run_service_client::RunServiceClient::new(self.service())
    }

    pub(crate) async fn run_job(&self) -> String {
        let request = v1::RunJobRequest { name: "jobs/all".to_owned(), ..Default::default() };
        self.jobs().run_job(request).await.unwrap().into_inner().name
    }

    /// Follows a run to its end.
    pub(crate) async fn end_of(&self, run: &str) -> v1::Run {
        let request = v1::FollowRunRequest { name: run.to_owned(), ..Default::default() };
        let follow = async {
            let mut answers = self.runs().follow_run(request).await.unwrap().into_inner();
            let mut last = None;
            while let Some(answer) = answers.message().await.unwrap() {
                last = answer.run.or(last);
            }
            last.unwrap()
        };
        tokio::time::timeout(PATIENCE, follow).await.expect("the run should end")
    }

    pub(crate) async fn tasks(&self, run: &str) -> Vec<v1::Task> {
        let request = v1::ListTasksRequest { parent: run.to_owned(), ..Default::default() };
        self.runs().list_tasks(request).await.unwrap().into_inner().tasks
    }
}

/// The reason in a refusal.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

pub(crate) struct Agent {
    pub(crate) client: v1::work_service_client::WorkServiceClient<Service>,
    id: String,
    instance: String,
    pub(crate) session: String,
    config_revision: u64,
    /// What it says of pools.
    pub(crate) pools: Vec<v1::PoolReport>,
    /// What it says of the remotes.
    pub(crate) remotes: Vec<v1::RemoteReport>,
    /// What it was told of them last.
    pub(crate) told_of: Vec<v1::RemoteAccess>,
}

impl Agent {
    /// Registers, and says that it reaches the pool with so many machines, and the remote.
    pub(crate) async fn start(world: &World, id: &str, machines: u128) -> Self {
        let client = v1::work_service_client::WorkServiceClient::new(world.service());
        let instance = uuid::Uuid::new_v4().to_string();
        let mut agent = Self {
            client,
            id: id.to_owned(),
            instance,
            session: String::new(),
            config_revision: 0,
            pools: vec![v1::PoolReport { pool: "pools/lab".to_owned(), connected: true, ..Default::default() }],
            remotes: Vec::new(),
            told_of: Vec::new(),
        };
        agent.remotes = vec![v1::RemoteReport { remote: "remotes/nas".to_owned(), ready: true, ..Default::default() }];
        agent.register().await;
        // The first answer brings the configuration, under which the second reports what is reached.
        agent.sync(&[]).await.unwrap();
        agent.sync(&[]).await.unwrap();
        let vm = |number: u128| v1::InventoryVm {
            uuid: uuid::Uuid::from_u128(number).to_string(),
            name_label: format!("vm-{number}"),
            power_state: "Running".to_owned(),
            ..Default::default()
        };
        let part = v1::ReportInventoryRequest {
            session: agent.session.clone(),
            pool: "pools/lab".to_owned(),
            vms: (1..=machines).map(vm).collect(),
            ..Default::default()
        };
        agent.client.report_inventory(tokio_stream::iter([part])).await.unwrap();
        agent
    }

    /// Begins a new session of the same process.
    pub(crate) async fn register(&mut self) {
        let request = v1::RegisterRequest {
            agent_id: self.id.clone(),
            instance: self.instance.clone(),
            boot_id: "boot".to_owned(),
            version: "0".to_owned(),
            hostname: self.id.clone(),
            capacity: 10,
        };
        self.session = self.client.register(request).await.unwrap().into_inner().session;
    }

    pub(crate) async fn sync(&mut self, held: &[&v1::Assignment]) -> Result<Vec<v1::Assignment>, Status> {
        let holds =
            |task: &&v1::Assignment| v1::HeldTask { task: task.task.clone(), epoch: task.epoch, ..Default::default() };
        let request = v1::SyncRequest {
            session: self.session.clone(),
            held: held.iter().map(holds).collect(),
            pools: self.pools.clone(),
            remotes: self.remotes.clone(),
            config_revision: self.config_revision,
            hold: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
            ..Default::default()
        };
        let answer = self.client.sync(request).await?.into_inner();
        self.config_revision = answer.config_revision;
        if let Some(config) = answer.config {
            self.told_of = config.remotes;
        }
        Ok(answer.tasks)
    }

    /// Syncs until it is told what is waited for.
    pub(crate) async fn told(
        &mut self,
        held: &[&v1::Assignment],
        wanted: impl Fn(&[v1::Assignment]) -> bool,
    ) -> Vec<v1::Assignment> {
        let sync = async {
            loop {
                let tasks = self.sync(held).await.unwrap();
                if wanted(&tasks) {
                    return tasks;
                }
            }
        };
        tokio::time::timeout(PATIENCE, sync).await.expect("the controller should say so")
    }

    pub(crate) async fn step(&mut self, task: &v1::Assignment, op_seq: u64) -> Result<bool, Status> {
        let step =
            v1::Step { name: "transfer".to_owned(), state: v1::step::State::Running.into(), ..Default::default() };
        let request = v1::TransitionRequest {
            session: self.session.clone(),
            task: task.task.clone(),
            epoch: task.epoch,
            op_seq,
            step: Some(step),
            ..Default::default()
        };
        Ok(self.client.transition(request).await?.into_inner().cancel)
    }

    pub(crate) async fn commit(&mut self, task: &v1::Assignment, op_seq: u64) -> Result<u64, Status> {
        let request = v1::RequestCommitRequest {
            session: self.session.clone(),
            task: task.task.clone(),
            epoch: task.epoch,
            op_seq,
            remote: "remotes/nas".to_owned(),
            snapshot_id: "ab".repeat(32),
        };
        Ok(self.client.request_commit(request).await?.into_inner().incarnation)
    }

    pub(crate) async fn complete(
        &mut self,
        task: &v1::Assignment,
        op_seq: u64,
        outcome: v1::complete_request::Outcome,
    ) -> Result<bool, Status> {
        let request = v1::CompleteRequest {
            session: self.session.clone(),
            task: task.task.clone(),
            epoch: task.epoch,
            op_seq,
            outcome: Some(outcome),
            ..Default::default()
        };
        Ok(self.client.complete(request).await?.into_inner().will_retry)
    }

    /// Does a backup from its first step to its restore point.
    pub(crate) async fn back_up(&mut self, task: &v1::Assignment) {
        let point = self.publish(task, "2023-11-14T22:13:20Z").await;
        let success = v1::TaskSuccess { restore_points: vec![point], ..Default::default() };
        assert!(!self.complete(task, 3, v1::complete_request::Outcome::Success(success)).await.unwrap());
    }

    /// Does a backup at this time, and deletes what it is told to delete; the names of that.
    pub(crate) async fn back_up_and_tidy(&mut self, task: &v1::Assignment, time: &str) -> Vec<String> {
        let point = self.publish(task, time).await;
        let (session, name, epoch) = (self.session.clone(), task.task.clone(), task.epoch);
        let request = v1::PlanRetentionRequest {
            session: session.clone(),
            task: name.clone(),
            epoch,
            published: vec![point.clone()],
        };
        let delete = self.client.plan_retention(request).await.unwrap().into_inner().delete;
        let points: Vec<_> = delete.into_iter().map(|doomed| doomed.point).collect();
        let request = v1::ReportDeletedRequest { session, task: name, epoch, points: points.clone() };
        self.client.report_deleted(request).await.unwrap();
        let success = v1::TaskSuccess { restore_points: vec![point], ..Default::default() };
        assert!(!self.complete(task, 3, v1::complete_request::Outcome::Success(success)).await.unwrap());
        points
    }

    /// Does a backup up to its restore point, which nobody knows of yet.
    async fn publish(&mut self, task: &v1::Assignment, time: &str) -> v1::RestorePoint {
        let Some(v1::task_spec::Kind::Backup(spec)) = task.spec.clone().and_then(|spec| spec.kind) else {
            panic!("not a backup: {task:?}");
        };
        assert!(!self.step(task, 1).await.unwrap());
        assert_eq!(self.commit(task, 2).await.unwrap(), 1);
        let (_, id) = task.task.rsplit_once('/').unwrap();
        let time: Timestamp = time.parse().unwrap();
        v1::RestorePoint {
            name: format!("restorePoints/{id}.nas"),
            remote: "remotes/nas".to_owned(),
            vm_uuid: spec.vm_uuid,
            vm_label: "a machine".to_owned(),
            pool: spec.pool,
            time: Some(prost_types::Timestamp { seconds: time.as_second(), nanos: 0 }),
            job: spec.job,
            schedule: spec.schedule,
            snapshot_id: "ab".repeat(32),
            ..Default::default()
        }
    }
}
