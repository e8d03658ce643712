//! Members of etcd as child processes on loopback; killed when dropped.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use coffer_store::{EtcdOptions, EtcdStore, EtcdTimeouts, EtcdTls};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::eventually::eventually;

/// How often to begin again when another program has taken a port in between.
const ATTEMPTS: u32 = 5;

/// A cluster of its own for one test.
pub(crate) struct Etcd {
    members: Vec<Member>,
    folder: TempDir,
    certificates: Option<Certificates>,
}

struct Member {
    arguments: Vec<String>,
    address: String,
    child: Mutex<Option<Child>>,
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Etcd {
    /// A cluster without certificates.
    pub(crate) async fn plain(size: usize) -> Self {
        Self::start(size, false).await
    }

    /// A cluster that wants to see client certificates.
    pub(crate) async fn secured(size: usize) -> Self {
        Self::start(size, true).await
    }

    async fn start(size: usize, secured: bool) -> Self {
        for _ in 0..ATTEMPTS {
            let etcd = Self::spawn(size, secured);
            if etcd.serves().await {
                return etcd;
            }
        }
        panic!("etcd should have started in one of {ATTEMPTS} attempts; is etcd-server installed?");
    }

    fn spawn(size: usize, secured: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let certificates = secured.then(|| Certificates::make(folder.path()));
        let scheme = if secured { "https" } else { "http" };
        let ports = free_ports(size * 2);
        let (clients, peers) = ports.split_at(size);
        let peer = |number: usize| format!("{scheme}://127.0.0.1:{}", peers[number]);
        let all: Vec<String> = (0..size).map(|number| format!("m{number}={}", peer(number))).collect();
        let mut members = Vec::new();
        for (number, port) in clients.iter().enumerate() {
            let address = format!("127.0.0.1:{port}");
            let client = format!("{scheme}://{address}");
            let mut arguments: Vec<String> = [
                ("name", format!("m{number}")),
                ("data-dir", folder.path().join(format!("m{number}")).display().to_string()),
                ("listen-client-urls", client.clone()),
                ("advertise-client-urls", client),
                ("listen-peer-urls", peer(number)),
                ("initial-advertise-peer-urls", peer(number)),
                ("initial-cluster", all.join(",")),
                ("heartbeat-interval", "50".to_owned()),
                ("election-timeout", "500".to_owned()),
                ("logger", "zap".to_owned()),
                ("log-outputs", "stderr".to_owned()),
            ]
            .map(|(name, value)| format!("--{name}={value}"))
            .into();
            if let Some(certificates) = &certificates {
                let file = |name: &str| certificates.file(name).display().to_string();
                for kind in ["", "peer-"] {
                    arguments.push(format!("--{kind}cert-file={}", file("ours-member.pem")));
                    arguments.push(format!("--{kind}key-file={}", file("ours-member.key")));
                    arguments.push(format!("--{kind}trusted-ca-file={}", file("ours-ca.pem")));
                    arguments.push(format!("--{kind}client-cert-auth"));
                }
            }
            members.push(Member { arguments, address, child: Mutex::default() });
        }
        let etcd = Self { members, folder, certificates };
        for number in 0..size {
            etcd.run(number);
        }
        etcd
    }

    /// Runs a member, for the first time or again.
    pub(crate) fn run(&self, number: usize) {
        let log = File::options().create(true).append(true).open(self.folder.path().join(format!("m{number}.log")));
        let mut command = Command::new("etcd");
        // Nothing of the machine's own configuration of etcd.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.args(&self.members[number].arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.unwrap());
        let child = command.spawn().expect("etcd should start; install etcd-server with `deploy/prerequisites tests`");
        *self.members[number].child.lock().unwrap() = Some(child);
    }

    /// Waits until every member answers, or one has ended.
    async fn serves(&self) -> bool {
        for number in 0..self.members.len() {
            let answers = eventually("an answer of a new member", || async {
                let ended = self.members[number].child.lock().unwrap().as_mut().map(Child::try_wait);
                if matches!(ended, Some(Ok(Some(_)))) {
                    return Some(false);
                }
                let mut client = self.client(number).await;
                let asked = tokio::time::timeout(Duration::from_secs(2), client.get("none", None)).await;
                matches!(asked, Ok(Ok(_))).then_some(true)
            });
            if !answers.await {
                return false;
            }
        }
        true
    }

    /// A client of one member that shares nothing with the store.
    pub(crate) async fn client(&self, number: usize) -> Client {
        let mut options = ConnectOptions::new();
        if let Some(certificates) = &self.certificates {
            let read = |name: &str| std::fs::read(certificates.file(name)).unwrap();
            let tls = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(read("ours-ca.pem")))
                .identity(Identity::from_pem(read("ours-client.pem"), read("ours-client.key")));
            options = options.with_tls(tls);
        }
        Client::connect([self.endpoint(number)], Some(options)).await.unwrap()
    }

    pub(crate) fn address(&self, number: usize) -> &str {
        &self.members[number].address
    }

    pub(crate) fn endpoint(&self, number: usize) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address(number))
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|number| self.endpoint(number)).collect()
    }

    pub(crate) fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("the cluster is secured")
    }

    pub(crate) fn tls(&self) -> Option<EtcdTls> {
        self.certificates.as_ref().map(|certificates| certificates.client("ours", Some("ours")))
    }

    /// Options with short times; members are asked in the order of their numbers.
    pub(crate) fn options(&self) -> EtcdOptions {
        EtcdOptions { tls: self.tls(), timeouts: short(), ..EtcdOptions::new(self.endpoints()) }
    }

    /// A store that talks to member 0 as long as that serves.
    pub(crate) async fn store(&self) -> EtcdStore {
        EtcdStore::connect(self.options()).await.unwrap()
    }

    /// The member that leads.
    pub(crate) async fn leader(&self) -> usize {
        eventually("a leader", || async {
            for number in 0..self.members.len() {
                let status = self.client(number).await.status().await.ok()?;
                if status.header()?.member_id() == status.leader() {
                    return Some(number);
                }
            }
            None
        })
        .await
    }

    pub(crate) fn kill(&self, number: usize) {
        if let Some(mut child) = self.members[number].child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn pause(&self, number: usize) {
        self.signal(number, Signal::STOP);
    }

    pub(crate) fn resume(&self, number: usize) {
        self.signal(number, Signal::CONT);
    }

    fn signal(&self, number: usize, signal: Signal) {
        let child = self.members[number].child.lock().unwrap();
        kill_process(Pid::from_child(child.as_ref().unwrap()), signal).unwrap();
    }
}

/// Times with which a test sees a dead member soon.
pub(crate) fn short() -> EtcdTimeouts {
    EtcdTimeouts {
        connect: Duration::from_millis(800),
        request: Duration::from_millis(1200),
        call: Duration::from_secs(8),
    }
}

/// Times for tests in which calls are given up.
pub(crate) fn shortest() -> EtcdTimeouts {
    EtcdTimeouts {
        connect: Duration::from_millis(300),
        request: Duration::from_millis(800),
        call: Duration::from_millis(2500),
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.kill(number);
        }
    }
}
