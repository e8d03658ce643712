//! Certificates, sessions, coordinators, and answers that are not what they should be.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use coffer_runtime::CancellationToken;
use coffer_runtime::retry::Policy;
use coffer_xapi::records::{Vm, VmRecord};
use coffer_xapi::{BUSY, Client, Error, FailureClass, Fingerprint, Ref, Repeat, probe};
use serde_json::json;
use support::{Host, Lie};

fn vm(reference: &str) -> Ref<Vm> {
    Ref::new(reference).unwrap()
}

#[tokio::test]
async fn the_fingerprint_of_a_host_is_seen_without_a_word_to_it() {
    let host = Host::start().await;
    assert_eq!(probe(&host.endpoint, host.options().timeouts).await.unwrap(), host.fingerprint);
    assert!(host.lock().calls.is_empty());
}

#[tokio::test]
async fn another_certificate_is_refused_before_the_password_is_sent() {
    let host = Host::start().await;
    let expected = Fingerprint::of_der(b"what was pinned");
    let mut options = host.options();
    options.fingerprint = expected;
    let error = Client::connect(options).await.unwrap_err();
    let Error::CertificateChanged { expected: pinned, seen, .. } = &error else { panic!("{error}") };
    assert_eq!((*pinned, *seen), (expected, host.fingerprint));
    assert!(!error.is_retryable() && error.advice().is_some());
    assert!(host.lock().calls.is_empty(), "something was sent to a stranger");
}

#[tokio::test]
async fn a_wrong_password_is_said_plainly_and_not_tried_again() {
    let host = Host::start().await;
    let mut options = host.options();
    options.password = "wrong-password".into();
    let error = Client::connect(options).await.unwrap_err();
    assert_eq!(error.class(), Some(FailureClass::Permission));
    assert!(!error.is_retryable() && !format!("{error:?}").contains("wrong-password"));
    assert_eq!(host.called("session.login_with_password"), 1);
}

#[tokio::test]
async fn a_lost_session_is_renewed_where_the_call_is_safe_to_repeat() {
    let host = Host::start().await;
    host.add("VM", "OpaqueRef:vm", json!({"name_label": "db"}));
    let client = host.client().await;
    host.restart();
    assert_eq!(client.record(&vm("OpaqueRef:vm")).await.unwrap().name_label, "db");
    assert_eq!(host.lock().logins, 2);

    host.restart();
    let error = client.vtpm_create(&vm("OpaqueRef:vm"), false).await.unwrap_err();
    assert_eq!(error.class(), Some(FailureClass::Session));
    assert!(error.is_retryable() && !error.to_string().contains("session-"), "{error}");
    assert_eq!(host.called("VTPM.create"), 1, "a call that makes something was repeated");
    client.vtpm_create(&vm("OpaqueRef:vm"), false).await.unwrap();
    assert_eq!(host.lock().logins, 3);
}

#[tokio::test]
async fn an_answer_lost_with_its_connection_is_asked_for_again_only_where_that_is_safe() {
    let host = Host::start().await;
    host.add("VM", "OpaqueRef:vm", json!({}));
    let client = host.client().await;
    host.lie("VM.get_record", Lie::Cut);
    client.record(&vm("OpaqueRef:vm")).await.unwrap();
    assert_eq!(host.called("VM.get_record"), 2);

    host.lie("VTPM.create", Lie::Cut);
    let error = client.vtpm_create(&vm("OpaqueRef:vm"), false).await.unwrap_err();
    assert!(error.maybe_done() && error.is_retryable(), "{error}");
    assert_eq!(host.called("VTPM.create"), 1);
}

