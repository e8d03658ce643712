//! Faults, each seen from the wire.

use std::time::{Duration, Instant};

use serde_json::json;
use simpool::control::Fault;

use crate::support::{Api, MIB, eventually, pool, vm};

const EXPORT: &str = "/export_raw_vdi";

#[tokio::test]
async fn calls_fail_hang_or_go_unanswered_as_told() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let vm = vm(control, "", 0).await.vm.reference;
    let method = || "VM.snapshot".to_owned();
    let code = "SR_BACKEND_FAILURE_44".to_owned();
    let fault = Fault::CallError { method: method(), code, params: vec![String::new()], nth: 2, times: 1 };
    control.fault(fault).await.unwrap();
    let call = async || api.call("VM.snapshot", &[json!(vm), json!("s")]).await;
    assert!(call().await.is_ok());
    let failed = api.run("VM.snapshot", &[json!(vm), json!("s")]).await;
    assert_eq!(failed["error_info"][0], "SR_BACKEND_FAILURE_44", "of an asynchronous call the task fails");
    assert!(call().await.is_ok());
    control.clear_faults().await.unwrap();
    let id = control.fault(Fault::CallHang { method: method(), nth: 0, times: 0 }).await.unwrap();
    let hanging = {
        let (api, vm) = (api.clone(), vm.clone());
        tokio::spawn(async move { api.call("VM.snapshot", &[json!(vm), json!("s")]).await })
    };
    eventually(|| async { (control.faults().await.unwrap()[0].hits == 1).then_some(()) }).await;
    assert!(!hanging.is_finished());
    control.clear_fault(id).await.unwrap();
    hanging.await.unwrap().unwrap();
    control.fault(Fault::CallUnanswered { method: "VM.clone".to_owned(), nth: 0, times: 1 }).await.unwrap();
    let before = control.object_counts().await.unwrap()["VM"];
    let body = json!({"jsonrpc": "2.0", "method": "VM.clone", "params": [api.session, vm, "c"], "id": 0}).to_string();
    let post = format!("POST /jsonrpc HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    api.call("VM.hard_shutdown", &[json!(vm)]).await.unwrap();
    assert!(api.exchange(post.as_bytes()).await.is_err(), "the connection closes");
    assert_eq!(control.object_counts().await.unwrap()["VM"], before + 1, "and the work is done");
}

#[tokio::test]
async fn streams_are_cut_broken_and_slowed_and_the_task_tells() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "", 0).await;
    let (_, vdis) = api.snapshot(&info.vm.reference).await;
    let query = format!("format=vhd&vdi={}", vdis[0]);
    let (whole, _) = api.transfer("GET", "/export_raw_vdi/", &query, b"").await;
    let (path, subject) = (EXPORT.to_owned(), String::new());
    let cut = Fault::CutStream { path: path.clone(), subject: subject.clone(), after_bytes: MIB, nth: 0, times: 1 };
    control.fault(cut).await.unwrap();
    let (cut, task) = api.transfer("GET", "/export_raw_vdi/", &query, b"").await;
    assert_eq!((cut.body.len() as u64, &task["status"]), (MIB, &json!("failure")));
    let code = "VDI_IO_ERROR".to_owned();
    let fails =
        Fault::TaskFails { path: path.clone(), subject: subject.clone(), code, params: vec![], nth: 0, times: 1 };
    control.fault(fails).await.unwrap();
    let (all, task) = api.transfer("GET", "/export_raw_vdi/", &query, b"").await;
    assert_eq!((all.status(), all.body.len()), (200, whole.body.len()));
    assert_eq!(task["error_info"], json!(["VDI_IO_ERROR"]));
    let text = Fault::ErrorInBody { path: path.clone(), subject: subject.clone(), after_bytes: 4096, nth: 0, times: 1 };
    control.fault(text).await.unwrap();
    let (broken, task) = api.transfer("GET", "/export_raw_vdi/", &query, b"").await;
    assert!(broken.body[4096..].starts_with(b"HTTP/1.1 500 ") && task["status"] == "failure");
    let flip = Fault::CorruptStream { path: path.clone(), subject: subject.clone(), at_byte: MIB, nth: 0, times: 1 };
    control.fault(flip).await.unwrap();
    let (flipped, task) = api.transfer("GET", "/export_raw_vdi/", &query, b"").await;
    let differing: Vec<usize> =
        (512 + 1024..flipped.body.len() - 512).filter(|at| flipped.body[*at] != whole.body[*at]).collect();
    assert_eq!((differing, &task["status"]), (vec![usize::try_from(MIB).unwrap()], &json!("success")));
    control.fault(Fault::SlowStream { path: path.clone(), subject, bytes_per_second: 32 * MIB }).await.unwrap();
    let started = Instant::now();
    api.transfer("GET", "/export_raw_vdi/", &query, b"").await;
    assert!(started.elapsed() >= Duration::from_millis(200), "8 MiB at 32 MiB/s");
    control.clear_faults().await.unwrap();
    control.fault(Fault::TransferRefused { path, status: 503, nth: 0, times: 1 }).await.unwrap();
    assert_eq!(
        api.request("GET", &format!("/export_raw_vdi/?{query}&session_id={}", api.session), b"").await.status(),
        503
    );
}

#[tokio::test]
async fn a_cancelled_transfer_ends_its_task_as_cancelled() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "", 0).await;
    let (_, vdis) = api.snapshot(&info.vm.reference).await;
    let stall =
        Fault::StallStream { path: EXPORT.to_owned(), subject: String::new(), after_bytes: MIB, nth: 0, times: 0 };
    control.fault(stall).await.unwrap();
    let task = api.task().await;
    let exporting = {
        let (api, task, vdi) = (api.clone(), task.clone(), vdis[0].clone());
        let path = format!("/export_raw_vdi/?format=vhd&vdi={vdi}&session_id={}&task_id={task}", api.session);
        tokio::spawn(async move { api.request("GET", &path, b"").await.body.len() as u64 })
    };
    eventually(|| async { (control.faults().await.unwrap()[0].hits == 1).then_some(()) }).await;
    api.call("task.cancel", &[json!(task)]).await.unwrap();
    let record = api.wait(&task).await;
    assert_eq!((&record["status"], &record["error_info"]), (&json!("cancelled"), &json!(["TASK_CANCELLED", task])));
    assert!(exporting.await.unwrap() <= MIB);
}
