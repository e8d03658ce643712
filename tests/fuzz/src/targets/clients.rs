//! What clients and agents send to controllers: messages, names, rules, sizes.

use coffer_controller::fuzz;
use coffer_model::names::Named;
use coffer_model::{
    AgentId, ByteSize, Cron, JobId, PoolId, RemoteId, RestorePointId, RunId, ScheduleName, SrName, TaskName, VmName,
};
use coffer_proto::v1;
use jiff::Timestamp;
use prost::Message;

use super::Target;

const UUID: &str = "0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d";

pub(super) fn targets() -> Vec<Target> {
    vec![
        message("job", job(), |job: v1::Job| fuzz::job(job).is_ok()),
        message("sync", sync(), |request: v1::SyncRequest| fuzz::sync(request).is_ok()),
        message("transition", transition(), |request: v1::TransitionRequest| fuzz::transition(request).is_ok()),
        message("complete", complete(), |request: v1::CompleteRequest| fuzz::complete(request).is_ok()),
        message("inventory", inventory(), |request: v1::ReportInventoryRequest| fuzz::inventory(request).is_ok()),
        message("catalogue", catalogue(), |request: v1::ReportCatalogueRequest| fuzz::catalogue(request).is_ok()),
        Target::text("page-token", &["61"], |token| fuzz::page_token(token).is_ok()),
        Target::text("cron", &["0 2 * * *", "*/5 1-3,7 1,15 JAN-MAR MON-FRI", "59 23 31 12 0"], |rule| {
            ["UTC", "Europe/Paris"]
                .iter()
                .all(|zone| Cron::parse(rule, zone).is_ok_and(|cron| cron.next_tick(Timestamp::UNIX_EPOCH).is_some()))
        }),
        Target::text(
            "names",
            &["pools/lab", &format!("pools/lab/vms/{UUID}"), "jobs/nightly/schedules/daily"],
            |text| {
                [
                    named::<PoolId>(text),
                    named::<RemoteId>(text),
                    named::<JobId>(text),
                    named::<RunId>(text),
                    named::<AgentId>(text),
                    named::<RestorePointId>(text),
                    named::<VmName>(text),
                    named::<SrName>(text),
                    named::<ScheduleName>(text),
                    named::<TaskName>(text),
                ]
                .contains(&true)
            },
        ),
        Target::text("size", &["512 MiB", "1048576"], |text| text.parse::<ByteSize>().is_ok()),
    ]
}

/// Whether it is the name of one; then it is spelt the same.
fn named<T: Named>(text: &str) -> bool {
    match T::from_name(text) {
        Ok(found) => {
            assert_eq!(found.name(), text);
            true
        }
        Err(error) => {
            assert!(error.explain().len() < 4096, "an error as long as what was given");
            false
        }
    }
}

fn message<M: Message + Default + 'static>(name: &'static str, good: M, feed: impl Fn(M) -> bool + 'static) -> Target {
    Target::new(name, vec![good.encode_to_vec()], move |input| M::decode(input).is_ok_and(&feed))
}

fn job() -> v1::Job {
    v1::Job {
        name: "jobs/nightly".into(),
        display_name: "Nightly".into(),
        selection: Some(v1::Selection {
            pools: vec!["pools/lab".into()],
            tags: vec!["prod".into()],
            power_state: "Running".into(),
            ..Default::default()
        }),
        remotes: vec!["remotes/nas".into()],
        ..Default::default()
    }
}

fn disk() -> v1::DiskTransfer {
    v1::DiskTransfer { disk_uuid: UUID.into(), device: "xvda".into(), label: "system".into(), ..Default::default() }
}

fn task() -> String {
    format!("runs/{UUID}/tasks/{UUID}")
}

fn sync() -> v1::SyncRequest {
    let held = v1::HeldTask { task: task(), epoch: 3, step: "transfer".into(), disks: vec![disk()] };
    v1::SyncRequest { session: "s".into(), held: vec![held], ..Default::default() }
}

fn transition() -> v1::TransitionRequest {
    let step = v1::Step { name: "transfer".into(), state: v1::step::State::Done.into(), ..Default::default() };
    let intent =
        v1::Intent { id: UUID.into(), kind: "snapshot".into(), pool: "pools/lab".into(), ..Default::default() };
    let log = v1::LogEntry { message: "it goes on".into(), ..Default::default() };
    v1::TransitionRequest {
        session: "s".into(),
        task: task(),
        epoch: 3,
        op_seq: 1,
        step: Some(step),
        intents: vec![intent],
        log: vec![log],
        disks: vec![disk()],
    }
}

fn point() -> v1::RestorePoint {
    v1::RestorePoint {
        name: format!("restorePoints/{UUID}.nas"),
        remote: "remotes/nas".into(),
        vm_uuid: UUID.into(),
        snapshot_id: "3b".repeat(32),
        time: Some(Default::default()),
        job: "jobs/nightly".into(),
        ..Default::default()
    }
}

fn complete() -> v1::CompleteRequest {
    let success = v1::TaskSuccess { restore_points: vec![point()], ..Default::default() };
    let outcome = Some(v1::complete_request::Outcome::Success(success));
    v1::CompleteRequest { session: "s".into(), task: task(), epoch: 3, op_seq: 1, outcome, ..Default::default() }
}

fn inventory() -> v1::ReportInventoryRequest {
    let disk = v1::InventoryDisk { uuid: UUID.into(), sr_uuid: UUID.into(), ..Default::default() };
    let vm = v1::InventoryVm {
        uuid: UUID.into(),
        power_state: "Halted".into(),
        tags: vec!["a".into()],
        disks: vec![disk],
        ..Default::default()
    };
    let sr = v1::InventorySr { uuid: UUID.into(), ..Default::default() };
    v1::ReportInventoryRequest {
        session: "s".into(),
        pool: "pools/lab".into(),
        vms: vec![vm],
        srs: vec![sr],
        facts: None,
    }
}

fn catalogue() -> v1::ReportCatalogueRequest {
    v1::ReportCatalogueRequest { session: "s".into(), points: vec![point()], ..Default::default() }
}