#[tokio::test]
async fn a_supporter_leads_to_its_coordinator_when_that_is_known() {
    let coordinator = Host::start().await;
    let supporter = coordinator.supporter("OpaqueRef:h2").await;
    let mut options = coordinator.options();
    options.hosts = vec![supporter.endpoint.clone()];
    options.fingerprint = supporter.fingerprint;
    let error = Client::connect(options.clone()).await.unwrap_err();
    let Error::UnknownCoordinator { coordinator: named, .. } = &error else { panic!("{error}") };
    assert_eq!(*named, coordinator.endpoint);
    assert!(!error.is_retryable() && error.advice().is_some());
    assert_eq!(coordinator.lock().logins, 0, "a host with an unknown certificate was given the password");

    options.learnt.push((coordinator.endpoint.clone(), coordinator.fingerprint));
    let client = Client::connect(options).await.unwrap();
    let known = client.known_hosts();
    assert_eq!(known.len(), 2);
    let learnt = known.iter().find(|host| host.endpoint == supporter.endpoint).unwrap();
    assert_eq!(learnt.fingerprint, Some(supporter.fingerprint));
}

#[tokio::test]
async fn a_supporter_with_the_right_certificate_is_believed_which_one_its_coordinator_has() {
    let coordinator = Host::start().await;
    let supporter = coordinator.supporter("OpaqueRef:h2").await;
    let mut options = coordinator.options();
    options.hosts = vec![supporter.endpoint.clone()];
    options.fingerprint = supporter.fingerprint;

    supporter.vouch_for_coordinator(Fingerprint::of_der(b"another"));
    let error = Client::connect(options.clone()).await.unwrap_err();
    assert!(matches!(&error, Error::CertificateChanged { host, .. } if *host == coordinator.endpoint), "{error}");
    assert_eq!(coordinator.lock().logins, 0, "a host with another certificate was given the password");

    supporter.vouch_for_coordinator(coordinator.fingerprint);
    let client = Client::connect(options).await.unwrap();
    assert_eq!(client.known_hosts().len(), 2);
}

#[tokio::test]
async fn a_certificate_that_changes_under_a_session_is_seen_without_a_word_to_the_host() {
    let coordinator = Host::start().await;
    let supporter = coordinator.supporter("OpaqueRef:h2").await;
    let client = coordinator.client().await;
    client.look_at_certificates().await.unwrap();

    let (expected, endpoint) = (coordinator.fingerprint, coordinator.endpoint.clone());
    let other = coordinator.renew(&supporter).await;
    // Though the pool itself lists the new one: a person confirmed the old one.
    supporter.add_host("OpaqueRef:h1", &other);
    let said = supporter.lock().calls.len();
    let error = client.look_at_certificates().await.unwrap_err();
    let Error::CertificateChanged { host, expected: pinned, seen } = &error else { panic!("{error}") };
    assert_eq!((host, *pinned, *seen), (&endpoint, expected, other.fingerprint));
    assert_eq!(supporter.lock().calls.len(), said, "something was sent to a stranger");
}

#[tokio::test]
async fn a_certificate_is_read_from_its_host_where_the_pool_does_not_list_it() {
    let host = Host::start().await;
    host.remove("Certificate", "OpaqueRef:h1-certificate");
    host.lie("host.get_server_certificate", Lie::Result(json!(host.pem)));
    assert_eq!(host.client().await.known_hosts()[0].fingerprint, Some(host.fingerprint));
}

#[tokio::test]
async fn an_oversized_answer_is_cut_off() {
    let host = Host::start().await;
    let mut options = host.options();
    options.max_answer = 1 << 20;
    let client = Client::connect(options).await.unwrap();
    host.lie("VM.get_all_records", Lie::Endless);
    let error = client.all_records::<Vm>().await.unwrap_err();
    assert!(matches!(error, Error::AnswerTooLarge { limit: 1_048_576, .. }), "{error}");
    assert!(client.all_records::<Vm>().await.unwrap().is_empty(), "the client must be usable afterwards");
}

#[tokio::test]
async fn garbage_is_a_typed_error_naming_the_call() {
    let host = Host::start().await;
    let client = host.client().await;
    for garbage in [&b"<html>"[..], b"", b"{}", b"[1]", b"{\"result\":1,\"id\":999999}", &[0xff; 100]] {
        host.lie("VM.get_all_records", Lie::Garbage(garbage.to_vec()));
        let error = client.all_records::<Vm>().await.unwrap_err();
        assert!(matches!(&error, Error::Answer { what, .. } if what == "VM.get_all_records"), "{error}");
    }
    host.lie("VM.get_all_records", Lie::Result(json!({"OpaqueRef:1": 7, "OpaqueRef:2": {"name_label": "ok"}})));
    let records: Vec<(Ref<Vm>, VmRecord)> = client.all_records().await.unwrap();
    assert_eq!(records.len(), 1, "one unreadable object must not hide the others");
}

