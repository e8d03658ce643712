//! `RemoteService`.

use std::sync::Arc;

use coffer_core::record::{Plan, RemoteRecord, RemoteStateRecord, RunRecord};
use coffer_core::{Change, Entry, Key, State};
use coffer_model::names::Named;
use coffer_model::{RemoteId, RunId};
use coffer_proto::v1;
use secrecy::SecretString;
use tonic::{Request, Response, Status};

use super::pools::touch_config;
use super::{check_etag, mask, missing, start_run, unfinished};
use crate::convert::place::remote_out;
use crate::convert::{id_in, name_in, text_in};
use crate::fault::Fault;
use crate::page::{Order, page};
use crate::plane::{Effect, Plane};
use crate::request::{Known, look_up};
use crate::secret::{self, Owner};

const FIELDS: [&str; 3] = ["display_name", "password", "max_concurrent_tasks"];

#[derive(Debug, Clone)]
pub(crate) struct Remotes(pub(crate) Arc<Plane>);

fn path_in(location: Option<v1::remote::Location>) -> Result<String, Fault> {
    let Some(v1::remote::Location::Local(local)) = location else {
        return Err(Fault::invalid("remote.local", "must be set"));
    };
    let path = std::path::Path::new(&local.path);
    let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if !path.is_absolute() || !plain || local.path.len() > 4096 || local.path.contains('\0') {
        return Err(Fault::invalid("remote.local.path", "must be an absolute path without `..`"));
    }
    Ok(local.path)
}

fn password_in(password: String) -> Result<SecretString, Fault> {
    if password.is_empty() || password.len() > 1024 {
        return Err(Fault::invalid("remote.password", "must have 1 to 1024 bytes"));
    }
    Ok(password.into())
}

fn chunk_in(size: u32) -> Result<u32, Fault> {
    if size == 0 || (size.is_power_of_two() && (65_536..=8_388_608).contains(&size)) {
        return Ok(size);
    }
    Err(Fault::invalid("remote.chunk_size_bytes", "must be 0, or a power of two from 65536 to 8388608"))
}

fn look(state: &State, id: &RemoteId) -> Result<v1::Remote, Fault> {
    let remote = state.remotes.get(&(id.clone(),)).ok_or_else(|| missing(id.name()))?;
    Ok(remote_out(state, id, remote))
}

/// True when a plan works on a remote.
fn uses(plan: &Plan, id: &RemoteId) -> bool {
    match plan {
        Plan::Backup { remotes, .. } => remotes.contains(id),
        Plan::Restore { point, .. } | Plan::Export { point, .. } => point.remote == *id,
        Plan::Verify { points } | Plan::Delete { points, .. } => points.iter().any(|point| point.remote == *id),
        Plan::Scan { remote } | Plan::Prune { remote, .. } => remote == id,
    }
}

/// What a request asks for, as far as the store may know.
fn without_password(request: &v1::CreateRemoteRequest) -> v1::CreateRemoteRequest {
    let mut request = request.clone();
    if let Some(remote) = &mut request.remote {
        remote.password.clear();
    }
    request
}

impl Remotes {
    async fn create(&self, mut request: v1::CreateRemoteRequest) -> Result<v1::Remote, Fault> {
        let id: RemoteId = id_in("remote_id", &request.remote_id)?;
        let fresh = match look_up(&self.0, "CreateRemote", &request.request_id, &without_password(&request)).await? {
            Known::Done(made) => return self.0.read(|state| look(state, &name_in("name", &made)?)),
            Known::Fresh(fresh) => fresh,
        };
        let remote = request.remote.take().ok_or_else(|| Fault::invalid("remote", "must be set"))?;
        let password = password_in(remote.password)?;
        let record = RemoteRecord {
            display_name: text_in("remote.display_name", remote.display_name, 200)?,
            local_path: path_in(remote.location)?,
            chunk_size_bytes: chunk_in(remote.chunk_size_bytes)?,
            max_concurrent_tasks: remote.max_concurrent_tasks,
        };
        let done = self
            .0
            .mutate(|state, now| {
                if state.remotes.contains_key(&(id.clone(),)) {
                    return Err(Fault::AlreadyExists { name: id.name() });
                }
                let change =
                    Change::new().absent(Key::Remote(id.clone())).put(Entry::Remote((id.clone(),), record.clone()));
                let mut effect = Effect::from(touch_config(change));
                effect.ops.push(secret::put(&self.0.sealer, &Owner::Remote(&id), &password));
                Ok((fresh.remember(effect, &id.name(), now), ()))
            })
            .await;
        fresh.settle(&self.0, done).await?;
        self.0.read(|state| look(state, &id))
    }

