//! An agent that only plays: it sees a pool with two machines, and says that everything it is asked to do was done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coffer_proto::v1;
use coffer_proto::v1::task_spec::Kind;
use coffer_proto::v1::work_service_client::WorkServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The fingerprint of the pool's certificate.
pub(crate) const FINGERPRINT: &str =
    "5E:0A:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:5E:0A:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE";
/// The machines of the pool: name and UUID.
pub(crate) const VMS: [(&str, &str); 2] =
    [("web", "11111111-1111-4111-8111-111111111111"), ("db", "22222222-2222-4222-8222-222222222222")];
/// The storage repository of the pool.
pub(crate) const SR: &str = "33333333-3333-4333-8333-333333333333";
/// The machine that a restore makes.
pub(crate) const NEW_VM: &str = "44444444-4444-4444-8444-444444444444";

type Client = WorkServiceClient<InterceptedService<Channel, Bearer>>;

#[derive(Clone)]
struct Bearer(MetadataValue<Ascii>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Plays until it is dropped by its runtime or the controller goes away.
pub(crate) async fn play(address: String, token: String) {
    let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
    let bearer = Bearer(format!("Bearer {token}").parse().expect("a token is ASCII"));
    let mut agent = Agent { client: WorkServiceClient::with_interceptor(channel, bearer), session: String::new() };
    if let Err(status) = agent.work().await {
        // A test that ends takes the controller away first.
        assert!(
            matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled),
            "{status}"
        );
    }
}

struct Agent {
    client: Client,
    session: String,
}

