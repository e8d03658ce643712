//! The HTTP handlers: early answers, tasks as the truth, layouts, aborts.

use serde_json::json;
use simpool::control::{DiskSpec, SrKind, SrSpec, VmSpec, Write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Api, MIB, eventually, pool, read_answer, text, vm};

async fn new_vdi(api: &Api, sr: &str, size: u64) -> String {
    let sr = text(&api.call("SR.get_by_name_label", &[json!(sr)]).await.unwrap()[0]);
    let record = json!({"SR": sr, "virtual_size": size, "type": "user", "sharable": false, "read_only": false, "other_config": {}});
    text(&api.call("VDI.create", &[record]).await.unwrap())
}

#[tokio::test]
async fn raw_and_vhd_and_a_delta_on_top_arrive_bit_for_bit() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "", 0).await;
    let disk = &info.disks[0].vdi.uuid;
    let (_, first) = api.snapshot(&info.vm.reference).await;
    let before = control.digest(disk).await.unwrap();
    let (raw, task) = api.transfer("GET", "/export_raw_vdi/", &format!("format=raw&vdi={}", first[0]), b"").await;
    assert_eq!((raw.status(), raw.header("content-length"), &task["status"]), (200, None, &json!("success")));
    assert_eq!(raw.header("task-id"), task["uuid"].as_str().and(raw.header("task-id")));
    let (vhd, _) = api.transfer("GET", "/export_raw_vdi/", &format!("format=vhd&vdi={}", first[0]), b"").await;
    assert_eq!(vhd.header("content-type"), Some("application/vhd"));
    assert_eq!(vhd.body.len() as u64, 2048 + 512 + 4 * (512 + 2 * MIB) + 512, "half of 8 blocks");
    control.write(disk, Write::Random { offset: 5 * MIB, length: 4096, seed: 1 }).await.unwrap();
    let (_, second) = api.snapshot(&info.vm.reference).await;
    let query = format!("format=vhd&vdi={}&base={}", second[0], first[0]);
    let (delta, _) = api.transfer("GET", "/export_raw_vdi/", &query, b"").await;
    assert_eq!(delta.body.len() as u64, 2048 + 512 + (512 + 2 * MIB) + 512, "one changed block");
    for (format, full) in [("raw", &raw.body), ("vhd", &vhd.body)] {
        let target = new_vdi(&api, "Shared NFS", 16 * MIB).await;
        let uuid = api.get("VDI.get_uuid", &target).await;
        let (put, task) = api.transfer("PUT", "/import_raw_vdi/", &format!("format={format}&vdi={target}"), full).await;
        assert_eq!((put.status(), &task["error_info"]), (200, &json!([])));
        assert_eq!(control.digest(&uuid).await.unwrap(), before, "{format}");
        api.transfer("PUT", "/import_raw_vdi/", &format!("format=vhd&vdi={target}"), &delta.body).await;
        assert_eq!(control.digest(&uuid).await.unwrap(), control.digest(disk).await.unwrap(), "{format} and delta");
    }
}

#[tokio::test]
async fn an_empty_put_without_a_task_probes_and_does_nothing() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let target = new_vdi(&api, "Shared NFS", 4 * MIB).await;
    let session = &api.session;
    let probe =
        api.request("PUT", &format!("/import_raw_vdi/?format=vhd&vdi={target}&session_id={session}"), b"").await;
    assert_eq!(probe.status(), 200);
    assert_eq!(api.call("task.get_all", &[]).await.unwrap(), json!([]));
    let chunked = format!(
        "PUT /import_raw_vdi/?format=vhd&vdi={target}&session_id={session} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert_eq!(api.exchange(chunked.as_bytes()).await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_declared_pebibyte_may_be_cut_after_a_whole_vhd_and_not_before() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "", 0).await;
    let (_, vdis) = api.snapshot(&info.vm.reference).await;
    let (vhd, _) = api.transfer("GET", "/export_raw_vdi/", &format!("format=vhd&vdi={}", vdis[0]), b"").await;
    for (sent, status) in [(vhd.body.len(), "success"), (vhd.body.len() - 512, "failure")] {
        let target = new_vdi(&api, "Shared NFS", 16 * MIB).await;
        let task = api.task().await;
        let head = format!(
            "PUT /import_raw_vdi/?format=vhd&vdi={target}&session_id={}&task_id={task} HTTP/1.1\r\ncontent-length: {}\r\n\r\n",
            api.session,
            1_u64 << 50
        );
        let mut stream = api.connect().await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut early = [0; 15];
        stream.read_exact(&mut early).await.unwrap();
        assert_eq!(&early, b"HTTP/1.1 200 OK", "the answer comes before the body");
        stream.write_all(&vhd.body[..sent]).await.unwrap();
        stream.flush().await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(api.wait(&task).await["status"], status);
    }
}

