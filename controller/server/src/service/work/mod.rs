//! `WorkService`: what agents call. Each call is checked against the session and the epoch by the core; nothing here
//! trusts what an agent says about anything but its own work.

mod inventory;
mod session;
mod specs;
mod sync;
mod tasks;

use std::sync::Arc;

use coffer_proto::v1;
use tonic::{Request, Response, Status, Streaming};

use crate::plane::Plane;

#[derive(Debug, Clone)]
pub(crate) struct Work(pub(crate) Arc<Plane>);

#[tonic::async_trait]
impl v1::work_service_server::WorkService for Work {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        Ok(Response::new(session::register(&self.0, request.into_inner()).await?))
    }

    async fn sync(&self, request: Request<v1::SyncRequest>) -> Result<Response<v1::SyncResponse>, Status> {
        Ok(Response::new(sync::sync(&self.0, request.into_inner()).await?))
    }

    async fn report_progress(
        &self,
        request: Request<v1::ReportProgressRequest>,
    ) -> Result<Response<v1::ReportProgressResponse>, Status> {
        sync::take_in_progress(&self.0, request.into_inner())?;
        Ok(Response::new(v1::ReportProgressResponse {}))
    }

    async fn transition(
        &self,
        request: Request<v1::TransitionRequest>,
    ) -> Result<Response<v1::TransitionResponse>, Status> {
        Ok(Response::new(tasks::transition(&self.0, request.into_inner()).await?))
    }

    async fn request_commit(
        &self,
        request: Request<v1::RequestCommitRequest>,
    ) -> Result<Response<v1::RequestCommitResponse>, Status> {
        Ok(Response::new(tasks::request_commit(&self.0, request.into_inner()).await?))
    }

    async fn plan_retention(
        &self,
        request: Request<v1::PlanRetentionRequest>,
    ) -> Result<Response<v1::PlanRetentionResponse>, Status> {
        Ok(Response::new(tasks::plan_retention(&self.0, request.into_inner()).await?))
    }

    async fn report_deleted(
        &self,
        request: Request<v1::ReportDeletedRequest>,
    ) -> Result<Response<v1::ReportDeletedResponse>, Status> {
        Ok(Response::new(tasks::report_deleted(&self.0, request.into_inner()).await?))
    }

    async fn complete(&self, request: Request<v1::CompleteRequest>) -> Result<Response<v1::CompleteResponse>, Status> {
        Ok(Response::new(tasks::complete(&self.0, request.into_inner()).await?))
    }

    async fn report_inventory(
        &self,
        request: Request<Streaming<v1::ReportInventoryRequest>>,
    ) -> Result<Response<v1::ReportInventoryResponse>, Status> {
        inventory::report_inventory(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn report_catalogue(
        &self,
        request: Request<Streaming<v1::ReportCatalogueRequest>>,
    ) -> Result<Response<v1::ReportCatalogueResponse>, Status> {
        inventory::report_catalogue(&self.0, request.into_inner()).await.map(Response::new)
    }
}
