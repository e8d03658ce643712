//! The API as a test uses it: generated clients with the token in every call, and the calls that every scenario makes.

use anyhow::{Context, Result, ensure};
use coffer_proto::v1::agent_service_client::AgentServiceClient;
use coffer_proto::v1::job_service_client::JobServiceClient;
use coffer_proto::v1::pool_service_client::PoolServiceClient;
use coffer_proto::v1::remote_service_client::RemoteServiceClient;
use coffer_proto::v1::restore_point_service_client::RestorePointServiceClient;
use coffer_proto::v1::restore_service_client::RestoreServiceClient;
use coffer_proto::v1::run_service_client::RunServiceClient;
use coffer_proto::v1::{
    CreateRestoreRequest, GetRunRequest, ListRestorePointsRequest, ListTasksRequest, Restore, RestorePoint, Run,
    RunJobRequest, Task, run,
};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::until;

/// Puts the token into every call.
#[derive(Clone)]
pub struct Token(MetadataValue<Ascii>);

impl Token {
    /// What stands in a controller's file `api-token`.
    ///
    /// # Errors
    /// When it cannot be one.
    pub fn new(token: &str) -> Result<Self> {
        Ok(Self(format!("Bearer {}", token.trim()).parse()?))
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Authenticated = InterceptedService<Channel, Token>;

/// Clients of every service of a controller.
#[derive(Clone)]
#[expect(missing_docs, reason = "each is the generated client of the service it is named after")]
pub struct Api {
    pub pools: PoolServiceClient<Authenticated>,
    pub remotes: RemoteServiceClient<Authenticated>,
    pub jobs: JobServiceClient<Authenticated>,
    pub runs: RunServiceClient<Authenticated>,
    pub points: RestorePointServiceClient<Authenticated>,
    pub restores: RestoreServiceClient<Authenticated>,
    pub agents: AgentServiceClient<Authenticated>,
}

impl Api {
    /// Clients of the controller at `http://host:port`; it is dialled when first used, and again after it restarted.
    ///
    /// # Errors
    /// When the address or the token cannot be one.
    pub fn new(address: &str, token: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(address.to_owned())?.connect_lazy();
        let service = InterceptedService::new(channel, Token::new(token)?);
        Ok(Self {
            pools: PoolServiceClient::new(service.clone()),
            remotes: RemoteServiceClient::new(service.clone()),
            jobs: JobServiceClient::new(service.clone()),
            runs: RunServiceClient::new(service.clone()),
            points: RestorePointServiceClient::new(service.clone()),
            restores: RestoreServiceClient::new(service.clone()),
            agents: AgentServiceClient::new(service),
        })
    }

    /// Starts a run of a job.
    ///
    /// # Errors
    /// What the controller answers.
    pub async fn start_job(&self, job: &str) -> Result<Run> {
        let request = RunJobRequest { name: job.to_owned(), ..Default::default() };
        Ok(self.jobs.clone().run_job(request).await?.into_inner())
    }

    /// Runs a job to its end, whatever that is.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn run_job(&self, job: &str) -> Result<Run> {
        let run = self.start_job(job).await?;
        self.ended(&run.name).await
    }

    /// Runs a job, which must succeed.
    ///
    /// # Errors
    /// When it does not; with what its tasks say.
    pub async fn back_up(&self, job: &str) -> Result<Vec<Task>> {
        let run = self.run_job(job).await?;
        self.succeeded(&run).await
    }

    /// The tasks of a run that must have succeeded.
    ///
    /// # Errors
    /// When it did not; with what its tasks say.
    pub async fn succeeded(&self, run: &Run) -> Result<Vec<Task>> {
        let tasks = self.tasks(&run.name).await?;
        ensure!(
            run.state() == run::State::Succeeded,
            "{} ended {:?}: {} {:#?}",
            run.name,
            run.state(),
            run.message,
            tasks.iter().map(|task| (&task.subject_label, task.state(), &task.error, &task.log)).collect::<Vec<_>>()
        );
        Ok(tasks)
    }

    /// One run.
    ///
    /// # Errors
    /// What the controller answers.
    pub async fn run(&self, name: &str) -> Result<Run> {
        Ok(self.runs.clone().get_run(GetRunRequest { name: name.to_owned() }).await?.into_inner())
    }

    /// Waits until a run has ended. Outages of the controller in between are waited out.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn ended(&self, name: &str) -> Result<Run> {
        until(&format!("the end of {name}"), async || {
            let run = self.run(name).await?;
            Ok(run.end_time.is_some().then_some(run))
        })
        .await
    }

    /// The tasks of a run.
    ///
    /// # Errors
    /// What the controller answers.
    pub async fn tasks(&self, run: &str) -> Result<Vec<Task>> {
        let request = ListTasksRequest { parent: run.to_owned(), page_size: 1000, ..Default::default() };
        Ok(self.runs.clone().list_tasks(request).await?.into_inner().tasks)
    }

    /// Restore points of a virtual machine, newest first; of all, when it is empty.
    ///
    /// # Errors
    /// What the controller answers.
    pub async fn restore_points(&self, vm: &str) -> Result<Vec<RestorePoint>> {
        let request = ListRestorePointsRequest { vm: vm.to_owned(), page_size: 1000, ..Default::default() };
        Ok(self.points.clone().list_restore_points(request).await?.into_inner().restore_points)
    }

    /// Starts a restore of a restore point to a storage repository.
    ///
    /// # Errors
    /// What the controller answers.
    pub async fn start_restore(&self, point: &str, sr: &str) -> Result<Restore> {
        let restore = Restore {
            restore_point: point.to_owned(),
            storage_repository: sr.to_owned(),
            keep_mac_addresses: true,
            ..Default::default()
        };
        let request = CreateRestoreRequest { restore: Some(restore), ..Default::default() };
        Ok(self.restores.clone().create_restore(request).await?.into_inner())
    }

    /// Restores a restore point to a storage repository; the UUID of the new virtual machine.
    ///
    /// # Errors
    /// When the restore does not succeed; with what its task says.
    pub async fn restore(&self, point: &str, sr: &str) -> Result<String> {
        let restore = self.start_restore(point, sr).await?;
        let tasks = self.succeeded(&self.ended(&restore.run).await?).await?;
        Ok(tasks.first().context("a restore has one task")?.created_vm_uuid.clone())
    }
}
