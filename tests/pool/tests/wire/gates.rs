//! Which operations are refused, and how.

use serde_json::json;
use simpool::control::Fault;

use crate::support::{Api, MIB, eventually, pool, text, vm};

#[tokio::test]
async fn the_first_failing_check_is_the_error() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let vm = vm(pool.control(), "", 0).await.vm.reference;
    let bad = api.call("VM.start", &[json!(vm), json!(false), json!(false)]).await.unwrap_err();
    assert_eq!(bad, ["VM_BAD_POWER_STATE", &vm, "halted", "running"]);
    let bad = api.call("VM.destroy", &[json!(vm)]).await.unwrap_err();
    assert_eq!(bad, ["VM_BAD_POWER_STATE", &vm, "halted, suspended", "running"]);
    api.call("VM.add_to_blocked_operations", &[json!(vm), json!("destroy"), json!("no")]).await.unwrap();
    let bad = api.call("VM.destroy", &[json!(vm)]).await.unwrap_err();
    assert_eq!(bad, ["OPERATION_BLOCKED", &vm, "no"], "blocked comes before the power state");
    let allowed = api.call("VM.get_allowed_operations", &[json!(vm)]).await.unwrap();
    assert!(
        allowed.as_array().unwrap().contains(&json!("snapshot"))
            && !allowed.as_array().unwrap().contains(&json!("start"))
    );
    let (snapshot, _) = api.snapshot(&vm).await;
    let bad = api.call("VM.start", &[json!(snapshot), json!(false), json!(false)]).await.unwrap_err();
    assert_eq!(bad, ["VM_IS_SNAPSHOT", &snapshot, "start"]);
    assert_eq!(api.call("VM.revert", &[json!(vm)]).await.unwrap_err()[0], "REVERT_ONLY_ALLOWED_ON_SNAPSHOT");
    let templates = "field \"is_default_template\" = \"true\"";
    let found = api.call("VM.get_all_records_where", &[json!(templates)]).await.unwrap();
    let template = found.as_object().unwrap().keys().next().unwrap();
    assert_eq!(api.call("VM.destroy", &[json!(template)]).await.unwrap_err()[0], "VM_CANNOT_DELETE_DEFAULT_TEMPLATE");
}

#[tokio::test]
async fn a_vm_that_is_exported_cannot_be_destroyed_meanwhile() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let vm = vm(pool.control(), "", 0).await.vm.reference;
    let (snapshot, vdis) = api.snapshot(&vm).await;
    let stall =
        Fault::StallStream { path: "/export".to_owned(), subject: String::new(), after_bytes: MIB, nth: 0, times: 1 };
    let fault = pool.control().fault(stall).await.unwrap();
    let exporting = {
        let (api, snapshot) = (api.clone(), snapshot.clone());
        tokio::spawn(async move { api.transfer("GET", "/export/", &format!("ref={snapshot}"), b"").await })
    };
    eventually(|| async {
        let current = api.call("VM.get_current_operations", &[json!(snapshot)]).await.unwrap();
        current.as_object().unwrap().values().any(|op| op == "export").then_some(())
    })
    .await;
    let busy = api.call("VM.destroy", &[json!(snapshot)]).await.unwrap_err();
    assert_eq!((busy[0].as_str(), busy[1].as_str(), busy[3].as_str()), ("OTHER_OPERATION_IN_PROGRESS", "VM", "export"));
    let busy = api.call("VDI.destroy", &[json!(vdis[0])]).await.unwrap_err();
    assert_eq!(busy, ["VDI_IN_USE", &vdis[0], "destroy"]);
    pool.control().clear_fault(fault).await.unwrap();
    assert_eq!(exporting.await.unwrap().1["status"], "success");
    api.call("VM.destroy", &[json!(snapshot)]).await.unwrap();
    api.call("VDI.destroy", &[json!(vdis[0])]).await.unwrap();
}

#[tokio::test]
async fn disks_of_a_running_vm_allow_snapshots_and_little_else() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let info = vm(pool.control(), "", 0).await;
    let vdi = json!(info.disks[0].vdi.reference);
    for (method, params, code) in [
        ("VDI.destroy", vec![vdi.clone()], "VDI_IN_USE"),
        ("VDI.resize", vec![vdi.clone(), json!(32 * MIB)], "VDI_IN_USE"),
        ("VDI.data_destroy", vec![vdi.clone()], "OPERATION_NOT_ALLOWED"),
        ("VDI.list_changed_blocks", vec![vdi.clone(), vdi.clone()], "VDI_IN_USE"),
    ] {
        assert_eq!(api.call(method, &params).await.unwrap_err()[0], code, "{method}");
    }
    let snapshot = api.call("VDI.snapshot", std::slice::from_ref(&vdi)).await.unwrap();
    assert_eq!(
        api.call("VDI.data_destroy", std::slice::from_ref(&snapshot)).await.unwrap_err()[0],
        "VDI_NO_CBT_METADATA"
    );
    assert_eq!(
        api.call("VDI.enable_cbt", std::slice::from_ref(&snapshot)).await.unwrap_err()[0],
        "OPERATION_NOT_ALLOWED"
    );
    let unrelated = api.call("VDI.list_changed_blocks", &[snapshot.clone(), snapshot]).await.unwrap_err();
    assert_eq!(unrelated[0], "SR_BACKEND_FAILURE_460");
}

#[tokio::test]
async fn devices_are_checked_when_a_disk_is_attached() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let info = vm(pool.control(), "", 0).await;
    let vbd = |device: &str, mode: &str, kind: &str, empty: bool| {
        json!({"VM": info.vm.reference, "VDI": info.disks[0].vdi.reference, "userdevice": device, "bootable": false, "mode": mode,
            "type": kind, "empty": empty, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}})
    };
    for (record, code) in [
        (vbd("0", "RW", "Disk", false), "DEVICE_ALREADY_EXISTS"),
        (vbd("255", "RW", "Disk", false), "INVALID_DEVICE"),
        (vbd("3", "RW", "CD", false), "VBD_CDS_MUST_BE_READONLY"),
        (vbd("3", "RW", "Disk", true), "VBD_NOT_REMOVABLE_MEDIA"),
    ] {
        assert_eq!(api.call("VBD.create", &[record]).await.unwrap_err()[0], code);
    }
    let made = text(&api.call("VBD.create", &[vbd("autodetect", "RO", "Disk", false)]).await.unwrap());
    assert_eq!(api.get("VBD.get_userdevice", &made).await, "1");
    assert_eq!(api.call("VBD.plug", &[json!(made)]).await.unwrap_err()[0], "VDI_IN_USE");
}
