//! A cluster of etcd on loopback, for sites with several controllers.

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Process, eventually};

/// The members, each a process. Killed when dropped.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Option<Process>>,
    clients: Vec<u16>,
}

impl Etcd {
    /// Starts a cluster that keeps its data below `folder`, and waits until every member serves.
    ///
    /// # Errors
    /// When etcd is not installed, or a member does not serve.
    pub async fn start(folder: &Path, size: usize) -> Result<Self> {
        let listeners: Vec<TcpListener> =
            (0..size * 2).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let ports: Vec<u16> =
            listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<std::io::Result<_>>()?;
        drop(listeners);
        let (clients, peers) = ports.split_at(size);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> =
            peers.iter().enumerate().map(|(number, port)| format!("m{number}={}", url(port))).collect();
        let mut members = Vec::new();
        for (number, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let data = folder.join(format!("m{number}")).display().to_string();
            let arguments = [
                ("name", format!("m{number}")),
                ("data-dir", data),
                ("listen-client-urls", url(client)),
                ("advertise-client-urls", url(client)),
                ("listen-peer-urls", url(peer)),
                ("initial-advertise-peer-urls", url(peer)),
                ("initial-cluster", cluster.join(",")),
                ("heartbeat-interval", "50".to_owned()),
                ("election-timeout", "500".to_owned()),
                ("logger", "zap".to_owned()),
                ("log-outputs", "stderr".to_owned()),
            ]
            .map(|(name, value)| format!("--{name}={value}"));
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let member = Process::start_as(&format!("etcd-{number}"), Path::new("etcd"), folder, &arguments);
            members.push(Some(member.context("is etcd-server installed? see deploy/prerequisites")?));
        }
        let etcd = Self { members, clients: clients.to_vec() };
        for port in &etcd.clients {
            eventually("a member of etcd to serve", async || Ok(is_healthy(*port).await.unwrap_or(false))).await?;
        }
        Ok(etcd)
    }

    /// For a controller: all members.
    #[must_use]
    pub fn endpoints(&self) -> String {
        self.clients.iter().map(|port| format!("http://127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Kills a member for good.
    ///
    /// # Errors
    /// When it has ended before.
    pub async fn kill(&mut self, member: usize) -> Result<()> {
        self.members[member].take().context("the member runs")?.kill().await
    }

    /// Stops a member in its tracks, or lets it go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&self, member: usize, pause: bool) -> Result<()> {
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        self.members[member].as_ref().context("the member runs")?.signal(signal)
    }
}

/// Whether a member can answer from a majority.
async fn is_healthy(port: u16) -> Result<bool> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection.write_all(b"GET /health HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer.contains("\"health\":\"true\""))
}
