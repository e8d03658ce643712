//! What clients and agents send, read without a store: for the fuzz targets, and nobody else.

use coffer_proto::v1;
use jiff::Timestamp;
use tonic::Status;

use crate::convert::report::{caller_in, intents_in, outcome_in, report_in, sr_in, step_in, vm_in};
use crate::convert::{duration_in, name_in, point};
use crate::page::{self, Order};

/// A job of a client.
///
/// # Errors
/// As the client would see it.
pub fn job(job: v1::Job) -> Result<(), Status> {
    let id = name_in("name", &job.name)?;
    Ok(crate::service::jobs::job_in(id, job).map(drop)?)
}

/// The token of a page of a client.
///
/// # Errors
/// As the client would see it.
pub fn page_token(token: &str) -> Result<(), Status> {
    let entries = ["a", "b", "c"].map(|place| (place.to_owned(), ())).to_vec();
    Ok(page::page(entries, Order::Rising, 1, token).map(drop)?)
}

/// What an agent holds.
///
/// # Errors
/// As the agent would see it.
pub fn sync(request: v1::SyncRequest) -> Result<(), Status> {
    request.hold.map(|hold| duration_in("hold", hold)).transpose()?;
    for held in request.held {
        caller_in(request.session.clone(), &held.task, held.epoch)?;
        crate::convert::report::disks_in(held.disks)?;
    }
    Ok(())
}

/// A step of an agent.
///
/// # Errors
/// As the agent would see it.
pub fn transition(request: v1::TransitionRequest) -> Result<(), Status> {
    caller_in(request.session, &request.task, request.epoch)?;
    request.step.map(step_in).transpose()?;
    intents_in(request.intents)?;
    report_in(request.log, request.disks, Timestamp::UNIX_EPOCH)?;
    Ok(())
}

/// The end of a task.
///
/// # Errors
/// As the agent would see it.
pub fn complete(request: v1::CompleteRequest) -> Result<(), Status> {
    caller_in(request.session, &request.task, request.epoch)?;
    Ok(outcome_in(request.outcome).map(drop)?)
}

/// What a pool holds.
///
/// # Errors
/// As the agent would see it.
pub fn inventory(request: v1::ReportInventoryRequest) -> Result<(), Status> {
    request.vms.into_iter().try_for_each(|vm| vm_in(vm).map(drop))?;
    Ok(request.srs.into_iter().try_for_each(|sr| sr_in(sr).map(drop))?)
}

/// What a remote holds.
///
/// # Errors
/// As the agent would see it.
pub fn catalogue(request: v1::ReportCatalogueRequest) -> Result<(), Status> {
    Ok(request.points.into_iter().try_for_each(|found| point::point_in(found).map(drop))?)
}