#[tokio::test]
async fn a_silent_host_is_given_up() {
    let host = Host::start().await;
    let mut options = host.options();
    options.timeouts.call = std::time::Duration::from_millis(300);
    let client = Client::connect(options).await.unwrap();
    host.lie("VTPM.create", Lie::Silence);
    let error = client.vtpm_create(&vm("OpaqueRef:vm"), false).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }) && error.maybe_done() && error.is_retryable(), "{error}");
}

#[tokio::test]
async fn an_unreachable_host_is_named() {
    let host = Host::start().await;
    let options = host.options();
    drop(host);
    let error = Client::connect(options.clone()).await.unwrap_err();
    assert!(matches!(&error, Error::Connect { host, .. } if *host == options.hosts[0]), "{error}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_starting_host_is_a_reason_to_wait() {
    let host = Host::start().await;
    host.lie("session.login_with_password", Lie::Failure("HOST_STILL_BOOTING", vec![]));
    let error = Client::connect(host.options()).await.unwrap_err();
    assert_eq!(error.class(), Some(FailureClass::Starting));
    assert!(error.is_retryable());
}

#[tokio::test]
async fn the_session_ends_with_a_logout_and_begins_again_when_needed() {
    let host = Host::start().await;
    let client = host.client().await;
    client.logout().await.unwrap();
    assert!(host.lock().sessions.is_empty());
    client.call("VM.get_all_records", vec![], Repeat::Safe).await.unwrap();
    assert_eq!(host.lock().logins, 2);
}

#[tokio::test]
async fn nothing_shows_the_password_or_the_session() {
    let host = Host::start().await;
    let client = host.client().await;
    let secret = host.lock().sessions[0].clone();
    let shown = format!("{client:?} {:?}", host.options());
    assert!(!shown.contains("\"secret\"") && !shown.contains(&secret), "{shown}");
    host.lie("VM.get_all_records", Lie::Failure("INTERNAL_ERROR", vec![format!("Not_found({secret})")]));
    let error = client.all_records::<Vm>().await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(&secret), "{error:?}");
}

#[tokio::test]
async fn version_8_2_takes_all_disks_and_the_unwanted_ones_are_removed() {
    let host = Host::start().await;
    host.lock().old = true;
    let disk = |of: &str| json!({"is_a_snapshot": true, "snapshot_of": of});
    host.add("VM", "OpaqueRef:snapshot", json!({"VBDs": ["OpaqueRef:b1", "OpaqueRef:b2"]}));
    host.add("VBD", "OpaqueRef:b1", json!({"VDI": "OpaqueRef:s1"}));
    host.add("VBD", "OpaqueRef:b2", json!({"VDI": "OpaqueRef:s2"}));
    host.add("VDI", "OpaqueRef:s1", disk("OpaqueRef:d1"));
    host.add("VDI", "OpaqueRef:s2", disk("OpaqueRef:d2"));
    let client = host.client().await;
    let unwanted = [Ref::new("OpaqueRef:d2").unwrap()];
    let snapshot = client.vm_snapshot(&vm("OpaqueRef:vm"), "x", &unwanted).await.unwrap();
    assert_eq!(snapshot, vm("OpaqueRef:snapshot"));
    let state = host.lock();
    assert!(state.db.get("VDI", "OpaqueRef:s1").is_some() && state.db.get("VBD", "OpaqueRef:b1").is_some());
    assert!(state.db.get("VDI", "OpaqueRef:s2").is_none() && state.db.get("VBD", "OpaqueRef:b2").is_none());
    assert!(state.db.all("task").is_empty(), "tasks of operations were left behind");
}

