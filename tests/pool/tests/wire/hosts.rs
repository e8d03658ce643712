//! Several hosts: supporters, redirects, hosts that go down, certificates.

use serde_json::json;

use crate::support::{Api, MIB, eventually, pool, text, vm};

#[tokio::test]
async fn supporters_name_the_coordinator_and_serve_its_sessions_transfers() {
    let pool = pool(2).await;
    let api = Api::login(&pool).await;
    let supporter = api.at(&pool, 1);
    let slave = supporter.raw_call("session.login_with_password", json!(["root", "simulated"])).await.unwrap_err();
    assert_eq!(slave, ["HOST_IS_SLAVE", "127.0.0.1"]);
    let info = vm(pool.control(), "Shared NFS", 0).await;
    let (_, vdis) = api.snapshot(&info.vm.reference).await;
    let path = format!("/export_raw_vdi/?format=vhd&vdi={}&session_id={}", vdis[0], api.session);
    let answer = supporter.request("GET", &path, b"").await;
    assert_eq!(answer.status(), 200);
    pool.control().designate_coordinator(1).await.unwrap();
    assert_eq!(api.call("pool.get_all", &[]).await.unwrap_err(), ["HOST_IS_SLAVE", "127.0.0.2"]);
    supporter.call("pool.get_all", &[]).await.unwrap();
}

#[tokio::test]
async fn transfers_of_a_local_sr_are_sent_to_its_host() {
    let pool = pool(2).await;
    let api = Api::login(&pool).await;
    let info = vm(pool.control(), "Local storage 2", 1).await;
    let (_, vdis) = api.snapshot(&info.vm.reference).await;
    let path = format!("/export_raw_vdi/?format=vhd&vdi={}&session_id={}", vdis[0], api.session);
    let get = api.request("GET", &path, b"").await;
    assert_eq!((get.status(), get.body.len()), (302, 0));
    let port = pool.info().hosts[1].port;
    assert_eq!(get.header("location"), Some(format!("https://127.0.0.2:{port}{path}").as_str()));
    assert_eq!(api.at(&pool, 1).request("GET", &path, b"").await.status(), 200);
    let put = format!("/import_raw_vdi/?format=raw&vdi={}&session_id={}", vdis[0], api.session);
    let head = format!("PUT {put} HTTP/1.1\r\ncontent-length: {}\r\n\r\n", 4 * MIB);
    assert_eq!(api.exchange(head.as_bytes()).await.unwrap().status(), 302, "without waiting for the body");
    let addresses = api.call("VDI.get_nbd_info", &[json!(vdis[0])]).await.unwrap();
    let addresses: Vec<String> = addresses.as_array().unwrap().iter().map(|i| text(&i["address"])).collect();
    assert_eq!(addresses, ["127.0.0.2"]);
}

#[tokio::test]
async fn a_toolstack_restart_forgets_sessions_and_tasks_and_leaks_what_dom0_had() {
    let pool = pool(1).await;
    let (mut api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "", 0).await;
    let (_, vdis) = api.snapshot(&info.vm.reference).await;
    let stall = simpool::control::Fault::StallStream {
        path: "/export_raw_vdi".to_owned(),
        subject: String::new(),
        after_bytes: MIB,
        nth: 0,
        times: 0,
    };
    control.fault(stall).await.unwrap();
    let task = api.task().await;
    let path = format!("/export_raw_vdi/?format=vhd&vdi={}&session_id={}&task_id={task}", vdis[0], api.session);
    let exporting = {
        let api = api.clone();
        let get = format!("GET {path} HTTP/1.1\r\n\r\n");
        tokio::spawn(async move { api.exchange(get.as_bytes()).await.map(|answer| answer.body.len()) })
    };
    let leaked = eventually(|| async {
        let vbds = api.call("VDI.get_VBDs", &[json!(vdis[0])]).await.unwrap();
        vbds.as_array().unwrap().get(1).map(text)
    })
    .await;
    control.restart_toolstack(0).await.unwrap();
    assert!(exporting.await.unwrap().is_ok_and(|bytes| bytes <= usize::try_from(MIB).unwrap()));
    assert_eq!(api.call("pool.get_all", &[]).await.unwrap_err()[0], "SESSION_INVALID");
    api = Api::login(&pool).await;
    assert_eq!(api.call("task.get_record", &[json!(task)]).await.unwrap_err()[0], "HANDLE_INVALID");
    assert_eq!(api.get("VM.get_power_state", &info.vm.reference).await, "Running");
    assert_eq!(api.call("VDI.destroy", &[json!(vdis[0])]).await.unwrap_err()[0], "VDI_IN_USE");
    api.call("VBD.unplug", &[json!(leaked)]).await.unwrap();
    api.call("VBD.destroy", &[json!(leaked)]).await.unwrap();
    api.call("VDI.destroy", &[json!(vdis[0])]).await.unwrap();
}

#[tokio::test]
async fn a_host_that_is_down_refuses_connections_and_its_vms_are_halted() {
    let pool = pool(2).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "Shared NFS", 1).await;
    control.stop_host(1).await.unwrap();
    assert!(api.at(&pool, 1).connect().await.is_err());
    assert_eq!(api.get("VM.get_power_state", &info.vm.reference).await, "Halted");
    control.start_host(1).await.unwrap();
    api.at(&pool, 1).connect().await.unwrap();
    let started = api.run("VM.start", &[json!(info.vm.reference), json!(false), json!(false)]).await;
    assert_eq!(started["status"], "success");
}

#[tokio::test]
async fn a_new_certificate_is_not_trusted_by_who_trusts_the_old_one() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let old = pool.info().hosts[0].fingerprint.clone();
    let renewed = pool.control().renew_certificate(0).await.unwrap();
    assert_ne!(renewed.fingerprint, old);
    assert!(api.connect().await.is_err());
    let records = pool.control().records("Certificate").await.unwrap();
    assert!(records.values().all(|c| c["fingerprint_sha256"] == json!(renewed.fingerprint)));
}
