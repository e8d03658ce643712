//! Downloads and uploads: only the task tells whether they succeeded.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use coffer_xapi::{
    Client, Compression, DiskFormat, Download, Error, Failure, Ref, Upload, VdiExport, VdiImport, VmExport, VmImport,
    imported_vms,
};
use serde_json::json;
use support::{End, Host, Script, Verdict};
use tokio::io::AsyncReadExt;

fn export() -> VdiExport {
    VdiExport {
        vdi: Ref::new("OpaqueRef:vdi").unwrap(),
        sr: Ref::new("OpaqueRef:sr").unwrap(),
        format: DiskFormat::Vhd,
        base: Ref::new("OpaqueRef:base"),
        label: "export of a disk".to_owned(),
    }
}

fn import(length: u64) -> VdiImport {
    VdiImport {
        vdi: Ref::new("OpaqueRef:vdi").unwrap(),
        sr: Ref::new("OpaqueRef:sr").unwrap(),
        format: DiskFormat::Vhd,
        length,
        label: "import of a disk".to_owned(),
    }
}

fn data(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

fn send(body: &[u8], end: End, verdict: Verdict) -> Script {
    Script::Send { body: body.to_vec(), end, verdict }
}

fn take(verdict: Verdict) -> Script {
    Script::Take { at_most: usize::MAX, end: End::Clean, verdict }
}

const SUCCESS: Verdict = Verdict::Success("");

async fn download(host: &Host, script: Script) -> (Client, Download) {
    let client = host.client().await;
    host.script(script);
    let download = client.export_vdi(&export()).await.unwrap();
    (client, download)
}

async fn read_all(download: &mut Download) -> std::io::Result<Vec<u8>> {
    let mut read = Vec::new();
    download.read_to_end(&mut read).await.map(|_| read)
}

fn no_task_is_left(host: &Host) {
    assert!(host.lock().db.all("task").is_empty(), "a task was left behind");
}

#[tokio::test]
async fn a_disk_is_read_and_its_task_says_that_all_is_well() {
    let host = Host::start().await;
    let body = data(3_000_000);
    let (_client, mut download) = download(&host, send(&body, End::Clean, SUCCESS)).await;
    assert!(read_all(&mut download).await.unwrap() == body);
    assert_eq!(download.finish().await.unwrap(), 3_000_000);
    no_task_is_left(&host);
    let head = host.lock().heads[0].clone();
    assert!(head.starts_with("GET /export_raw_vdi/?") && head.contains("base=OpaqueRef%3Abase"), "{head}");
    assert!(head.len() < 1024 && !head.contains("Authorization") && !head.contains("Cookie"), "{head}");
}

#[tokio::test]
async fn a_complete_stream_whose_task_failed_is_an_error() {
    let host = Host::start().await;
    let failure = Verdict::Failure(&["VDI_IO_ERROR", "Device I/O errors"]);
    let (_client, mut download) = download(&host, send(&data(1000), End::Clean, failure)).await;
    assert_eq!(read_all(&mut download).await.unwrap().len(), 1000);
    let error = download.finish().await.unwrap_err();
    assert!(error.is("VDI_IO_ERROR"), "{error}");
    assert!(matches!(error.failure(), Some(Failure { method, .. }) if method == "export of a disk"));
    no_task_is_left(&host);
}

#[tokio::test]
async fn a_cut_stream_is_an_error_not_a_short_disk() {
    let host = Host::start().await;
    let (_client, mut download) = download(&host, send(&data(1000), End::Cut, SUCCESS)).await;
    let error = read_all(&mut download).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    let error = download.finish().await.unwrap_err();
    assert!(matches!(error, Error::Cut { bytes: 1000, .. }) && error.is_retryable(), "{error}");
    no_task_is_left(&host);
}

#[tokio::test]
async fn of_a_cut_stream_the_task_tells_the_reason() {
    let host = Host::start().await;
    let failure = Verdict::Failure(&["SR_BACKEND_FAILURE_46", "", "not available", ""]);
    let (_client, mut download) = download(&host, send(&data(1000), End::Cut, failure)).await;
    assert!(read_all(&mut download).await.is_err());
    assert!(download.finish().await.unwrap_err().is("SR_BACKEND_FAILURE_46"));
}

#[tokio::test]
async fn an_error_in_place_of_data_is_never_data() {
    let host = Host::start().await;
    let body = b"HTTP/1.1 500 Internal Server Error\r\n\r\n<html>";
    let (_client, mut download) =
        download(&host, send(body, End::Clean, Verdict::Failure(&["INTERNAL_ERROR", "x"]))).await;
    assert!(read_all(&mut download).await.is_err());
    assert!(download.finish().await.unwrap_err().is("INTERNAL_ERROR"));
}

#[tokio::test]
async fn a_body_shorter_than_any_error_is_data() {
    let host = Host::start().await;
    for body in [&b""[..], b"HTTP/1.1 50"] {
        let (_client, mut download) = download(&host, send(body, End::Clean, SUCCESS)).await;
        assert_eq!(read_all(&mut download).await.unwrap(), body);
        download.finish().await.unwrap();
    }
}

#[tokio::test]
async fn a_vanished_task_is_not_a_success() {
    let host = Host::start().await;
    let (_client, mut download) = download(&host, send(&data(1000), End::Clean, Verdict::Vanish)).await;
    read_all(&mut download).await.unwrap();
    let error = download.finish().await.unwrap_err();
    assert!(matches!(error, Error::TaskVanished { .. }) && error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_transfer_that_stands_still_is_given_up() {
    let host = Host::start().await;
    let (_client, mut download) = download(&host, Script::Hang).await;
    let error = download.next().await.unwrap_err();
    assert!(matches!(error, Error::Stalled { bytes: 0, .. }) && error.is_retryable(), "{error}");
    download.abort().await.unwrap();
    no_task_is_left(&host);
}

#[tokio::test]
async fn a_slow_reader_is_not_a_standing_transfer() {
    let host = Host::start().await;
    let (client, mut download) = download(&host, send(&data(5_000_000), End::Clean, SUCCESS)).await;
    let mut read = download.next().await.unwrap().unwrap().len();
    tokio::time::sleep(client.timeouts().idle + Duration::from_millis(100)).await;
    while let Some(piece) = download.next().await.unwrap() {
        read += piece.len();
    }
    assert_eq!(read, 5_000_000);
    download.finish().await.unwrap();
}

#[tokio::test]
async fn an_aborted_download_is_cancelled_on_the_pool() {
    let host = Host::start().await;
    let (_client, mut download) = download(&host, send(&data(50_000_000), End::Clean, Verdict::Nothing)).await;
    download.next().await.unwrap();
    download.abort().await.unwrap();
    assert_eq!(host.called("task.cancel"), 1);
    no_task_is_left(&host);
}

#[tokio::test]
async fn data_without_end_is_not_waited_for() {
    let host = Host::start().await;
    let (_client, mut download) = download(&host, send(&data(30_000_000), End::Clean, SUCCESS)).await;
    download.next().await.unwrap();
    let error = download.finish().await.unwrap_err();
    assert!(matches!(error, Error::TrailingData { .. }), "{error}");
}

#[tokio::test]
async fn a_download_follows_one_redirect_to_a_host_of_the_pool() {
    let coordinator = Host::start().await;
    let supporter = coordinator.supporter("OpaqueRef:h2").await;
    let client = coordinator.client().await;
    coordinator.script(Script::Redirect(supporter.endpoint.to_string()));
    coordinator.script(send(&data(100), End::Clean, SUCCESS));
    let mut download = client.export_vdi(&export()).await.unwrap();
    assert_eq!(*download.host(), supporter.endpoint);
    assert_eq!(read_all(&mut download).await.unwrap().len(), 100);
    download.finish().await.unwrap();
}

#[tokio::test]
async fn a_redirect_to_a_stranger_or_in_circles_is_refused() {
    let host = Host::start().await;
    let client = host.client().await;
    let stranger = Host::start().await;
    let foreign = stranger.endpoint.to_string().replace("127.0.0.1", "127.0.0.9");
    host.script(Script::Redirect(foreign));
    let error = client.export_vdi(&export()).await.unwrap_err();
    assert!(matches!(error, Error::UnknownHost { .. }), "{error}");

    host.script(Script::Redirect(host.endpoint.to_string()));
    host.script(Script::Redirect(host.endpoint.to_string()));
    let error = client.export_vdi(&export()).await.unwrap_err();
    assert!(matches!(error, Error::Redirect { .. }), "{error}");
    assert!(stranger.lock().heads.is_empty());
    no_task_is_left(&host);
}

#[tokio::test]
async fn a_transfer_goes_to_a_host_that_has_the_disk_and_trusts_its_renewed_certificate() {
    let coordinator = Host::start().await;
    let supporter = coordinator.supporter("OpaqueRef:h2").await;
    coordinator.add(
        "PBD",
        "OpaqueRef:pbd1",
        json!({"SR": "OpaqueRef:sr", "host": "OpaqueRef:h2", "currently_attached": true}),
    );
    let client = coordinator.client().await;
    let renewed = supporter.renew(&coordinator).await;
    coordinator.add_host("OpaqueRef:h2", &renewed);
    coordinator.script(send(&data(100), End::Clean, SUCCESS));
    let mut download = client.export_vdi(&export()).await.unwrap();
    assert_eq!(*download.host(), renewed.endpoint);
    read_all(&mut download).await.unwrap();
    download.finish().await.unwrap();
}

#[tokio::test]
async fn a_host_with_another_certificate_than_the_pool_lists_is_given_nothing() {
    let coordinator = Host::start().await;
    let supporter = coordinator.supporter("OpaqueRef:h2").await;
    let client = coordinator.client().await;
    let listed = supporter.fingerprint;
    let other = supporter.renew(&coordinator).await;
    coordinator.script(Script::Redirect(other.endpoint.to_string()));
    let error = client.export_vdi(&export()).await.unwrap_err();
    let Error::CertificateChanged { host, expected, seen } = &error else { panic!("{error}") };
    assert_eq!((host, *expected, *seen), (&other.endpoint, listed, other.fingerprint));
    assert!(!error.is_retryable() && error.advice().is_some());
    assert_eq!(coordinator.lock().heads.len(), 1, "the session was sent to a stranger");
    no_task_is_left(&coordinator);
}

#[tokio::test]
async fn a_disk_that_no_host_sees_cannot_be_read() {
    let host = Host::start().await;
    host.add(
        "PBD",
        "OpaqueRef:pbd1",
        json!({"SR": "OpaqueRef:sr", "host": "OpaqueRef:h1", "currently_attached": false}),
    );
    let error = host.client().await.export_vdi(&export()).await.unwrap_err();
    assert!(matches!(error, Error::NoHostForSr { .. }), "{error}");
    no_task_is_left(&host);
}

#[tokio::test]
async fn a_refused_download_says_the_status() {
    let host = Host::start().await;
    let client = host.client().await;
    host.script(Script::Status(403));
    let error = client.export_vdi(&export()).await.unwrap_err();
    assert!(matches!(error, Error::Status { status: 403, .. }) && error.advice().is_some(), "{error}");
    assert!(!format!("{error:?}").contains("session-"), "{error:?}");
    no_task_is_left(&host);
}

#[tokio::test]
async fn a_vm_is_read_as_an_archive() {
    let host = Host::start().await;
    let client = host.client().await;
    host.script(send(&data(100), End::Clean, SUCCESS));
    let vm = VmExport {
        vm: Ref::new("OpaqueRef:vm").unwrap(),
        sr: None,
        compression: Compression::Zstd,
        preserve_power_state: true,
        label: "export".to_owned(),
    };
    client.export_vm(&vm).await.unwrap().finish().await.unwrap();
    let head = host.lock().heads[0].clone();
    assert!(head.contains("use_compression=zstd") && head.contains("preserve_power_state=true"), "{head}");
}

async fn upload(host: &Host, length: u64, script: Script) -> (Client, Upload) {
    let client = host.client().await;
    host.script(script);
    let upload = client.import_vdi(&import(length)).await.unwrap();
    (client, upload)
}

#[tokio::test]
async fn a_disk_is_written_though_the_answer_comes_first() {
    let host = Host::start().await;
    let body = data(5_000_000);
    let (_client, mut upload) = upload(&host, 5_000_000, take(SUCCESS)).await;
    upload.send(Bytes::copy_from_slice(&body[..2_500_000])).await.unwrap();
    upload.send(Bytes::copy_from_slice(&body[2_500_000..])).await.unwrap();
    upload.finish().await.unwrap();
    let state = host.lock();
    assert!(state.bodies.last().unwrap() == &body);
    assert_eq!(state.heads.len(), 2, "an empty probe, then the data");
    assert!(!state.heads[0].contains("task_id") && state.heads[1].contains("task_id"));
    drop(state);
    no_task_is_left(&host);
}

#[tokio::test]
async fn an_upload_that_was_taken_whole_and_failed_is_an_error() {
    let host = Host::start().await;
    let failure = Verdict::Failure(&["SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""]);
    let (_client, mut upload) = upload(&host, 1000, take(failure)).await;
    upload.send(data(1000).into()).await.unwrap();
    let error = upload.finish().await.unwrap_err();
    assert!(error.is("SR_BACKEND_FAILURE_44") && error.advice().unwrap().contains("full"), "{error}");
    no_task_is_left(&host);
}

#[tokio::test]
async fn how_the_connection_of_a_whole_upload_closes_does_not_matter() {
    let host = Host::start().await;
    let script = Script::Take { at_most: usize::MAX, end: End::Cut, verdict: SUCCESS };
    let (_client, mut upload) = upload(&host, 1000, script).await;
    upload.send(data(1000).into()).await.unwrap();
    upload.finish().await.unwrap();
}

#[tokio::test]
async fn a_reader_that_has_all_it_needs_does_not_mind_how_the_stream_closes() {
    let host = Host::start().await;
    let (_client, mut download) = download(&host, send(&data(1000), End::Cut, SUCCESS)).await;
    let mut disk = [0; 1000];
    download.read_exact(&mut disk).await.unwrap();
    download.finish().await.unwrap();
}

#[tokio::test]
async fn of_an_upload_that_was_refused_half_way_the_task_tells_the_reason() {
    let host = Host::start().await;
    let failure = Verdict::Failure(&["SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""]);
    let length = 100_000_000;
    let (_client, mut upload) =
        upload(&host, length, Script::Take { at_most: 100_000, end: End::Clean, verdict: failure }).await;
    let piece = Bytes::from(data(1 << 20));
    let broken = async {
        loop {
            upload.send(piece.clone()).await?;
        }
    };
    let error: Result<(), Error> = tokio::time::timeout(Duration::from_secs(5), broken).await.unwrap();
    assert!(matches!(error, Err(Error::UploadRefused { .. })), "{error:?}");
    assert!(upload.finish().await.unwrap_err().is("SR_BACKEND_FAILURE_44"));
}

#[tokio::test]
async fn an_upload_of_another_length_than_announced_never_succeeds() {
    let host = Host::start().await;
    let whole = take(SUCCESS);
    let (_client, mut short) = upload(&host, 1000, whole.clone()).await;
    short.send(data(999).into()).await.unwrap();
    let error = short.finish().await.unwrap_err();
    assert!(matches!(error, Error::Length { announced: 1000, written: 999, .. }), "{error}");

    let (_client, mut long) = upload(&host, 1000, whole).await;
    let error = long.send(Bytes::from(data(1001))).await.unwrap_err();
    assert!(matches!(error, Error::Length { written: 1001, .. }), "{error}");
    long.abort().await.unwrap();
    no_task_is_left(&host);
}

#[tokio::test]
async fn a_host_that_reads_no_more_stops_an_upload_in_time() {
    let host = Host::start().await;
    let (_client, mut upload) = upload(&host, 1_000_000_000, Script::Ignore).await;
    let piece = Bytes::from(data(2 << 20));
    let mut taken = 0;
    let standing = async {
        loop {
            upload.send(piece.clone()).await?;
            taken += 1;
        }
    };
    let error: Result<(), Error> = tokio::time::timeout(Duration::from_secs(10), standing).await.unwrap();
    assert!(matches!(error, Err(Error::Stalled { .. })), "{error:?}");
    // Whoever hands pieces over cannot use their memory again, and reckons with less than eight (`PieceWriter`).
    assert!(taken < 8, "{taken} pieces were taken for a host that reads nothing");
    upload.abort().await.unwrap();
    assert_eq!(host.called("task.cancel"), 1);
    no_task_is_left(&host);
}

#[tokio::test]
async fn an_upload_follows_one_redirect_before_it_sends_a_byte() {
    let coordinator = Host::start().await;
    let supporter = coordinator.supporter("OpaqueRef:h2").await;
    let client = coordinator.client().await;
    coordinator.script(Script::Redirect(supporter.endpoint.to_string()));
    coordinator
        .script(take(Verdict::Success("<value><array><data><value>OpaqueRef:vm</value></data></array></value>")));
    let vm = VmImport {
        sr: Ref::new("OpaqueRef:sr").unwrap(),
        restore: false,
        force: false,
        length: 1000,
        label: "import".to_owned(),
    };
    let mut upload = client.import_vm(&vm).await.unwrap();
    assert_eq!(*upload.host(), supporter.endpoint);
    upload.send(data(1000).into()).await.unwrap();
    let result = upload.finish().await.unwrap();
    assert_eq!(imported_vms(&result).unwrap(), [Ref::new("OpaqueRef:vm").unwrap()]);
    assert!(coordinator.lock().bodies == [data(1000)]);
}