impl Agent {
    async fn work(&mut self) -> Result<(), Status> {
        let register = v1::RegisterRequest {
            agent_id: "rack-1".to_owned(),
            instance: uuid::Uuid::new_v4().to_string(),
            boot_id: uuid::Uuid::new_v4().to_string(),
            version: "0.0.0".to_owned(),
            hostname: "rack".to_owned(),
            capacity: 4,
        };
        self.session = self.client.register(register).await?.into_inner().session;
        let mut config = (0, v1::AgentConfig::default());
        let mut held: BTreeMap<String, v1::Assignment> = BTreeMap::new();
        let mut inventoried = BTreeSet::new();
        loop {
            let sync = v1::SyncRequest {
                session: self.session.clone(),
                held: held
                    .values()
                    .map(|task| v1::HeldTask { task: task.task.clone(), epoch: task.epoch, ..Default::default() })
                    .collect(),
                pools: config.1.pools.iter().map(pool_report).collect(),
                remotes: config.1.remotes.iter().map(remote_report).collect(),
                config_revision: config.0,
                hold: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }),
                draining: false,
            };
            let answer = self.client.sync(sync).await?.into_inner();
            if let Some(new) = answer.config {
                config = (answer.config_revision, new);
            }
            for pool in config.1.pools.iter().filter(|pool| !pool.fingerprint.is_empty()) {
                if inventoried.insert(pool.pool.clone()) {
                    self.client.report_inventory(futures::stream::iter([inventory(&self.session, &pool.pool)])).await?;
                }
            }
            held.retain(|name, _| answer.tasks.iter().any(|task| task.task == *name));
            for task in answer.tasks {
                let known = held.entry(task.task.clone()).or_insert_with(|| task.clone());
                let task = v1::Assignment { spec: task.spec.clone().or(known.spec.clone()), ..task };
                if self.perform(&task).await? {
                    held.remove(&task.task);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Does a task, in no time; a job called `slow` is only ever cancelled. True: it is completed.
    async fn perform(&mut self, task: &v1::Assignment) -> Result<bool, Status> {
        let kind = task.spec.as_ref().and_then(|spec| spec.kind.clone());
        if task.cancel || task.cleanup_only {
            return self.complete(task, 1, v1::complete_request::Outcome::Cancelled(v1::TaskCancelled {})).await;
        }
        let mut success = v1::TaskSuccess::default();
        let mut op_seq = 0;
        match kind {
            Some(Kind::Backup(spec)) if spec.job == "jobs/slow" => return Ok(false),
            Some(Kind::Backup(spec)) => {
                op_seq = 2;
                self.step(task, 1).await?;
                let remote = spec.remotes.first().cloned().unwrap_or_default();
                let commit = v1::RequestCommitRequest {
                    session: self.session.clone(),
                    task: task.task.clone(),
                    epoch: task.epoch,
                    op_seq,
                    remote: remote.clone(),
                    snapshot_id: "ab".repeat(32),
                };
                self.client.request_commit(commit).await?;
                success.restore_points.push(point(task, &spec, &remote));
            }
            Some(Kind::Restore(_)) => success.created_vm_uuid = NEW_VM.to_owned(),
            Some(Kind::Verify(_)) => success.verified_time = Some(now()),
            Some(Kind::Delete(point)) => {
                let deleted = v1::ReportDeletedRequest {
                    session: self.session.clone(),
                    task: task.task.clone(),
                    epoch: task.epoch,
                    points: vec![point.point],
                };
                self.client.report_deleted(deleted).await?;
            }
            Some(Kind::Export(_) | Kind::Scan(_) | Kind::Prune(_)) => {}
            None => return Ok(false),
        }
        self.complete(task, op_seq + 1, v1::complete_request::Outcome::Success(success)).await
    }

    async fn step(&mut self, task: &v1::Assignment, op_seq: u64) -> Result<(), Status> {
        let step = v1::Step {
            name: "transfer".to_owned(),
            state: v1::step::State::Done.into(),
            start_time: Some(now()),
            end_time: Some(now()),
            attempt: task.attempt,
            read_bytes: 3 << 20,
            written_bytes: 1 << 20,
            ..Default::default()
        };
        let transition = v1::TransitionRequest {
            session: self.session.clone(),
            task: task.task.clone(),
            epoch: task.epoch,
            op_seq,
            step: Some(step),
            ..Default::default()
        };
        self.client.transition(transition).await.map(drop)
    }

    async fn complete(
        &mut self,
        task: &v1::Assignment,
        op_seq: u64,
        outcome: v1::complete_request::Outcome,
    ) -> Result<bool, Status> {
        let complete = v1::CompleteRequest {
            session: self.session.clone(),
            task: task.task.clone(),
            epoch: task.epoch,
            op_seq,
            outcome: Some(outcome),
            ..Default::default()
        };
        self.client.complete(complete).await.map(|_| true)
    }
}

fn now() -> prost_types::Timestamp {
    let now = jiff::Timestamp::now();
    prost_types::Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() }
}

fn pool_report(pool: &v1::PoolAccess) -> v1::PoolReport {
    let connected = !pool.fingerprint.is_empty();
    v1::PoolReport { pool: pool.pool.clone(), connected, fingerprint: FINGERPRINT.to_owned(), ..Default::default() }
}

fn remote_report(remote: &v1::RemoteAccess) -> v1::RemoteReport {
    v1::RemoteReport {
        remote: remote.remote.clone(),
        ready: true,
        size_bytes: 100 << 30,
        free_bytes: 40 << 30,
        repository_id: "cd".repeat(32),
        ..Default::default()
    }
}

fn inventory(session: &str, pool: &str) -> v1::ReportInventoryRequest {
    let vm = |(label, uuid): &(&str, &str)| v1::InventoryVm {
        uuid: (*uuid).to_owned(),
        name_label: (*label).to_owned(),
        power_state: "Running".to_owned(),
        tags: vec!["prod".to_owned()],
        disks: vec![v1::InventoryDisk {
            uuid: uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, uuid.as_bytes()).to_string(),
            device: "xvda".to_owned(),
            name_label: "root".to_owned(),
            size_bytes: 8 << 30,
            sr_uuid: SR.to_owned(),
        }],
        host_uuid: String::new(),
    };
    v1::ReportInventoryRequest {
        session: session.to_owned(),
        pool: pool.to_owned(),
        facts: Some(v1::PoolFacts {
            uuid: "55555555-5555-4555-8555-555555555555".to_owned(),
            name_label: "Lab".to_owned(),
            product: "XCP-ng 8.3.0".to_owned(),
            hosts: vec![v1::PoolHost { address: "192.0.2.10".to_owned(), ..Default::default() }],
            fingerprint: FINGERPRINT.to_owned(),
        }),
        vms: VMS.iter().map(vm).collect(),
        srs: vec![v1::InventorySr {
            uuid: SR.to_owned(),
            name_label: "Local storage".to_owned(),
            r#type: "ext".to_owned(),
            shared: false,
            size_bytes: 500 << 30,
            used_bytes: 100 << 30,
        }],
    }
}

fn point(task: &v1::Assignment, spec: &v1::BackupSpec, remote: &str) -> v1::RestorePoint {
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let label = VMS.iter().find(|(_, uuid)| *uuid == spec.vm_uuid).map_or("?", |(label, _)| label);
    v1::RestorePoint {
        name: format!("restorePoints/{}.{}", last(&task.task), last(remote)),
        remote: remote.to_owned(),
        vm_uuid: spec.vm_uuid.clone(),
        vm_label: label.to_owned(),
        pool: spec.pool.clone(),
        time: Some(now()),
        job: spec.job.clone(),
        schedule: spec.schedule.clone(),
        run: task.task.split("/tasks/").next().unwrap_or_default().to_owned(),
        disks: vec![v1::RestorePointDisk {
            uuid: uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, spec.vm_uuid.as_bytes()).to_string(),
            device: "xvda".to_owned(),
            label: "root".to_owned(),
            size_bytes: 8 << 30,
            path: "disks/xvda.raw".to_owned(),
        }],
        disk_bytes: 8 << 30,
        added_bytes: 1 << 20,
        snapshot_id: "ab".repeat(32),
        ..Default::default()
    }
}
