//! Durable steps of tasks.

use coffer_core::Change;
use coffer_core::decide::retention;
use coffer_core::decide::work::{self, Backoff, Decided};
use coffer_core::record::{Operation, PointRecord};
use coffer_model::RestorePointId;
use coffer_proto::v1;
use jiff::SignedDuration;
use prost::Message;

use crate::convert::name_in;
use crate::convert::point::{point_in, spec_out};
use crate::convert::report::{caller_in, intents_in, outcome_in, report_in, step_in};
use crate::fault::Fault;
use crate::plane::Plane;
use crate::request::digest;

/// Most restore points in one call.
const POINTS: usize = 1000;

/// The operation of a request: its number, and a digest of all but the session, which changes when an agent comes back.
fn operation(seq: u64, request_without_session: &impl Message) -> Operation {
    Operation { seq, digest: digest(request_without_session) }
}

fn split<T>(decided: Decided<T>) -> (Change, T) {
    match decided {
        Decided::Already(answer) => (Change::new(), answer),
        Decided::Now(change, answer) => (change, answer),
    }
}

pub(super) async fn transition(
    plane: &Plane,
    mut request: v1::TransitionRequest,
) -> Result<v1::TransitionResponse, Fault> {
    let caller = caller_in(std::mem::take(&mut request.session), &request.task, request.epoch)?;
    let operation = operation(request.op_seq, &request);
    let step = request.step.map(step_in).transpose()?;
    let intents = intents_in(request.intents)?;
    let report = report_in(request.log, request.disks, plane.now())?;
    let cancel = plane
        .mutate(|state, _| {
            let decided = work::transition(state, &caller, operation, step.clone(), intents.clone(), report.clone())?;
            Ok(split(decided))
        })
        .await?;
    Ok(v1::TransitionResponse { cancel })
}

pub(super) async fn request_commit(
    plane: &Plane,
    mut request: v1::RequestCommitRequest,
) -> Result<v1::RequestCommitResponse, Fault> {
    let caller = caller_in(std::mem::take(&mut request.session), &request.task, request.epoch)?;
    let operation = operation(request.op_seq, &request);
    let remote = name_in("remote", &request.remote)?;
    if request.snapshot_id.is_empty() || request.snapshot_id.len() > 64 {
        return Err(Fault::invalid("snapshot_id", "must have 1 to 64 characters"));
    }
    let incarnation = plane
        .mutate(|state, _| {
            let snapshot = request.snapshot_id.clone();
            let decided = work::request_commit(state, &caller, operation, Clone::clone(&remote), snapshot)?;
            Ok(split(decided))
        })
        .await?;
    Ok(v1::RequestCommitResponse { incarnation })
}

pub(super) async fn plan_retention(
    plane: &Plane,
    request: v1::PlanRetentionRequest,
) -> Result<v1::PlanRetentionResponse, Fault> {
    let caller = caller_in(request.session, &request.task, request.epoch)?;
    if request.published.len() > 20 {
        return Err(Fault::invalid("published", "must have at most 20 entries"));
    }
    let published: Vec<(RestorePointId, PointRecord)> =
        request.published.into_iter().map(point_in).collect::<Result<_, _>>()?;
    let (delete, explanation) = plane
        .mutate(|state, now| {
            let plan = retention::plan(state, &caller, &published, now)?;
            Ok((plan.change, (plan.delete, plan.explanation)))
        })
        .await?;
    Ok(v1::PlanRetentionResponse {
        delete: delete.iter().map(|(id, point)| spec_out(id, point)).collect(),
        explanation,
    })
}

pub(super) async fn report_deleted(
    plane: &Plane,
    request: v1::ReportDeletedRequest,
) -> Result<v1::ReportDeletedResponse, Fault> {
    let caller = caller_in(request.session, &request.task, request.epoch)?;
    if request.points.len() > POINTS {
        return Err(Fault::invalid("points", format!("must have at most {POINTS} entries")));
    }
    let points: Vec<RestorePointId> =
        request.points.iter().map(|name| name_in("points", name)).collect::<Result<_, _>>()?;
    for chunk in points.chunks(50) {
        plane.mutate(|state, _| Ok((work::report_deleted(state, &caller, chunk)?, ()))).await?;
    }
    Ok(v1::ReportDeletedResponse {})
}

pub(super) async fn complete(plane: &Plane, mut request: v1::CompleteRequest) -> Result<v1::CompleteResponse, Fault> {
    let caller = caller_in(std::mem::take(&mut request.session), &request.task, request.epoch)?;
    let operation = operation(request.op_seq, &request);
    let outcome = outcome_in(request.outcome)?;
    let report = report_in(request.log, request.disks, plane.now())?;
    let backoff = Backoff {
        first: SignedDuration::try_from(plane.timings.retry_backoff).unwrap_or(SignedDuration::MAX),
        longest: SignedDuration::try_from(plane.timings.retry_backoff_max).unwrap_or(SignedDuration::MAX),
    };
    let will_retry = plane
        .mutate(|state, now| {
            let decided = work::complete(state, &caller, operation, outcome.clone(), report.clone(), backoff, now)?;
            Ok(split(decided))
        })
        .await?;
    Ok(v1::CompleteResponse { will_retry })
}