#[tokio::test]
async fn an_export_that_the_client_aborts_frees_the_disk_and_fails_its_task_only() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let spec = VmSpec {
        name: "large".to_owned(),
        disks: vec![DiskSpec {
            size: 64 * MIB,
            content: simpool::control::Content::Seeded { seed: 1, percent: 100.0 },
            ..DiskSpec::default()
        }],
        ..VmSpec::default()
    };
    let info = control.create_vm(&spec).await.unwrap();
    let (_, vdis) = api.snapshot(&info.vm.reference).await;
    let task = api.task().await;
    let mut stream = api.connect().await.unwrap();
    let get = format!(
        "GET /export_raw_vdi/?format=vhd&vdi={}&session_id={}&task_id={task} HTTP/1.1\r\n\r\n",
        vdis[0], api.session
    );
    stream.write_all(get.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 4096]).await.unwrap();
    drop(stream);
    assert_eq!(api.wait(&task).await["error_info"][0], "VDI_IO_ERROR");
    eventually(|| async {
        let vbds = api.call("VDI.get_VBDs", &[json!(vdis[0])]).await.unwrap();
        (vbds.as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let exported = control.counters().await.unwrap().vdi_exported;
    assert!(exported.values().all(|bytes| *bytes < 64 * MIB), "{exported:?}");
    let (again, record) = api.transfer("GET", "/export_raw_vdi/", &format!("format=vhd&vdi={}", vdis[0]), b"").await;
    assert_eq!((again.status(), &record["status"]), (200, &json!("success")));
}

#[tokio::test]
async fn an_archive_comes_back_as_the_same_vm_on_another_sr() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "", 0).await;
    let disk = control.digest(&info.disks[0].vdi.uuid).await.unwrap();
    let running = api.transfer("GET", "/export/", &format!("ref={}", info.vm.reference), b"").await;
    assert_eq!((running.0.status(), &running.1["error_info"][0]), (500, &json!("VM_BAD_POWER_STATE")));
    let (snapshot, _) = api.snapshot(&info.vm.reference).await;
    api.call("VM.set_is_a_template", &[json!(snapshot), json!(false)]).await.unwrap();
    let sr = text(&api.call("SR.get_by_name_label", &[json!("Shared NFS")]).await.unwrap()[0]);
    for compression in ["false", "true", "zstd"] {
        let query = format!("ref={snapshot}&use_compression={compression}");
        let (xva, task) = api.transfer("GET", "/export/", &query, b"").await;
        assert!(xva.head.starts_with("HTTP/1.0 200 OK"), "{}", xva.head);
        assert_eq!(task["status"], "success");
        let (_, task) = api.transfer("PUT", "/import/", &format!("sr_id={sr}"), &xva.body).await;
        assert_eq!(task["error_info"], json!([]), "{compression}");
        assert_eq!(task["other_config"]["object_creation"], "complete");
        let result = text(&task["result"]);
        let made = &result[result.find("OpaqueRef:").unwrap()..result.find("</value></data>").unwrap()];
        let record = api.call("VM.get_record", &[json!(made)]).await.unwrap();
        assert_eq!((&record["name_label"], &record["power_state"]), (&json!("snapshot"), &json!("Halted")));
        assert_eq!(record["current_operations"], json!({}));
        assert_eq!(record["VIFs"].as_array().unwrap().len(), 1);
        let vdi = api.get("VBD.get_VDI", record["VBDs"][0].as_str().unwrap()).await;
        let uuid = api.get("VDI.get_uuid", &vdi).await;
        assert_eq!(control.digest(&uuid).await.unwrap(), disk, "{compression}");
    }
}

#[tokio::test]
async fn a_failed_import_leaves_no_vm_and_no_disk() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "", 0).await;
    let (snapshot, _) = api.snapshot(&info.vm.reference).await;
    let (xva, _) = api.transfer("GET", "/export/", &format!("ref={snapshot}"), b"").await;
    let before = control.object_counts().await.unwrap();
    let sr = text(&api.call("SR.get_by_name_label", &[json!("Shared NFS")]).await.unwrap()[0]);
    let mut corrupt = xva.body.clone();
    let middle = corrupt.len() / 2;
    corrupt[middle] ^= 1;
    for (body, code) in [
        (&xva.body[..xva.body.len() / 2], "IMPORT_ERROR_PREMATURE_EOF"),
        (corrupt.as_slice(), "IMPORT_ERROR_SOME_CHECKSUMS_FAILED"),
        (b"nonsense".as_slice(), "IMPORT_ERROR"),
    ] {
        let (put, task) = api.transfer("PUT", "/import/", &format!("sr_id={sr}"), body).await;
        assert_eq!(put.status(), 200, "the answer comes before the work");
        assert!(text(&task["error_info"][0]).starts_with(code), "{code}: {}", task["error_info"]);
    }
    let after = control.object_counts().await.unwrap();
    for class in ["VM", "VDI", "VBD", "VIF", "VM_metrics"] {
        assert_eq!(before[class], after[class], "{class}");
    }
}

#[tokio::test]
async fn a_full_sr_fails_the_task_of_an_import() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let small = SrSpec { name: "small".to_owned(), kind: SrKind::Ext, size: 6 * MIB, host: 0 };
    control.create_sr(&small).await.unwrap();
    let target = new_vdi(&api, "small", 16 * MIB).await;
    let body = vec![7; usize::try_from(16 * MIB).unwrap()];
    let task = api.task().await;
    let path = format!("/import_raw_vdi/?format=raw&vdi={target}&session_id={}&task_id={task}", api.session);
    let mut stream = api.connect().await.unwrap();
    let head = format!("PUT {path} HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let _cut_by_the_host = stream.write_all(&body).await;
    let _answer = read_answer(&mut stream).await;
    assert_eq!(api.wait(&task).await["error_info"][0], "SR_BACKEND_FAILURE_44");
}
