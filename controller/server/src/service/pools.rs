//! `PoolService`.

use std::sync::Arc;

use coffer_core::record::{ConfigRecord, Plan, PoolRecord, PoolStateRecord};
use coffer_core::{Change, Entry, Key, State};
use coffer_model::PoolId;
use coffer_model::names::Named;
use coffer_proto::v1;
use secrecy::SecretString;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{check_etag, mask, missing, unfinished};
use crate::convert::place::{pool_out, sr_out, vm_out};
use crate::convert::{id_in, name_in, text_in};
use crate::fault::Fault;
use crate::page::{Order, page};
use crate::plane::{Effect, Plane};
use crate::request::{Known, look_up};
use crate::secret::{self, Owner};

const FIELDS: [&str; 6] = ["display_name", "hosts", "username", "password", "fingerprint", "max_concurrent_tasks"];
/// Those that change how a pool is entered.
const ACCESS: [&str; 4] = ["hosts", "username", "password", "fingerprint"];

#[derive(Debug, Clone)]
pub(crate) struct Pools(pub(crate) Arc<Plane>);

fn hosts_in(hosts: Vec<String>) -> Result<Vec<String>, Fault> {
    if hosts.is_empty() || hosts.len() > 64 {
        return Err(Fault::invalid("pool.hosts", "must have 1 to 64 entries"));
    }
    for host in &hosts {
        let clean = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte));
        if host.is_empty() || host.len() > 255 || !clean {
            return Err(Fault::invalid("pool.hosts", format!("{host:?} must be `host` or `host:port`")));
        }
    }
    Ok(hosts)
}