#[tokio::test]
async fn storage_that_tracks_changes_is_told_from_storage_that_does_not() {
    let host = Host::start().await;
    host.add("SM", "OpaqueRef:sm1", json!({"type": "nfs", "features": {"VDI_CREATE": 1, "VDI_CONFIG_CBT": 1}}));
    host.add("SM", "OpaqueRef:sm2", json!({"type": "linstor", "features": {"VDI_CREATE": 1}}));
    let client = host.client().await;
    for (kind, tracks) in [("nfs", true), ("linstor", false), ("unknown", false)] {
        assert_eq!(client.storage_tracks_changes(kind).await.unwrap(), tracks, "{kind}");
    }
}

#[tokio::test]
async fn when_the_coordinator_is_gone_its_successor_is_found() {
    let coordinator = Host::start().await;
    coordinator.add("VM", "OpaqueRef:vm", json!({"name_label": "db"}));
    let successor = coordinator.supporter("OpaqueRef:h2").await;
    let client = coordinator.client().await;
    drop(coordinator);
    successor.promote();
    assert_eq!(client.record(&vm("OpaqueRef:vm")).await.unwrap().name_label, "db");
    assert_eq!(successor.lock().logins, 2);
}

#[tokio::test]
async fn a_key_of_a_map_is_replaced_though_xapi_can_only_add_and_remove() {
    let host = Host::start().await;
    host.add("VM", "OpaqueRef:vm", json!({"other_config": {"k": "old", "other": "kept"}}));
    let client = host.client().await;
    client.set_other_config(&vm("OpaqueRef:vm"), "k", "new").await.unwrap();
    // The answer to the adding is lost: it is repeated and finds the key there.
    host.lie("VM.add_to_other_config", Lie::Failure("MAP_DUPLICATE_KEY", vec![]));
    client.set_other_config(&vm("OpaqueRef:vm"), "k", "newer").await.unwrap();
    let config = client.record(&vm("OpaqueRef:vm")).await.unwrap().other_config.clone();
    assert_eq!((config["k"].as_str(), config["other"].as_str()), ("newer", "kept"));
}

#[tokio::test]
async fn a_disk_that_a_broken_transfer_left_attached_is_freed_and_destroyed() {
    let host = Host::start().await;
    host.add("VDI", "OpaqueRef:vdi", json!({"VBDs": ["OpaqueRef:vbd"]}));
    host.add("VBD", "OpaqueRef:vbd", json!({"VM": "OpaqueRef:dom0", "VDI": "OpaqueRef:vdi"}));
    host.add("VM", "OpaqueRef:dom0", json!({"is_control_domain": true}));
    let client = host.client().await;
    let policy = Policy { initial: Duration::from_millis(1), max: Duration::from_millis(1), ..BUSY.with_attempts(3) };
    let disk = Ref::new("OpaqueRef:vdi").unwrap();
    let busy = || Lie::Failure("VDI_IN_USE", vec!["OpaqueRef:vdi".into(), "destroy".into()]);
    for _ in 0..3 {
        host.lie("Async.VDI.destroy", busy());
    }
    client.vdi_destroy_when_free(&disk, policy, &CancellationToken::new()).await.unwrap();
    assert_eq!((host.called("Async.VDI.destroy"), host.called("Async.VBD.unplug")), (4, 1));
    let state = host.lock();
    assert!(state.db.get("VDI", "OpaqueRef:vdi").is_none() && state.db.get("VBD", "OpaqueRef:vbd").is_none());
}

#[tokio::test]
async fn a_disk_that_a_vm_uses_is_left_to_it() {
    let host = Host::start().await;
    host.add("VDI", "OpaqueRef:vdi", json!({"VBDs": ["OpaqueRef:vbd"]}));
    host.add("VBD", "OpaqueRef:vbd", json!({"VM": "OpaqueRef:vm", "VDI": "OpaqueRef:vdi"}));
    host.add("VM", "OpaqueRef:vm", json!({"is_control_domain": false}));
    let client = host.client().await;
    host.lie("Async.VDI.destroy", Lie::Failure("VDI_IN_USE", vec![]));
    let disk = Ref::new("OpaqueRef:vdi").unwrap();
    let error =
        client.vdi_destroy_when_free(&disk, BUSY.with_attempts(1), &CancellationToken::new()).await.unwrap_err();
    assert!(error.is("VDI_IN_USE"), "{error}");
    assert_eq!(host.called("Async.VBD.unplug"), 0);
}
