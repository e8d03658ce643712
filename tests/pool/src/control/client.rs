//! The control interface's client. One connection per request; knows nothing of XAPI.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::api::*;

/// Guest writes and digests of large disks take a while; nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why a control request failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody answers at the address.
    #[error("the control interface at {address} cannot be reached; is the simulated pool running?")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The answer did not come in time.
    #[error("the control interface at {address} did not answer {path} within {}s", PATIENCE.as_secs())]
    TimedOut {
        /// `host:port`.
        address: String,
        /// Request path.
        path: String,
    },
    /// The pool refused the request.
    #[error("{path}: {message}")]
    Refused {
        /// Request path.
        path: String,
        /// The pool's words.
        message: String,
    },
    /// The answer is not what this client knows.
    #[error("{path}: unexpected answer from the control interface: {detail}")]
    Garbled {
        /// Request path.
        path: String,
        /// What is wrong.
        detail: String,
    },
}

impl ControlError {
    /// Whether the same request may succeed later without anything being changed by hand.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }
}

/// A handle on one simulated pool.
#[derive(Clone, Debug)]
pub struct Client {
    address: String,
}

impl Client {
    /// From `http://127.0.0.1:<port>` (or without the scheme), as `simpool serve` prints it.
    #[must_use]
    pub fn new(url: &str) -> Self {
        let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/').to_owned();
        Self { address }
    }

    /// Addresses, ports, user, fingerprints.
    pub async fn pool(&self) -> Result<PoolInfo, ControlError> {
        self.ask("pool", &()).await
    }

    /// Makes an SR with a plugged PBD on every host that sees it.
    pub async fn create_sr(&self, spec: &SrSpec) -> Result<ObjectId, ControlError> {
        self.ask("sr/create", spec).await
    }

    /// The SR's disk tree and fill.
    pub async fn sr(&self, sr: &str) -> Result<SrInfo, ControlError> {
        self.ask("sr/info", &Subject { id: sr.to_owned() }).await
    }

    /// Runs the SR's garbage collection now, to its end.
    pub async fn collect_garbage(&self, sr: &str) -> Result<(), ControlError> {
        self.ask("sr/collect", &Subject { id: sr.to_owned() }).await
    }

    /// Makes a VM with its disks.
    pub async fn create_vm(&self, spec: &VmSpec) -> Result<VmInfo, ControlError> {
        self.ask("vm/create", spec).await
    }

    /// The VM and its disks as they are now.
    pub async fn vm(&self, vm: &str) -> Result<VmInfo, ControlError> {
        self.ask("vm/info", &Subject { id: vm.to_owned() }).await
    }

    /// Deletes a VM with its disks and snapshots, whatever its state.
    pub async fn delete_vm(&self, vm: &str) -> Result<(), ControlError> {
        self.ask("vm/delete", &Subject { id: vm.to_owned() }).await
    }

    /// Adds a disk.
    pub async fn add_disk(&self, vm: &str, disk: DiskSpec) -> Result<DiskInfo, ControlError> {
        self.ask("vm/disk/add", &AddDisk { vm: vm.to_owned(), disk }).await
    }

    /// Detaches and destroys a disk.
    pub async fn remove_disk(&self, vdi: &str) -> Result<(), ControlError> {
        self.ask("vm/disk/remove", &Subject { id: vdi.to_owned() }).await
    }

    /// Sets what the guest does at its next boots.
    pub async fn set_guest(&self, vm: &str, guest: GuestBehaviour) -> Result<(), ControlError> {
        self.ask("vm/guest", &SetGuest { vm: vm.to_owned(), guest }).await
    }

    /// The guest writes a key of its xenstore.
    pub async fn guest_xenstore(&self, vm: &str, key: &str, value: &str) -> Result<(), ControlError> {
        let request = GuestXenstore { vm: vm.to_owned(), key: key.to_owned(), value: value.to_owned() };
        self.ask("vm/xenstore", &request).await
    }

    /// The guest writes to a disk.
    pub async fn write(&self, vdi: &str, write: Write) -> Result<Written, ControlError> {
        self.ask("disk/write", &DiskWrite { vdi: vdi.to_owned(), write }).await
    }

    /// SHA-256 of the disk's present content.
    pub async fn digest(&self, vdi: &str) -> Result<Digest, ControlError> {
        self.ask("disk/digest", &Subject { id: vdi.to_owned() }).await
    }

    /// Copies the disk's present content to a sparse raw file.
    pub async fn copy_disk(&self, vdi: &str, path: &std::path::Path) -> Result<Digest, ControlError> {
        self.ask("disk/copy", &DiskCopy { vdi: vdi.to_owned(), path: path.to_string_lossy().into_owned() }).await
    }