/// Upper-case pairs with colons, or empty.
fn fingerprint_in(text: &str) -> Result<String, Fault> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let digits: String = text.chars().filter(|character| *character != ':').collect();
    let bytes = hex::decode(&digits).ok().filter(|bytes| bytes.len() == 32);
    let bytes = bytes.ok_or_else(|| {
        Fault::invalid("pool.fingerprint", "must be a SHA-256: 32 hexadecimal pairs separated by colons, or empty")
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
}

fn password_in(password: String) -> Result<SecretString, Fault> {
    if password.is_empty() || password.len() > 1024 {
        return Err(Fault::invalid("pool.password", "must have 1 to 1024 bytes"));
    }
    Ok(password.into())
}

fn username_in(username: String) -> Result<String, Fault> {
    if username.is_empty() {
        return Err(Fault::invalid("pool.username", "must be set"));
    }
    text_in("pool.username", username, 200)
}

fn look(state: &State, id: &PoolId) -> Result<v1::Pool, Fault> {
    let pool = state.pools.get(&(id.clone(),)).ok_or_else(|| missing(id.name()))?;
    Ok(pool_out(state, id, pool))
}

/// Takes back what agents said of a pool before it was set anew: until one has tried again, nothing is known.
fn unknown_again(state: &State, id: &PoolId, change: Change) -> Change {
    let Some(found) = state.pool_states.get(&(id.clone(),)) else { return change };
    let record = PoolStateRecord { connected: None, problem: None, ..found.record.clone() };
    change.unchanged(Key::PoolState(id.clone()), found).put(Entry::PoolState((id.clone(),), record))
}

/// Every change that agents have to learn of writes this too; and whatever begins to name a pool or a remote, so that
/// these are not deleted beside it.
pub(super) fn touch_config(change: Change) -> Change {
    change.put(Entry::Config((), ConfigRecord {}))
}

/// What a request asks for, as far as the store may know.
fn without_password(request: &v1::CreatePoolRequest) -> v1::CreatePoolRequest {
    let mut request = request.clone();
    if let Some(pool) = &mut request.pool {
        pool.password.clear();
    }
    request
}

impl Pools {
    async fn create(&self, mut request: v1::CreatePoolRequest) -> Result<v1::Pool, Fault> {
        let id: PoolId = id_in("pool_id", &request.pool_id)?;
        let fresh = match look_up(&self.0, "CreatePool", &request.request_id, &without_password(&request)).await? {
            Known::Done(made) => return self.0.read(|state| look(state, &name_in("name", &made)?)),
            Known::Fresh(fresh) => fresh,
        };
        let pool = request.pool.take().ok_or_else(|| Fault::invalid("pool", "must be set"))?;
        let password = password_in(pool.password)?;
        let record = PoolRecord {
            display_name: text_in("pool.display_name", pool.display_name, 200)?,
            hosts: hosts_in(pool.hosts)?,
            username: username_in(pool.username)?,
            fingerprint: fingerprint_in(&pool.fingerprint)?,
            max_concurrent_tasks: pool.max_concurrent_tasks,
        };
        let done = self
            .0
            .mutate(|state, now| {
                if state.pools.contains_key(&(id.clone(),)) {
                    return Err(Fault::AlreadyExists { name: id.name() });
                }
                let change =
                    Change::new().absent(Key::Pool(id.clone())).put(Entry::Pool((id.clone(),), record.clone()));
                let mut effect = Effect::from(touch_config(change));
                effect.ops.push(secret::put(&self.0.sealer, &Owner::Pool(&id), &password));
                Ok((fresh.remember(effect, &id.name(), now), ()))
            })
            .await;
        fresh.settle(&self.0, done).await?;
        self.0.read(|state| look(state, &id))
    }

    async fn update(&self, request: v1::UpdatePoolRequest) -> Result<v1::Pool, Fault> {
        let pool = request.pool.ok_or_else(|| Fault::invalid("pool", "must be set"))?;
        let id: PoolId = name_in("pool.name", &pool.name)?;
        let fields = mask(request.update_mask, &FIELDS)?;
        let mut password = None;
        let mut edits: Vec<Box<dyn Fn(&mut PoolRecord) + Send + Sync>> = Vec::new();
        for field in &fields {
            match field.as_str() {
                "display_name" => {
                    let name = text_in("pool.display_name", pool.display_name.clone(), 200)?;
                    edits.push(Box::new(move |record| record.display_name.clone_from(&name)));
                }
                "hosts" => {
                    let hosts = hosts_in(pool.hosts.clone())?;
                    edits.push(Box::new(move |record| record.hosts.clone_from(&hosts)));
                }
                "username" => {
                    let username = username_in(pool.username.clone())?;
                    edits.push(Box::new(move |record| record.username.clone_from(&username)));
                }
                "fingerprint" => {
                    let fingerprint = fingerprint_in(&pool.fingerprint)?;
                    edits.push(Box::new(move |record| record.fingerprint.clone_from(&fingerprint)));
                }
                "max_concurrent_tasks" => {
                    let most = pool.max_concurrent_tasks;
                    edits.push(Box::new(move |record| record.max_concurrent_tasks = most));
                }
                _ => password = Some(password_in(pool.password.clone())?),
            }
        }
        self.0
            .mutate(|state, _| {
                let found = state.pools.get(&(id.clone(),)).ok_or_else(|| missing(id.name()))?;
                check_etag(&id.name(), &pool.etag, found)?;
                let mut record = found.record.clone();
                edits.iter().for_each(|edit| edit(&mut record));
                let mut change =
                    Change::new().unchanged(Key::Pool(id.clone()), found).put(Entry::Pool((id.clone(),), record));
                if fields.iter().any(|field| ACCESS.contains(&field.as_str())) {
                    change = unknown_again(state, &id, change);
                }
                let mut effect = Effect::from(touch_config(change));
                effect
                    .ops
                    .extend(password.as_ref().map(|password| secret::put(&self.0.sealer, &Owner::Pool(&id), password)));
                Ok((effect, ()))
            })
            .await?;
        self.0.read(|state| look(state, &id))
    }

    async fn delete(&self, request: v1::DeletePoolRequest) -> Result<(), Fault> {
        let id: PoolId = name_in("name", &request.name)?;
        self.0
            .mutate(|state, _| {
                let found = state.pools.get(&(id.clone(),)).ok_or_else(|| missing(id.name()))?;
                check_etag(&id.name(), &request.etag, found)?;
                let names_it = |selection: &coffer_model::Selection| {
                    selection.pools.contains(&id) || selection.vms.iter().any(|vm| vm.pool == id)
                };
                if let Some(((job,), _)) = state.jobs.iter().find(|(_, job)| names_it(&job.record.job.selection)) {
                    return Err(Fault::Precondition {
                        reason: "POOL_IN_USE",
                        message: format!("{} is selected by {}", id.name(), job.name()),
                        advice: "change or delete the job first".into(),
                    });
                }
                let uses = |plan: &Plan| match plan {
                    Plan::Backup { selection, .. } => names_it(selection),
                    Plan::Restore { pool, .. } => *pool == id,
                    _ => false,
                };
                if let Some(run) = unfinished(state, uses) {
                    return Err(Fault::Precondition {
                        reason: "POOL_IN_USE",
                        message: format!("{} is worked on by {}", id.name(), run.name()),
                        advice: "wait for the run to end, or cancel it".into(),
                    });
                }
                let change = Change::new()
                    .unchanged(Key::Pool(id.clone()), found)
                    .unchanged_or_absent(Key::Config(), state.configs.get(&()))
                    .delete(Key::Pool(id.clone()))
                    .delete(Key::PoolState(id.clone()));
                let mut effect = Effect::from(touch_config(change));
                effect.ops.push(secret::delete(&Owner::Pool(&id)));
                Ok((effect, ()))
            })
            .await
    }
}

#[tonic::async_trait]
impl v1::pool_service_server::PoolService for Pools {
    async fn create_pool(&self, request: Request<v1::CreatePoolRequest>) -> Result<Response<v1::Pool>, Status> {
        Ok(Response::new(self.create(request.into_inner()).await?))
    }

    async fn get_pool(&self, request: Request<v1::GetPoolRequest>) -> Result<Response<v1::Pool>, Status> {
        let id = name_in("name", &request.into_inner().name)?;
        Ok(Response::new(self.0.read(|state| look(state, &id))?))
    }

    async fn list_pools(
        &self,
        request: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        let request = request.into_inner();
        let all = self.0.read(|state| {
            state.pools.iter().map(|((id,), pool)| (id.to_string(), pool_out(state, id, pool))).collect()
        });
        let (pools, next_page_token) = page(all, Order::Rising, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListPoolsResponse { pools, next_page_token }))
    }

    async fn update_pool(&self, request: Request<v1::UpdatePoolRequest>) -> Result<Response<v1::Pool>, Status> {
        Ok(Response::new(self.update(request.into_inner()).await?))
    }

    async fn delete_pool(&self, request: Request<v1::DeletePoolRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.delete(request.into_inner()).await?))
    }

    async fn list_virtual_machines(
        &self,
        request: Request<v1::ListVirtualMachinesRequest>,
    ) -> Result<Response<v1::ListVirtualMachinesResponse>, Status> {
        let request = request.into_inner();
        let pool: PoolId = name_in("parent", &request.parent)?;
        let all = self.0.read(|state| {
            let seen = seen_time(state, &pool)?;
            let first = (pool.clone(), coffer_model::VmUuid::new(Uuid::nil()));
            let of_pool = state.vms.range(first..).take_while(|((of, _), _)| *of == pool);
            Ok::<_, Fault>(
                of_pool
                    .map(|((_, uuid), vm)| {
                        (format!("{} {uuid}", vm.record.name_label), vm_out(&pool, &vm.record, seen))
                    })
                    .collect(),
            )
        })?;
        let (virtual_machines, next_page_token) = page(all, Order::Rising, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListVirtualMachinesResponse { virtual_machines, next_page_token }))
    }

    async fn list_storage_repositories(
        &self,
        request: Request<v1::ListStorageRepositoriesRequest>,
    ) -> Result<Response<v1::ListStorageRepositoriesResponse>, Status> {
        let request = request.into_inner();
        let pool: PoolId = name_in("parent", &request.parent)?;
        let all = self.0.read(|state| {
            let seen = seen_time(state, &pool)?;
            let first = (pool.clone(), coffer_model::SrUuid::new(Uuid::nil()));
            let of_pool = state.srs.range(first..).take_while(|((of, _), _)| *of == pool);
            Ok::<_, Fault>(
                of_pool
                    .map(|((_, uuid), sr)| {
                        (format!("{} {uuid}", sr.record.name_label), sr_out(&pool, &sr.record, seen))
                    })
                    .collect(),
            )
        })?;
        let (storage_repositories, next_page_token) = page(all, Order::Rising, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListStorageRepositoriesResponse { storage_repositories, next_page_token }))
    }
}

fn seen_time(state: &State, pool: &PoolId) -> Result<Option<jiff::Timestamp>, Fault> {
    if !state.pools.contains_key(&(pool.clone(),)) {
        return Err(missing(pool.name()));
    }
    Ok(state.pool_states.get(&(pool.clone(),)).and_then(|seen| seen.record.inventory_time))
}
