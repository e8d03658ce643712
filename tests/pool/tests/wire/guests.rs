//! VMs as clients see them: copies, power, boots, memory, xenstore.

use serde_json::json;
use simpool::control::{GuestBehaviour, VmSpec};

use crate::support::{Api, eventually, pool, text, vm};

#[tokio::test]
async fn a_started_guest_reports_drivers_then_its_daemon_then_xenstore() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "", 0).await;
    let vm = info.vm.reference.as_str();
    let boot = simpool::control::Write::Random { offset: 0, length: 65536, seed: 3 };
    control.write(&info.disks[0].vdi.uuid, boot).await.unwrap();
    let answer = [("vm-data/health".to_owned(), "success".to_owned())];
    let guest = GuestBehaviour { xenstore: answer.into_iter().collect(), ..GuestBehaviour::default() };
    control.set_guest(vm, guest).await.unwrap();
    let (snapshot, _) = api.snapshot(vm).await;
    let copy = text(&api.call("VM.clone", &[json!(snapshot), json!("copy")]).await.unwrap());
    api.call("VM.set_is_a_template", &[json!(copy), json!(false)]).await.unwrap();
    assert_eq!(api.get("VM.get_guest_metrics", &copy).await, "OpaqueRef:NULL");
    api.run("VM.start", &[json!(copy), json!(false), json!(false)]).await;
    assert_eq!(api.get("VM.get_power_state", &copy).await, "Running");
    eventually(|| async {
        let data = api.call("VM.get_xenstore_data", &[json!(copy)]).await.unwrap();
        (data["vm-data/health"] == "success").then_some(())
    })
    .await;
    let metrics = api.get("VM.get_guest_metrics", &copy).await;
    let metrics = api.call("VM_guest_metrics.get_record", &[json!(metrics)]).await.unwrap();
    assert_eq!(metrics["PV_drivers_detected"], json!(true), "the copy of a disk behaves as the disk");
    assert!(metrics["networks"]["0/ip"].is_string());
}

#[tokio::test]
async fn a_guest_that_crashes_or_has_nothing_to_boot_never_reports() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let guest = GuestBehaviour { crashes: true, ..GuestBehaviour::default() };
    let spec = VmSpec { name: "crasher".to_owned(), guest, ..VmSpec::default() };
    let vm = control.create_vm(&spec).await.unwrap().vm.reference;
    assert_eq!(api.run("VM.start", &[json!(vm), json!(false), json!(false)]).await["status"], "success");
    eventually(|| async { (api.get("VM.get_power_state", &vm).await == "Halted").then_some(()) }).await;
    assert_eq!(api.get("VM.get_guest_metrics", &vm).await, "OpaqueRef:NULL");
}

#[tokio::test]
async fn a_checkpoint_holds_the_memory_and_its_vm_goes_on() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let info = vm(pool.control(), "", 0).await;
    let made = text(&api.call("VM.checkpoint", &[json!(info.vm.reference), json!("c")]).await.unwrap());
    let record = api.call("VM.get_record", &[json!(made)]).await.unwrap();
    assert_eq!((&record["power_state"], &record["is_a_snapshot"]), (&json!("Suspended"), &json!(true)));
    let image = text(&record["suspend_VDI"]);
    assert_eq!(api.get("VDI.get_type", &image).await, "suspend");
    assert_eq!(api.get("VM.get_power_state", &info.vm.reference).await, "Running");
    assert_eq!(api.get("VM.get_suspend_VDI", &info.vm.reference).await, "OpaqueRef:NULL");
}

#[tokio::test]
async fn snapshots_keep_addresses_and_clones_get_new_ones() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let info = vm(pool.control(), "", 0).await;
    let mac = async |vm: &str| {
        let vifs = api.call("VM.get_VIFs", &[json!(vm)]).await.unwrap();
        api.get("VIF.get_MAC", vifs[0].as_str().unwrap()).await
    };
    let own = mac(&info.vm.reference).await;
    let (snapshot, _) = api.snapshot(&info.vm.reference).await;
    assert_eq!(mac(&snapshot).await, own);
    let clone = text(&api.call("VM.clone", &[json!(snapshot), json!("c")]).await.unwrap());
    assert_ne!(mac(&clone).await, own);
    assert_eq!(api.get("VM.get_parent", &info.vm.reference).await, snapshot);
    let (second, _) = api.snapshot(&info.vm.reference).await;
    assert_eq!(api.get("VM.get_parent", &second).await, snapshot);
    api.call("VM.destroy", &[json!(snapshot)]).await.unwrap();
    assert_eq!(api.get("VM.get_parent", &second).await, "OpaqueRef:NULL");
}

#[tokio::test]
async fn a_revert_brings_content_back_on_new_disks() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "", 0).await;
    let (snapshot, _) = api.snapshot(&info.vm.reference).await;
    let before = control.digest(&info.disks[0].vdi.uuid).await.unwrap();
    let change = simpool::control::Write::Percent { percent: 50.0, seed: 9 };
    control.write(&info.disks[0].vdi.uuid, change).await.unwrap();
    api.call("VM.hard_shutdown", &[json!(info.vm.reference)]).await.unwrap();
    api.call("VM.revert", &[json!(snapshot)]).await.unwrap();
    let now = control.vm(&info.vm.uuid).await.unwrap();
    assert_ne!(now.disks[0].vdi.uuid, info.disks[0].vdi.uuid);
    assert_eq!(control.digest(&now.disks[0].vdi.uuid).await.unwrap(), before);
}

#[tokio::test]
async fn a_tpm_and_secure_boot_variables_survive_an_archive() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let spec = VmSpec { name: "secure".to_owned(), uefi: true, vtpm: true, ..VmSpec::default() };
    let vm = control.create_vm(&spec).await.unwrap().vm.reference;
    let contents = async |vm: &str| {
        let vtpms = api.call("VM.get_VTPMs", &[json!(vm)]).await.unwrap();
        api.get("VTPM.get_contents", vtpms[0].as_str().unwrap()).await
    };
    let own = contents(&vm).await;
    let (xva, _) = api.transfer("GET", "/export/", &format!("ref={vm}"), b"").await;
    let (_, task) = api.transfer("PUT", "/import/", "restore=false", &xva.body).await;
    let result = text(&task["result"]);
    let made = &result[result.find("OpaqueRef:").unwrap()..result.find("</value></data>").unwrap()];
    assert_eq!(contents(made).await, own);
    let nvram = async |vm: &str| api.call("VM.get_NVRAM", &[json!(vm)]).await.unwrap();
    assert_eq!(nvram(made).await, nvram(&vm).await);
}
