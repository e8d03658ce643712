//! The controller's program with its state in etcd: it is killed and begins elsewhere, members die, options are wrong.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "../../store/tests/etcd/certificates.rs"]
#[allow(dead_code, reason = "shared with the tests of the store, which use more of it")]
mod certificates;
#[path = "../../store/tests/etcd/eventually.rs"]
mod eventually;
#[path = "../../store/tests/etcd/members.rs"]
#[allow(dead_code, reason = "shared with the tests of the store, which use more of it")]
mod members;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use coffer_proto::v1;
use etcd_client::GetOptions;
use members::Etcd;
use tempfile::TempDir;
use tonic::Request;
use tonic::transport::Endpoint;
use v1::remote_service_client::RemoteServiceClient;

/// How long a call may take when a member has just died.
const A_FEW_SECONDS: Duration = Duration::from_secs(8);

/// A running program; killed when dropped.
struct Program {
    child: Child,
    address: String,
    token: String,
}

fn command(state: &Path, etcd: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer-controller"));
    command.arg("--state").arg(state).arg("--listen=127.0.0.1:0").arg(format!("--etcd={}", etcd.join(",")));
    command.stdin(Stdio::null());
    command
}

impl Program {
    fn start(mut command: Command, state: &Path) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("it should listen").to_owned();
        let token = std::fs::read_to_string(state.join("api-token")).unwrap().trim().to_owned();
        Self { child, address, token }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    fn remotes(&self) -> RemoteServiceClient<tonic::transport::Channel> {
        RemoteServiceClient::new(Endpoint::from_shared(self.address.clone()).unwrap().connect_lazy())
    }

    async fn create_remote(&self, id: &str) {
        let remote = v1::Remote {
            location: Some(v1::remote::Location::Local(v1::LocalLocation { path: format!("/srv/{id}") })),
            password: "correct horse battery".to_owned(),
            ..Default::default()
        };
        let message = v1::CreateRemoteRequest { remote_id: id.to_owned(), remote: Some(remote), ..Default::default() };
        self.remotes().create_remote(self.request(message)).await.unwrap();
    }

    async fn remote_names(&self) -> Vec<String> {
        let listed = self.remotes().list_remotes(self.request(v1::ListRemotesRequest::default())).await.unwrap();
        listed.into_inner().remotes.into_iter().map(|remote| remote.name).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn a_controller_that_is_killed_begins_on_another_machine_where_it_was() {
    let etcd = Etcd::secured(1).await;
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let start = |folder: &TempDir| {
        let files = etcd.certificates();
        let mut command = command(folder.path(), &etcd.endpoints());
        command.arg("--etcd-prefix=/coffer/berlin").arg("--etcd-ca").arg(files.file("ours-ca.pem"));
        command.arg("--etcd-cert").arg(files.file("ours-client.pem"));
        command.arg("--etcd-key").arg(files.file("ours-client.key"));
        Program::start(command, folder.path())
    };
    let first = start(&folders[0]);
    first.create_remote("nas").await;
    drop(first);
    // What is not in the store goes with the operator.
    for name in ["api-token", "sealing-key"] {
        std::fs::copy(folders[0].path().join(name), folders[1].path().join(name)).unwrap();
    }
    let second = start(&folders[1]);
    assert_eq!(second.remote_names().await, ["remotes/nas"]);
    second.create_remote("vault").await;
    assert_eq!(second.remote_names().await, ["remotes/nas", "remotes/vault"]);
    assert!(folders.iter().all(|folder| !folder.path().join("store.redb").exists()), "there should be no other store");
    let all = etcd.client(0).await.get("", Some(GetOptions::new().with_all_keys().with_keys_only())).await.unwrap();
    assert!(!all.kvs().is_empty());
    assert!(all.kvs().iter().all(|entry| entry.key().starts_with(b"/coffer/berlin/")));
}

#[tokio::test]
async fn a_controller_goes_on_when_the_member_that_it_talks_to_dies() {
    let etcd = Etcd::plain(3).await;
    let folder = TempDir::new().unwrap();
    let program = Program::start(command(folder.path(), &etcd.endpoints()), folder.path());
    program.create_remote("before").await;
    etcd.kill(0);
    let begun = Instant::now();
    program.create_remote("after").await;
    assert!(begun.elapsed() < A_FEW_SECONDS, "it took {:?}", begun.elapsed());
    assert_eq!(program.remote_names().await, ["remotes/after", "remotes/before"]);
}

fn refused(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn options_that_cannot_be_meant_are_refused_and_a_cluster_that_is_away_is_named() {
    let folder = TempDir::new().unwrap();
    // Nobody listens on port 1 of this address.
    let away = ["http://127.9.9.9:1".to_owned()];
    for (options, code, said) in [
        (vec!["--etcd-prefix=berlin"], 64, "begin with a slash"),
        (vec!["--etcd-ca=/none.pem"], 64, "is http, and certificates are given"),
        (vec!["--etcd-cert=/none.pem"], 64, "--etcd-key"),
        (vec![], 69, away[0].as_str()),
    ] {
        let (exit, text) = refused(command(folder.path(), &away).args(&options));
        assert!(exit == Some(code) && text.contains(said), "{options:?}: {exit:?}: {text}");
    }
}
