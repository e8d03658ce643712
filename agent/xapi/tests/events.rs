//! The cache fed by `event.from`, and tasks awaited with it and without.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use coffer_xapi::records::{Task, Vm};
use coffer_xapi::{EventHealth, Events, ObjectState, Outcome, Ref};
use serde_json::json;
use support::{Host, Lie};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

async fn until(events: &mut Events, mut condition: impl FnMut(&Events) -> bool) {
    timeout(SOON, async {
        while !condition(events) {
            events.changed().await.unwrap();
        }
    })
    .await
    .expect("the cache did not become as expected");
}

#[tokio::test]
async fn the_cache_follows_the_pool() {
    let host = Host::start().await;
    host.add(
        "VM",
        "OpaqueRef:vm1",
        json!({"name_label": "one", "tags": ["b", "a"], "power_state": "Running", "VBDs": ["OpaqueRef:vbd"]}),
    );
    host.add(
        "VBD",
        "OpaqueRef:vbd",
        json!({"type": "Disk", "VDI": "OpaqueRef:vdi", "userdevice": "0", "device": "xvda"}),
    );
    host.add(
        "VDI",
        "OpaqueRef:vdi",
        json!({"name_label": "root", "virtual_size": 4096, "SR": "OpaqueRef:sr", "managed": true}),
    );
    let mut events = Events::start(&host.client().await).await.unwrap();
    let inventory = events.inventory();
    assert_eq!(inventory.pool_name, "OpaqueRef:h1");
    assert_eq!(
        (inventory.srs[0].name.as_str(), inventory.srs[0].free(), inventory.srs[0].hosts.len()),
        ("nfs", 600, 1)
    );
    let vm = &inventory.vms[0];
    assert_eq!((vm.tags.as_slice(), vm.disks.len()), (&["a".to_owned(), "b".to_owned()][..], 1));
    assert_eq!((vm.disks[0].name.as_str(), vm.disks[0].size, vm.disks[0].device.as_str()), ("root", 4096, "xvda"));

    host.add("VM", "OpaqueRef:vm2", json!({"name_label": "two"}));
    until(&mut events, |events| events.tables().vms.len() == 2).await;
    host.remove("VM", "OpaqueRef:vm1");
    until(&mut events, |events| events.tables().vms.len() == 1).await;
    assert_eq!(events.inventory().vms[0].name, "two");
}

#[tokio::test]
async fn a_deletion_that_no_event_told_is_noticed() {
    let host = Host::start().await;
    host.add("VM", "OpaqueRef:vm1", json!({"name_label": "one"}));
    host.add("VM", "OpaqueRef:vm2", json!({"name_label": "two"}));
    let mut events = Events::start(&host.client().await).await.unwrap();
    host.remove_silently("VM", "OpaqueRef:vm1");
    host.add("pool", "OpaqueRef:pool", json!({"name_label": "touched"}));
    until(&mut events, |events| events.tables().vms.len() == 1).await;
    assert_eq!(host.called("VM.get_all_records"), 1);
}

#[tokio::test]
async fn an_object_is_followed_to_its_end() {
    let host = Host::start().await;
    let events = Events::start(&host.client().await).await.unwrap();
    let mut vm = events.object::<Vm>(&Ref::new("OpaqueRef:vm").unwrap());
    assert_eq!(vm.now(), ObjectState::Unseen);
    host.add("VM", "OpaqueRef:vm", json!({"name_label": "x"}));
    let seen = timeout(SOON, vm.wait_for(|state| matches!(state, ObjectState::Present(_)))).await.unwrap();
    assert!(matches!(seen, Ok(ObjectState::Present(record)) if record.name_label == "x"));
    host.remove("VM", "OpaqueRef:vm");
    timeout(SOON, vm.wait_for(|state| *state == ObjectState::Gone)).await.unwrap().unwrap();
}

