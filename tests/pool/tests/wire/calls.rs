//! Calls: parameters, errors, sessions, generic getters and setters, tasks.

use serde_json::json;
use simpool::{Builder, Profile};

use crate::support::{Api, pool, text, vm};

#[tokio::test]
async fn wrong_calls_get_the_errors_of_hosts() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let error = |method: &'static str, params: Vec<serde_json::Value>| {
        let api = api.clone();
        async move { api.call(method, &params).await.unwrap_err() }
    };
    assert_eq!(error("VM.fly", vec![]).await, ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]);
    assert_eq!(error("Async.VM.get_uuid", vec![json!("x")]).await[0], "MESSAGE_METHOD_UNKNOWN");
    assert_eq!(error("VM.get_uuid", vec![]).await, ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_uuid", "2", "1"]);
    assert_eq!(error("VM.get_uuid", vec![json!("OpaqueRef:no")]).await, ["HANDLE_INVALID", "VM", "OpaqueRef:no"]);
    assert_eq!(error("VDI.get_sm_config", vec![json!("OpaqueRef:NULL")]).await[0], "HANDLE_INVALID");
    assert_eq!(error("VM.get_by_uuid", vec![json!("no")]).await, ["UUID_INVALID", "VM", "no"]);
    assert_eq!(error("VM.get_by_uuid", vec![json!(7)]).await, ["FIELD_TYPE_ERROR", "uuid"]);
    let incomplete = error("VDI.create", vec![json!({"virtual_size": 1})]).await;
    assert_eq!(incomplete[0], "INTERNAL_ERROR");
    assert!(incomplete[1].contains("Dispatcher_FieldNotFound(\"SR\")"));
    let vm = vm(pool.control(), "", 0).await.vm.reference;
    assert_eq!(error("VM.snapshot_with_quiesce", vec![json!(vm), json!("x")]).await, ["MESSAGE_REMOVED"]);
}

#[tokio::test]
async fn fields_are_read_and_changed_as_their_kind_allows() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let info = vm(pool.control(), "", 0).await;
    let vm = json!(info.vm.reference);
    api.call("VM.add_to_other_config", &[vm.clone(), json!("k"), json!("v")]).await.unwrap();
    let twice = api.call("VM.add_to_other_config", &[vm.clone(), json!("k"), json!("w")]).await.unwrap_err();
    assert_eq!(twice, ["MAP_DUPLICATE_KEY", "VM", "other_config", &info.vm.uuid, "k"]);
    for _ in 0..2 {
        api.call("VM.remove_from_other_config", &[vm.clone(), json!("k")]).await.unwrap();
        api.call("VM_add_tags", &[vm.clone(), json!("blue")]).await.unwrap();
    }
    let record = api.call("VM.get_record", std::slice::from_ref(&vm)).await.unwrap();
    assert_eq!(record["tags"], json!(["blue"]));
    assert!(record["other_config"].get("k").is_none() && record["other_config"]["mac_seed"].is_string());
    assert_eq!(record["snapshot_time"], "19700101T00:00:00Z");
    assert_eq!(record["domid"].as_i64(), Some(1));
    let read_only = api.call("VM.set_power_state", &[vm, json!("Halted")]).await.unwrap_err();
    assert_eq!(read_only[0], "MESSAGE_METHOD_UNKNOWN");
    let query = "field \"power_state\" = \"Running\" and field \"is_control_domain\" = \"false\"";
    let found = api.call("VM.get_all_records_where", &[json!(query)]).await.unwrap();
    assert_eq!(found.as_object().unwrap().keys().collect::<Vec<_>>(), [&info.vm.reference]);
    assert_eq!(api.call("VM.get_by_name_label", &[json!("web")]).await.unwrap(), json!([info.vm.reference]));
}

#[tokio::test]
async fn sessions_end_by_logout_and_by_expiry_and_wrong_passwords_are_told() {
    let pool = pool(1).await;
    let mut api = Api::login(&pool).await;
    let wrong = api.raw_call("session.login_with_password", json!(["root", "no", "1.0", "test"])).await.unwrap_err();
    assert_eq!(wrong[..2], ["SESSION_AUTHENTICATION_FAILED", "root"]);
    api.call("session.logout", &[]).await.unwrap();
    assert_eq!(api.call("pool.get_all", &[]).await.unwrap_err(), ["SESSION_INVALID", &api.session]);
    api = Api::login(&pool).await;
    pool.control().expire_sessions().await.unwrap();
    assert_eq!(api.call("pool.get_all", &[]).await.unwrap_err()[0], "SESSION_INVALID");
}

#[tokio::test]
async fn of_501_sessions_the_least_recently_used_is_gone() {
    let pool = pool(1).await;
    let first = Api::login(&pool).await;
    let second = Api::login(&pool).await;
    first.call("pool.get_all", &[]).await.unwrap();
    first.login_again(499).await;
    assert_eq!(second.call("pool.get_all", &[]).await.unwrap_err()[0], "SESSION_INVALID");
    first.call("pool.get_all", &[]).await.unwrap();
}

#[tokio::test]
async fn tasks_tell_results_errors_and_cancellation() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let info = vm(pool.control(), "", 0).await;
    let done = api.run("VM.snapshot", &[json!(info.vm.reference), json!("s")]).await;
    assert_eq!(
        (&done["status"], &done["progress"], &done["name_label"]),
        (&json!("success"), &json!(1.0), &json!("Async.VM.snapshot"))
    );
    assert!(text(&done["result"]).starts_with("<value>OpaqueRef:"));
    let failed = api.run("VDI.destroy", &[json!(info.disks[0].vdi.reference)]).await;
    assert_eq!(failed["error_info"], json!(["VDI_IN_USE", info.disks[0].vdi.reference, "destroy"]));
    let own = api.task().await;
    api.call("task_set_status", &[json!(own), json!("success")]).await.unwrap();
    let record = api.wait(&own).await;
    assert_eq!(record["finished"], "19700101T00:00:00Z");
    api.call("task.destroy", &[json!(own)]).await.unwrap();
    assert_eq!(api.call("task.get_status", &[json!(own)]).await.unwrap_err()[0], "HANDLE_INVALID");
}

#[tokio::test]
async fn the_older_profile_lacks_what_came_later() {
    let pool = Builder::new().profile(Profile::V8_2).start().await.unwrap();
    let api = Api::login(&pool).await;
    let info = vm(pool.control(), "", 0).await;
    let three = [json!(info.vm.reference), json!("s"), json!([])];
    assert_eq!(api.call("VM.snapshot", &three).await.unwrap_err()[0], "MESSAGE_PARAMETER_COUNT_MISMATCH");
    api.call("VM.snapshot", &three[..2]).await.unwrap();
    assert_eq!(api.call("VTPM.get_all_records", &[]).await.unwrap_err()[0], "MESSAGE_METHOD_UNKNOWN");
}
