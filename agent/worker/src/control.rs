//! What a task asks of the controllers: durable records of what it does, and rights. A trait, so that steps can be
//! tested against a controller that fails when told to.

use async_trait::async_trait;
use coffer_proto::v1::{
    CompleteRequest, CompleteResponse, PlanRetentionRequest, PlanRetentionResponse, ReportCatalogueRequest,
    ReportCatalogueResponse, ReportDeletedRequest, RequestCommitRequest, RequestCommitResponse, TransitionRequest,
    TransitionResponse,
};

use crate::halt::{Halt, Trouble};

/// Why a controller did not do what was asked. A controller that cannot be reached is no reason: another one is asked,
/// until one answers or the task is lost.
#[derive(Debug)]
pub(crate) enum Denied {
    /// The task is held under a newer epoch, or by nobody.
    Fenced,
    /// Cancelling was asked for.
    Cancelled,
    /// Anything else; the same request would be denied again.
    Refused(Trouble),
}

impl From<Denied> for Halt {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Fenced => Self::Fenced,
            Denied::Cancelled => Self::Cancelled,
            Denied::Refused(trouble) => Self::Failed(trouble),
        }
    }
}

/// The controllers, as a task sees them. Each call may be repeated; `session` is filled in by the implementation.
#[async_trait]
pub(crate) trait Controllers: Send + Sync {
    /// Records a step, intents, log lines.
    async fn transition(&self, request: TransitionRequest) -> Result<TransitionResponse, Denied>;
    /// Asks for the right to publish.
    async fn request_commit(&self, request: RequestCommitRequest) -> Result<RequestCommitResponse, Denied>;
    /// Asks what retention lets go.
    async fn plan_retention(&self, request: PlanRetentionRequest) -> Result<PlanRetentionResponse, Denied>;
    /// Records that restore points are gone.
    async fn report_deleted(&self, request: ReportDeletedRequest) -> Result<(), Denied>;
    /// Replaces the catalogue of a remote.
    async fn report_catalogue(&self, parts: Vec<ReportCatalogueRequest>) -> Result<ReportCatalogueResponse, Denied>;
    /// Ends a task.
    async fn complete(&self, request: CompleteRequest) -> Result<CompleteResponse, Denied>;
}