    async fn update(&self, request: v1::UpdateRemoteRequest) -> Result<v1::Remote, Fault> {
        let remote = request.remote.ok_or_else(|| Fault::invalid("remote", "must be set"))?;
        let id: RemoteId = name_in("remote.name", &remote.name)?;
        let fields = mask(request.update_mask, &FIELDS)?;
        let named = |field: &str| fields.iter().any(|named| named == field);
        let display_name = text_in("remote.display_name", remote.display_name, 200)?;
        let password = if named("password") { Some(password_in(remote.password)?) } else { None };
        self.0
            .mutate(|state, _| {
                let found = state.remotes.get(&(id.clone(),)).ok_or_else(|| missing(id.name()))?;
                check_etag(&id.name(), &remote.etag, found)?;
                let mut record = found.record.clone();
                if named("display_name") {
                    record.display_name.clone_from(&display_name);
                }
                if named("max_concurrent_tasks") {
                    record.max_concurrent_tasks = remote.max_concurrent_tasks;
                }
                let mut change =
                    Change::new().unchanged(Key::Remote(id.clone()), found).put(Entry::Remote((id.clone(),), record));
                // Until an agent has tried the new password, nothing is known.
                if let Some(seen) = state.remote_states.get(&(id.clone(),)).filter(|_| password.is_some()) {
                    let record = RemoteStateRecord { ready: None, problem: None, ..seen.record.clone() };
                    change = change
                        .unchanged(Key::RemoteState(id.clone()), seen)
                        .put(Entry::RemoteState((id.clone(),), record));
                }
                let mut effect = Effect::from(touch_config(change));
                effect.ops.extend(
                    password.as_ref().map(|password| secret::put(&self.0.sealer, &Owner::Remote(&id), password)),
                );
                Ok((effect, ()))
            })
            .await?;
        self.0.read(|state| look(state, &id))
    }

    async fn delete(&self, request: v1::DeleteRemoteRequest) -> Result<(), Fault> {
        let id: RemoteId = name_in("name", &request.name)?;
        // Its restore points go from the catalogue by the duty `upkeep`.
        self.0
            .mutate(|state, _| {
                let found = state.remotes.get(&(id.clone(),)).ok_or_else(|| missing(id.name()))?;
                check_etag(&id.name(), &request.etag, found)?;
                let in_use = |by: String, advice: &str| Fault::Precondition {
                    reason: "REMOTE_IN_USE",
                    message: format!("{} is used by {by}", id.name()),
                    advice: advice.into(),
                };
                if let Some(((job,), _)) = state.jobs.iter().find(|(_, job)| job.record.job.remotes.contains(&id)) {
                    return Err(in_use(job.name(), "change or delete the job first"));
                }
                if let Some(run) = unfinished(state, |plan| uses(plan, &id)) {
                    return Err(in_use(run.name(), "wait for the run to end, or cancel it"));
                }
                let change = Change::new()
                    .unchanged(Key::Remote(id.clone()), found)
                    .unchanged_or_absent(Key::Config(), state.configs.get(&()))
                    .delete(Key::Remote(id.clone()))
                    .delete(Key::RemoteState(id.clone()));
                let mut effect = Effect::from(touch_config(change));
                effect.ops.push(secret::delete(&Owner::Remote(&id)));
                Ok((effect, ()))
            })
            .await
    }

    /// A run on a remote that exists.
    async fn run<M: prost::Message>(
        &self,
        method: &'static str,
        name: &str,
        request_id: &str,
        request: &M,
        plan: impl Fn(RemoteId) -> Plan,
    ) -> Result<v1::Run, Fault> {
        let id: RemoteId = name_in("name", name)?;
        let now = self.0.now();
        let run: RunId = start_run(&self.0, method, request_id, request, |state, _| {
            let found = state.remotes.get(&(id.clone(),)).ok_or_else(|| missing(id.name()))?;
            let change = Change::new().same(Key::Remote(id.clone()), found);
            Ok((change, RunRecord::new(plan(id.clone()), now)))
        })
        .await?;
        super::runs::look(&self.0, &run)
    }
}

#[tonic::async_trait]
impl v1::remote_service_server::RemoteService for Remotes {
    async fn create_remote(&self, request: Request<v1::CreateRemoteRequest>) -> Result<Response<v1::Remote>, Status> {
        Ok(Response::new(self.create(request.into_inner()).await?))
    }

    async fn get_remote(&self, request: Request<v1::GetRemoteRequest>) -> Result<Response<v1::Remote>, Status> {
        let id = name_in("name", &request.into_inner().name)?;
        Ok(Response::new(self.0.read(|state| look(state, &id))?))
    }

    async fn list_remotes(
        &self,
        request: Request<v1::ListRemotesRequest>,
    ) -> Result<Response<v1::ListRemotesResponse>, Status> {
        let request = request.into_inner();
        let all = self.0.read(|state| {
            state.remotes.iter().map(|((id,), remote)| (id.to_string(), remote_out(state, id, remote))).collect()
        });
        let (remotes, next_page_token) = page(all, Order::Rising, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListRemotesResponse { remotes, next_page_token }))
    }

    async fn update_remote(&self, request: Request<v1::UpdateRemoteRequest>) -> Result<Response<v1::Remote>, Status> {
        Ok(Response::new(self.update(request.into_inner()).await?))
    }

    async fn delete_remote(&self, request: Request<v1::DeleteRemoteRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.delete(request.into_inner()).await?))
    }

    async fn scan_remote(&self, request: Request<v1::ScanRemoteRequest>) -> Result<Response<v1::Run>, Status> {
        let request = request.into_inner();
        let run = self
            .run("ScanRemote", &request.name, &request.request_id, &request, |remote| Plan::Scan { remote })
            .await?;
        Ok(Response::new(run))
    }

    async fn prune_remote(&self, request: Request<v1::PruneRemoteRequest>) -> Result<Response<v1::Run>, Status> {
        let request = request.into_inner();
        let dry_run = request.dry_run;
        let run = self
            .run("PruneRemote", &request.name, &request.request_id, &request, |remote| Plan::Prune { remote, dry_run })
            .await?;
        Ok(Response::new(run))
    }
}