    /// Changes the size of a disk that has no snapshot's data behind it; unlike the toolstack's call also to a smaller
    /// one.
    pub async fn resize_disk(&self, vdi: &str, size: u64) -> Result<(), ControlError> {
        self.ask("disk/resize", &DiskResize { vdi: vdi.to_owned(), size }).await
    }

    /// A host crash left the disk's change log inconsistent: tracking is silently off.
    pub async fn break_cbt(&self, vdi: &str) -> Result<(), ControlError> {
        self.ask("disk/break-cbt", &Subject { id: vdi.to_owned() }).await
    }

    /// What was counted.
    pub async fn counters(&self) -> Result<Counters, ControlError> {
        self.ask("counters", &()).await
    }

    /// Sets all counters to zero.
    pub async fn reset_counters(&self) -> Result<(), ControlError> {
        self.ask("counters/reset", &()).await
    }

    /// Number of records by class.
    pub async fn object_counts(&self) -> Result<BTreeMap<String, u64>, ControlError> {
        self.ask("objects", &()).await
    }

    /// All records of a class, by reference, as JSON-RPC shows them.
    pub async fn records(&self, class: &str) -> Result<BTreeMap<String, serde_json::Value>, ControlError> {
        self.ask("records", &RecordsOf { class: class.to_owned() }).await
    }

    /// Switches a fault on.
    pub async fn fault(&self, fault: Fault) -> Result<FaultId, ControlError> {
        self.ask("fault/set", &fault).await
    }

    /// Switches a fault off; what hangs in it goes on.
    pub async fn clear_fault(&self, id: FaultId) -> Result<(), ControlError> {
        self.ask("fault/clear", &id).await
    }

    /// Switches all faults off.
    pub async fn clear_faults(&self) -> Result<(), ControlError> {
        self.clear_fault(FaultId { id: 0 }).await
    }

    /// The faults that are on, with what they hit.
    pub async fn faults(&self) -> Result<Vec<ActiveFault>, ControlError> {
        self.ask("fault/list", &()).await
    }

    /// The host's listeners close, its connections are reset, its tasks fail; VMs on it halt.
    pub async fn stop_host(&self, host: usize) -> Result<(), ControlError> {
        self.ask("host/stop", &HostNumber { host }).await
    }

    /// Opens the listeners of a stopped host again.
    pub async fn start_host(&self, host: usize) -> Result<(), ControlError> {
        self.ask("host/start", &HostNumber { host }).await
    }

    /// The toolstack restarts: connections are reset, sessions and tasks are gone, dom0 VBDs leak; VMs go on.
    pub async fn restart_toolstack(&self, host: usize) -> Result<(), ControlError> {
        self.ask("host/toolstack-restart", &HostNumber { host }).await
    }

    /// Installs a new self-signed certificate.
    pub async fn renew_certificate(&self, host: usize) -> Result<HostInfo, ControlError> {
        self.ask("host/certificate", &HostNumber { host }).await
    }

    /// Makes another host the coordinator.
    pub async fn designate_coordinator(&self, host: usize) -> Result<(), ControlError> {
        self.ask("pool/coordinator", &HostNumber { host }).await
    }

    /// All sessions are gone, as after a long time without use.
    pub async fn expire_sessions(&self) -> Result<(), ControlError> {
        self.ask("sessions/expire", &()).await
    }

    /// Closes all NBD connections of a host.
    pub async fn drop_nbd(&self, host: usize) -> Result<(), ControlError> {
        self.ask("nbd/drop", &HostNumber { host }).await
    }

    async fn ask<Q: Serialize + ?Sized, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A, ControlError> {
        let garbled = |detail: String| ControlError::Garbled { path: path.to_owned(), detail };
        let body = serde_json::to_vec(request).map_err(|e| garbled(e.to_string()))?;
        let answer = match timeout(PATIENCE, self.exchange(path, &body)).await {
            Err(_) => return Err(ControlError::TimedOut { address: self.address.clone(), path: path.to_owned() }),
            Ok(Err(source)) => return Err(ControlError::Unreachable { address: self.address.clone(), source }),
            Ok(Ok(answer)) => answer,
        };
        let head_end = answer
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .ok_or_else(|| garbled("the connection closed before an answer".to_owned()))?;
        let (head, body) = (String::from_utf8_lossy(&answer[..head_end]), &answer[head_end + 4..]);
        if head.split_whitespace().nth(1) == Some("200") {
            return serde_json::from_slice(body).map_err(|e| garbled(e.to_string()));
        }
        Err(ControlError::Refused { path: path.to_owned(), message: String::from_utf8_lossy(body).trim().to_owned() })
    }

    async fn exchange(&self, path: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let head = format!(
            "POST /v1/{path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    }
}
