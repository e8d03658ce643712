//! `RestoreService`.

use std::sync::Arc;

use coffer_core::record::{Plan, RestoreRecord, RunRecord};
use coffer_core::{Change, Entry, Key, State, Versioned};
use coffer_model::names::Named;
use coffer_model::{RestoreId, RestorePointId, SrName};
use coffer_proto::v1;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{missing, points, runs, start_run};
use crate::convert::{name_in, text_in};
use crate::fault::Fault;
use crate::page::{Order, by_time, page};
use crate::plane::Plane;

#[derive(Debug, Clone)]
pub(crate) struct Restores(pub(crate) Arc<Plane>);

fn find<'a>(state: &'a State, id: &RestoreId) -> Result<&'a Versioned<RestoreRecord>, Fault> {
    state.restores.get(&(*id,)).ok_or_else(|| missing(id.name()))
}

impl Restores {
    async fn create(&self, request: v1::CreateRestoreRequest) -> Result<v1::Restore, Fault> {
        let asked = request.restore.clone().ok_or_else(|| Fault::invalid("restore", "must be set"))?;
        let point: RestorePointId = name_in("restore.restore_point", &asked.restore_point)?;
        let sr: SrName = name_in("restore.storage_repository", &asked.storage_repository)?;
        let vm_label = text_in("restore.vm_label", asked.vm_label, 200)?;
        let id = RestoreId::new(Uuid::now_v7());
        let now = self.0.now();
        let run = start_run(&self.0, "CreateRestore", &request.request_id, &request, |state, run| {
            let found = points::find(state, &point)?;
            if !state.srs.contains_key(&(sr.pool.clone(), sr.sr)) {
                return Err(Fault::invalid(
                    "restore.storage_repository",
                    format!("{sr} is not known; list what there is: `coffer pool srs`"),
                ));
            }
            let record = RestoreRecord {
                point: point.clone(),
                pool: sr.pool.clone(),
                sr: sr.sr,
                vm_label: vm_label.clone(),
                start: asked.start,
                keep_mac_addresses: asked.keep_mac_addresses,
                run: run.clone(),
                created: now,
            };
            let plan = Plan::Restore {
                point: point.clone(),
                pool: sr.pool.clone(),
                sr: sr.sr,
                vm_label: vm_label.clone(),
                start: asked.start,
                keep_mac_addresses: asked.keep_mac_addresses,
            };
            let change = Change::new()
                .same(Key::Point(point.clone()), found)
                .absent(Key::Restore(id))
                .put(Entry::Restore((id,), record));
            Ok((change, RunRecord::new(plan, now)))
        })
        .await?;
        // A repetition has the run of the first request, hence its restore.
        let id = self.0.read(|state| {
            let of_run = state.restores.iter().find(|(_, restore)| restore.record.run == run);
            of_run.map(|((id,), _)| *id).ok_or_else(|| missing(run.name()))
        })?;
        self.look(&id).await
    }

    async fn look(&self, id: &RestoreId) -> Result<v1::Restore, Fault> {
        let record = self.0.read(|state| find(state, id).map(|found| found.record.clone()))?;
        let created = match runs::all_tasks(&self.0, &record.run).await {
            Ok(tasks) => tasks.into_iter().map(|task| task.created_vm_uuid).find(|uuid| !uuid.is_empty()),
            Err(Fault::NotFound { .. }) => None,
            Err(fault) => return Err(fault),
        };
        Ok(v1::Restore {
            name: id.name(),
            restore_point: record.point.name(),
            storage_repository: SrName { pool: record.pool, sr: record.sr }.name(),
            vm_label: record.vm_label,
            start: record.start,
            keep_mac_addresses: record.keep_mac_addresses,
            run: record.run.name(),
            vm_uuid: created.unwrap_or_default(),
        })
    }
}

#[tonic::async_trait]
impl v1::restore_service_server::RestoreService for Restores {
    async fn create_restore(
        &self,
        request: Request<v1::CreateRestoreRequest>,
    ) -> Result<Response<v1::Restore>, Status> {
        Ok(Response::new(self.create(request.into_inner()).await?))
    }

    async fn get_restore(&self, request: Request<v1::GetRestoreRequest>) -> Result<Response<v1::Restore>, Status> {
        let id = name_in("name", &request.into_inner().name)?;
        Ok(Response::new(self.look(&id).await?))
    }

    async fn list_restores(
        &self,
        request: Request<v1::ListRestoresRequest>,
    ) -> Result<Response<v1::ListRestoresResponse>, Status> {
        let request = request.into_inner();
        let all = self.0.read(|state| {
            let restores = state.restores.iter();
            restores.map(|((id,), found)| (by_time(found.record.created, &id.to_string()), *id)).collect()
        });
        let (ids, next_page_token) = page(all, Order::Falling, request.page_size, &request.page_token)?;
        let mut restores = Vec::with_capacity(ids.len());
        for id in ids {
            match self.look(&id).await {
                Ok(restore) => restores.push(restore),
                // It went between the list and the look.
                Err(Fault::NotFound { .. }) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(Response::new(v1::ListRestoresResponse { restores, next_page_token }))
    }
}
