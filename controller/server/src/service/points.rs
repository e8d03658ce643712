//! `RestorePointService`.

use std::collections::BTreeSet;
use std::sync::Arc;

use coffer_core::decide::{plan, retention};
use coffer_core::record::{ExportFormat, Plan, PointRecord, PointState, RunRecord};
use coffer_core::{Change, Key, State, Versioned};
use coffer_model::names::Named;
use coffer_model::{JobId, RemoteId, RestorePointId};
use coffer_proto::v1;
use tonic::{Request, Response, Status};

use super::{missing, start_run};
use crate::convert::name_in;
use crate::convert::point::point_out;
use crate::fault::Fault;
use crate::page::{Order, by_time, page};
use crate::plane::Plane;

/// Most restore points in one request.
const NAMES: usize = 1000;

#[derive(Debug, Clone)]
pub(crate) struct Points(pub(crate) Arc<Plane>);

/// A restore point that is listed; what is being deleted is not there.
pub(super) fn find<'a>(state: &'a State, id: &RestorePointId) -> Result<&'a Versioned<PointRecord>, Fault> {
    let found = state.points.get(&(id.clone(),)).filter(|found| found.record.state == PointState::Listed);
    found.ok_or_else(|| missing(id.name()))
}

fn points_in(names: &[String]) -> Result<Vec<RestorePointId>, Fault> {
    if names.is_empty() || names.len() > NAMES {
        return Err(Fault::invalid("names", format!("must have 1 to {NAMES} entries")));
    }
    let once: BTreeSet<RestorePointId> = names.iter().map(|name| name_in("names", name)).collect::<Result<_, _>>()?;
    Ok(once.into_iter().collect())
}

impl Points {
    async fn verify(&self, request: v1::VerifyRestorePointsRequest) -> Result<v1::Run, Fault> {
        let points = points_in(&request.names)?;
        let now = self.0.now();
        let run = start_run(&self.0, "VerifyRestorePoints", &request.request_id, &request, |state, _| {
            for id in &points {
                find(state, id)?;
            }
            Ok((Change::new(), RunRecord::new(Plan::Verify { points: points.clone() }, now)))
        })
        .await?;
        super::runs::look(&self.0, &run)
    }

    async fn delete(&self, request: v1::DeleteRestorePointsRequest) -> Result<v1::Run, Fault> {
        let points = points_in(&request.names)?;
        let now = self.0.now();
        let allow_last = request.allow_last;
        let run = start_run(&self.0, "DeleteRestorePoints", &request.request_id, &request, |state, _| {
            for id in &points {
                let found = find(state, id)?;
                if let Some(reader) = plan::pins(state, id).next() {
                    return Err(Fault::Precondition {
                        reason: "POINT_IN_USE",
                        message: format!("{} is being read by {reader}", id.name()),
                        advice: "wait for that run to end, or cancel it".into(),
                    });
                }
                if !allow_last && retention::keeper(state, id, &points).is_none() {
                    return Err(Fault::Precondition {
                        reason: "LAST_POINT",
                        message: format!(
                            "{} is the last good restore point of {} on {}",
                            id.name(),
                            found.record.vm_label,
                            id.remote.name()
                        ),
                        advice: "set `allow_last` if that is meant".into(),
                    });
                }
            }
            Ok((Change::new(), RunRecord::new(Plan::Delete { points: points.clone(), allow_last }, now)))
        })
        .await?;
        super::runs::look(&self.0, &run)
    }

    async fn export(&self, request: v1::ExportRestorePointRequest) -> Result<v1::Run, Fault> {
        let point: RestorePointId = name_in("name", &request.name)?;
        let format = match request.format() {
            v1::export_restore_point_request::Format::Unspecified | v1::export_restore_point_request::Format::Raw => {
                ExportFormat::Raw
            }
            v1::export_restore_point_request::Format::Vhd => ExportFormat::Vhd,
            v1::export_restore_point_request::Format::Qcow2 => ExportFormat::Qcow2,
        };
        if !std::path::Path::new(&request.folder).is_absolute() || request.folder.len() > 4096 {
            return Err(Fault::invalid("folder", "must be an absolute path"));
        }
        let now = self.0.now();
        let run = start_run(&self.0, "ExportRestorePoint", &request.request_id, &request, |state, _| {
            let found = find(state, &point)?;
            for wanted in &request.disks {
                if !found.record.disks.iter().any(|disk| disk.uuid == *wanted || disk.device == *wanted) {
                    return Err(Fault::invalid("disks", format!("{wanted:?} is no disk of {}", point.name())));
                }
            }
            let plan = Plan::Export {
                point: point.clone(),
                format,
                folder: request.folder.clone(),
                disks: request.disks.clone(),
            };
            Ok((Change::new().same(Key::Point(point.clone()), found), RunRecord::new(plan, now)))
        })
        .await?;
        super::runs::look(&self.0, &run)
    }

    fn list(&self, request: &v1::ListRestorePointsRequest) -> Result<v1::ListRestorePointsResponse, Fault> {
        let remote: Option<RemoteId> =
            if request.remote.is_empty() { None } else { Some(name_in("remote", &request.remote)?) };
        let job: Option<JobId> = if request.job.is_empty() { None } else { Some(name_in("job", &request.job)?) };
        let vm = request.vm.as_str();
        let wanted = |point: &PointRecord| {
            point.state == PointState::Listed
                && remote.as_ref().is_none_or(|remote| point.remote == *remote)
                && job.as_ref().is_none_or(|job| point.job.as_ref() == Some(job))
                && (vm.is_empty() || point.vm_label == vm || point.vm.to_string() == vm)
        };
        let all = self.0.read(|state| {
            let points = state.points.iter().filter(|(_, point)| wanted(&point.record));
            points.map(|((id,), point)| (by_time(point.record.time, &id.to_string()), id.clone())).collect()
        });
        let (ids, next_page_token) = page(all, Order::Falling, request.page_size, &request.page_token)?;
        let restore_points = self.0.read(|state| {
            ids.iter().filter_map(|id| Some(point_out(id, &state.points.get(&(id.clone(),))?.record))).collect()
        });
        Ok(v1::ListRestorePointsResponse { restore_points, next_page_token })
    }
}

#[tonic::async_trait]
impl v1::restore_point_service_server::RestorePointService for Points {
    async fn get_restore_point(
        &self,
        request: Request<v1::GetRestorePointRequest>,
    ) -> Result<Response<v1::RestorePoint>, Status> {
        let id = name_in("name", &request.into_inner().name)?;
        Ok(Response::new(self.0.read(|state| find(state, &id).map(|found| point_out(&id, &found.record)))?))
    }

    async fn list_restore_points(
        &self,
        request: Request<v1::ListRestorePointsRequest>,
    ) -> Result<Response<v1::ListRestorePointsResponse>, Status> {
        Ok(Response::new(self.list(&request.into_inner())?))
    }

    async fn verify_restore_points(
        &self,
        request: Request<v1::VerifyRestorePointsRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        Ok(Response::new(self.verify(request.into_inner()).await?))
    }

    async fn delete_restore_points(
        &self,
        request: Request<v1::DeleteRestorePointsRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        Ok(Response::new(self.delete(request.into_inner()).await?))
    }

    async fn export_restore_point(
        &self,
        request: Request<v1::ExportRestorePointRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        Ok(Response::new(self.export(request.into_inner()).await?))
    }
}