#[tokio::test]
async fn after_a_restart_the_cache_is_read_anew() {
    let host = Host::start().await;
    host.add("VM", "OpaqueRef:vm", json!({"name_label": "before"}));
    let mut events = Events::start(&host.client().await).await.unwrap();
    {
        let mut state = host.lock();
        state.db.put("VM", "OpaqueRef:vm", json!({"name_label": "after"}));
        state.db.rewind();
    }
    host.restart();
    until(&mut events, |events| events.inventory().vms[0].name == "after" && events.health().is_live()).await;
}

#[tokio::test]
async fn garbage_in_the_events_makes_the_cache_stale_until_it_is_over() {
    let host = Host::start().await;
    let mut events = Events::start(&host.client().await).await.unwrap();
    host.lie("event.from", Lie::Garbage(b"?".to_vec()));
    host.add("VM", "OpaqueRef:vm1", json!({}));
    until(&mut events, |events| matches!(events.health(), EventHealth::Stale { .. })).await;
    until(&mut events, |events| events.health().is_live() && events.tables().vms.len() == 1).await;
}

#[tokio::test]
async fn a_task_is_awaited_with_events_and_without() {
    for with_events in [true, false] {
        let host = Host::start().await;
        let client = host.client().await;
        let _events = if with_events { Some(Events::start(&client).await.unwrap()) } else { None };
        let task = client.task_create("x", "").await.unwrap();
        let ends = async {
            tokio::task::yield_now().await;
            host.add(
                "task",
                task.as_str(),
                json!({"status": "failure", "error_info": ["VDI_IO_ERROR", "Device I/O errors"]}),
            );
        };
        let (outcome, ()) = tokio::join!(client.task_outcome(&task, "x", SOON), ends);
        let Outcome::Failed(failure) = outcome.unwrap() else { panic!("the task failed") };
        assert!(failure.is("VDI_IO_ERROR") && failure.method == "x", "{failure}");
    }
}

#[tokio::test]
async fn a_task_that_vanished_has_an_unknown_outcome() {
    for with_events in [true, false] {
        let host = Host::start().await;
        let client = host.client().await;
        let _events = if with_events { Some(Events::start(&client).await.unwrap()) } else { None };
        let task = client.task_create("x", "").await.unwrap();
        let ends = async {
            tokio::task::yield_now().await;
            host.remove("task", task.as_str());
        };
        let (outcome, ()) = tokio::join!(client.task_outcome(&task, "x", SOON), ends);
        assert_eq!(outcome.unwrap(), Outcome::Unknown);
    }
}

#[tokio::test]
async fn a_restarted_toolstack_leaves_the_outcome_of_a_task_unknown() {
    let host = Host::start().await;
    let client = host.client().await;
    let _events = Events::start(&client).await.unwrap();
    let task = client.task_create("x", "").await.unwrap();
    let ends = async {
        tokio::task::yield_now().await;
        host.restart();
    };
    let (outcome, ()) = tokio::join!(client.task_outcome(&task, "x", SOON), ends);
    assert_eq!(outcome.unwrap(), Outcome::Unknown);
}

#[tokio::test]
async fn a_task_that_does_not_end_is_given_up_in_time() {
    let host = Host::start().await;
    let client = host.client().await;
    let task = client.task_create("x", "").await.unwrap();
    let error = client.task_outcome(&task, "x", Duration::from_millis(300)).await.unwrap_err();
    assert!(error.is_retryable() && error.maybe_done(), "{error}");
    client.task_destroy(&task).await.unwrap();
    client.task_destroy(&task).await.unwrap();
    assert!(client.record::<Task>(&task).await.unwrap_err().is("HANDLE_INVALID"));
}

#[tokio::test]
async fn nobody_polls_the_pool_after_the_last_look() {
    let host = Host::start().await;
    let client = host.client().await;
    drop(Events::start(&client).await.unwrap());
    let task = client.task_create("x", "").await.unwrap();
    host.add("task", task.as_str(), json!({"status": "success", "result": ""}));
    assert!(matches!(client.task_outcome(&task, "x", SOON).await, Ok(Outcome::Succeeded(_))));
    assert!(client.task_progress(&task).is_none());
}
