//! The control interface's messages: what a test may ask of the simulated pool besides XAPI.
//!
//! Every request is `POST /v1/<name>` with one of these as JSON; see the crate's README for the table. Owns shapes
//! only, never behaviour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One simulated host as clients see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostInfo {
    /// `name_label`.
    pub name: String,
    /// `uuid` of the record.
    pub uuid: String,
    /// Opaque reference.
    pub reference: String,
    /// Address of XAPI and NBD, `127.0.0.N`.
    pub address: String,
    /// HTTPS port, the same on every host of the pool.
    pub port: u16,
    /// NBD port (given to clients by `VDI.get_nbd_info`).
    pub nbd_port: u16,
    /// SHA-256 of the certificate, upper-case hex pairs separated by colons.
    pub fingerprint: String,
    /// The certificate itself.
    pub certificate_pem: String,
    /// Whether this host is the pool's coordinator.
    pub coordinator: bool,
    /// Whether its listeners are open.
    pub up: bool,
}

/// What `simpool serve` prints when ready, and `GET /v1/pool` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolInfo {
    /// `https://<coordinator>:<port>`.
    pub url: String,
    /// The pool's `uuid`.
    pub uuid: String,
    /// User for `session.login_with_password`.
    pub user: String,
    /// Password of that user: made up for the simulation, hence no secret.
    pub password: String,
    /// The coordinator's fingerprint.
    pub fingerprint: String,
    /// `http://127.0.0.1:<port>` of this control interface.
    pub control: String,
    /// Every host, the first one made is number 0.
    pub hosts: Vec<HostInfo>,
}

/// Kind of storage repository, which decides thin or thick, local or shared, and its features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SrKind {
    /// Thin VHD files on a local disk.
    #[default]
    Ext,
    /// Thick VHD in logical volumes on a local disk.
    Lvm,
    /// Thin VHD files, shared.
    Nfs,
    /// Thin VHD files, shared.
    Smb,
    /// Thick VHD in logical volumes, shared.
    LvmoIscsi,
    /// Thin, shared, without changed block tracking.
    Linstor,
    /// CD images, never backed up.
    Iso,
}

/// Makes a storage repository.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SrSpec {
    /// `name_label`.
    pub name: String,
    /// Its type.
    #[serde(default)]
    pub kind: SrKind,
    /// `physical_size` in bytes; 0 means one tebibyte.
    #[serde(default)]
    pub size: u64,
    /// The host (by number) that a local SR belongs to; shared ones are plugged everywhere.
    #[serde(default)]
    pub host: usize,
}

/// What a new disk contains.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// Nothing: all zeros, nothing allocated.
    #[default]
    Empty,
    /// The bytes of a raw file; its holes stay holes.
    File {
        /// Path on the machine that runs the pool.
        path: String,
    },
    /// Reproducible pseudo-random bytes in `percent` of the 2 MiB blocks, spread over the disk.
    Seeded {
        /// Same seed, same bytes.
        seed: u64,
        /// 0 to 100.
        percent: f64,
    },
}

/// One disk of a VM to be made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// `name_label`.
    #[serde(default)]
    pub name: String,
    /// Name or UUID of the SR; empty means the pool's default.
    #[serde(default)]
    pub sr: String,
    /// Bytes, rounded up to 2 MiB; may be 0 when the content comes from a file.
    #[serde(default)]
    pub size: u64,
    /// What it holds.
    #[serde(default)]
    pub content: Content,
    /// `userdevice`; empty means the next free one.
    #[serde(default)]
    pub device: String,
}

/// Makes a VM with its disks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// `name_label`.
    pub name: String,
    /// `name_description`.
    #[serde(default)]
    pub description: String,
    /// `tags`.
    #[serde(default)]
    pub tags: Vec<String>,
    /// `other_config` (a `mac_seed` is added).
    #[serde(default)]
    pub other_config: BTreeMap<String, String>,
    /// Whether it is running when the call answers.
    #[serde(default)]
    pub running: bool,
    /// Host (by number) it runs on.
    #[serde(default)]
    pub host: usize,
    /// Memory in bytes; 0 means 1 GiB.
    #[serde(default)]
    pub memory: u64,
    /// Virtual CPUs; 0 means 1.
    #[serde(default)]
    pub vcpus: u32,
    /// Disks in order.
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    /// Number of network interfaces on the pool's first network.
    #[serde(default)]
    pub vifs: u32,
    /// UEFI firmware with secure boot variables.
    #[serde(default)]
    pub uefi: bool,
    /// Give it a virtual TPM (profile 8.3).
    #[serde(default)]
    pub vtpm: bool,
    /// How its guest behaves at boot.
    #[serde(default)]
    pub guest: GuestBehaviour,
}

/// What a guest does when it is started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuestBehaviour {
    /// Whether its drivers ever report (`PV_drivers_detected`).
    pub reports: bool,
    /// Whether the guest tools' daemon runs (versions, addresses).
    pub agent: bool,
    /// Whether it crashes instead of coming up.
    pub crashes: bool,
    /// Whether it refuses a clean shutdown.
    pub ignores_shutdown: bool,
    /// Keys below `vm-data/` that the guest writes when it is up.
    pub xenstore: BTreeMap<String, String>,
}

impl Default for GuestBehaviour {
    fn default() -> Self {
        Self { reports: true, agent: true, crashes: false, ignores_shutdown: false, xenstore: BTreeMap::new() }
    }
}

/// An object by its two names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectId {
    /// `uuid`.
    pub uuid: String,
    /// Opaque reference.
    pub reference: String,
}

/// A VM's disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskInfo {
    /// The VDI.
    #[serde(flatten)]
    pub vdi: ObjectId,
    /// `userdevice` of its VBD.
    pub device: String,
    /// `virtual_size` in bytes.
    pub size: u64,
}

/// A VM that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmInfo {
    /// The VM.
    #[serde(flatten)]
    pub vm: ObjectId,
    /// Its disks in order.
    pub disks: Vec<DiskInfo>,
}

/// Names one object by UUID or reference (a VM or SR also by a unique name).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// UUID, reference or name.
    pub id: String,
}

/// Adds a disk to a VM (hot when it runs).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddDisk {
    /// The VM.
    pub vm: String,
    /// The disk.
    pub disk: DiskSpec,
}

/// Sets how a VM's guest behaves from its next boot on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetGuest {
    /// The VM.
    pub vm: String,
    /// The behaviour.
    pub guest: GuestBehaviour,
}

/// A guest writes a key of its xenstore.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestXenstore {
    /// The VM, which must be running.
    pub vm: String,
    /// Key, below `vm-data/`.
    pub key: String,
    /// Value.
    pub value: String,
}

/// What a guest writes to a disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "write", rename_all = "snake_case", deny_unknown_fields)]
pub enum Write {
    /// These bytes at this offset.
    Bytes {
        /// Byte offset.
        offset: u64,
        /// Standard base64.
        base64: String,
    },
    /// Reproducible pseudo-random bytes.
    Random {
        /// Byte offset.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Same seed and offset, same bytes.
        seed: u64,
    },
    /// Zeros, explicitly written.
    Zeros {
        /// Byte offset.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Pseudo-random bytes over a share of the disk's 1 MiB chunks, chosen by the seed.
    Percent {
        /// 0 to 100; at least one chunk.
        percent: f64,
        /// Chooses chunks and bytes.
        seed: u64,
    },
}

/// Lets the guest write to a disk, attached or not.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskWrite {
    /// The VDI.
    pub vdi: String,
    /// What to write.
    pub write: Write,
}

/// Where a guest wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// `(offset, length)` in bytes, ascending.
    pub ranges: Vec<(u64, u64)>,
}

impl Written {
    /// Sum of the lengths.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(_, length)| length).sum()
    }
}

/// Changes the size of a disk behind the toolstack's back, as an administrator on the host does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskResize {
    /// The VDI.
    pub vdi: String,
    /// Its new size in bytes, rounded up to 2 MiB; what lies behind it is lost.
    pub size: u64,
}

/// Copies a disk's present content to a raw file (sparse).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskCopy {
    /// The VDI.
    pub vdi: String,
    /// The file to write.
    pub path: String,
}

/// A disk's present content, summed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Hex SHA-256 over the whole virtual size.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// What happened since the start or the last reset.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Calls by method, without `Async.`, failed ones included.
    pub calls: BTreeMap<String, u64>,
    /// Answered failures by error code.
    pub failures: BTreeMap<String, u64>,
    /// Bytes sent by `/export_raw_vdi`, by VDI UUID and format (`<uuid>/vhd`).
    pub vdi_exported: BTreeMap<String, u64>,
    /// Bytes received by `/import_raw_vdi`, by VDI UUID and format.
    pub vdi_imported: BTreeMap<String, u64>,
    /// Bytes sent by `/export`, by VM UUID.
    pub vm_exported: BTreeMap<String, u64>,
    /// Bytes received by `/import`, in all.
    pub vm_imported: u64,
    /// Bytes read over NBD, by VDI UUID.
    pub nbd_read: BTreeMap<String, u64>,
    /// NBD connections served, by VDI UUID.
    pub nbd_connections: BTreeMap<String, u64>,
    /// Most transfers (HTTP and NBD disks) open at one instant, by UUID of the VM or snapshot's VM.
    pub open_streams_max: BTreeMap<String, u64>,
    /// Most transfers open at one instant in the whole pool.
    pub open_streams_total_max: u64,
    /// Most `VM.snapshot` calls at work at one instant.
    pub snapshots_max: u64,
    /// Most NBD connections open at one instant, by host number.
    pub nbd_connections_max: BTreeMap<String, u64>,
}

/// Something that goes wrong. `nth` counts matching events from 1 (0 is taken as 1); `times` is how many of them are
/// hit (0: all from the nth on).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The call answers this error and does nothing.
    CallError {
        /// `VM.snapshot`; `*` is any.
        method: String,
        /// XAPI's code.
        code: String,
        /// Its parameters.
        #[serde(default)]
        params: Vec<String>,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
    /// The call does its work late; of an `Async.` call, its task does.
    CallDelay {
        /// Method.
        method: String,
        /// Milliseconds, not scaled.
        delay_ms: u64,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
    /// The call does nothing until the fault is cleared, then its work.
    CallHang {
        /// Method.
        method: String,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
    /// The call does its work, but the connection closes without an answer.
    CallUnanswered {
        /// Method.
        method: String,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
    /// A transfer's bytes pass at this rate.
    SlowStream {
        /// `/export_raw_vdi`, `/import`, `nbd`…; `*` is any.
        path: String,
        /// UUID of the VDI or VM; empty is any.
        #[serde(default)]
        subject: String,
        /// Bytes per second.
        bytes_per_second: u64,
    },
    /// A transfer's connection closes after so many bytes of body. Of NBD, counted in data read: the host drops all
    /// its NBD connections.
    CutStream {
        /// Path or `nbd`.
        path: String,
        /// UUID of the VDI or VM; empty is any.
        #[serde(default)]
        subject: String,
        /// Bytes let through.
        after_bytes: u64,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
    /// One bit of an export's body is flipped.
    CorruptStream {
        /// Path or `nbd`.
        path: String,
        /// UUID of the VDI or VM; empty is any.
        #[serde(default)]
        subject: String,
        /// Offset in the body (of NBD: in the stream of replies).
        at_byte: u64,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
    /// A transfer stalls after so many bytes until the fault is cleared.
    StallStream {
        /// Path or `nbd`.
        path: String,
        /// UUID of the VDI or VM; empty is any.
        #[serde(default)]
        subject: String,
        /// Bytes let through.
        after_bytes: u64,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
    /// A transfer moves all its bytes, answers `200`, and its task fails.
    TaskFails {
        /// Path.
        path: String,
        /// UUID of the VDI or VM; empty is any.
        #[serde(default)]
        subject: String,
        /// XAPI's code.
        code: String,
        /// Its parameters.
        #[serde(default)]
        params: Vec<String>,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
    /// An export breaks in the middle and the text of an HTTP 500 stands in its body; the task fails.
    ErrorInBody {
        /// Path.
        path: String,
        /// UUID of the VDI or VM; empty is any.
        #[serde(default)]
        subject: String,
        /// Bytes before it.
        after_bytes: u64,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
    /// A transfer is refused with this status before any work.
    TransferRefused {
        /// Path.
        path: String,
        /// HTTP status.
        status: u16,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
    /// Events of a class are never delivered (the record is right when read).
    LoseEvents {
        /// Lower-case class, `task`.
        class: String,
        /// `add`, `mod`, `del`; empty is any.
        #[serde(default)]
        operation: String,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
    /// Everything that needs room on the SR fails with `SR_BACKEND_FAILURE_44`.
    SrFull {
        /// SR's UUID or name.
        sr: String,
    },
    /// Attaching for NBD fails: silent disconnect after `EXPORT_NAME`.
    NbdRefused {
        /// VDI's UUID; empty is any.
        #[serde(default)]
        subject: String,
        /// First hit.
        #[serde(default)]
        nth: u64,
        /// Hits.
        #[serde(default)]
        times: u64,
    },
}

/// A fault that is switched on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActiveFault {
    /// For `fault/clear`.
    pub id: u64,
    /// What it does.
    #[serde(flatten)]
    pub fault: Fault,
    /// Events that matched so far.
    pub seen: u64,
    /// Of those, how many were hit.
    pub hits: u64,
}

/// Names a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultId {
    /// From `fault/set`; 0 means all.
    pub id: u64,
}

/// Names a host by number.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostNumber {
    /// 0 is the first.
    pub host: usize,
}

/// Reads all records of a class.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordsOf {
    /// `VM`, `VDI`, …
    pub class: String,
}

/// One node of an SR's tree of disks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SrNode {
    /// UUID of the VDI.
    pub uuid: String,
    /// Its parent's.
    pub parent: Option<String>,
    /// A base copy.
    pub hidden: bool,
    /// Virtual bytes.
    pub size: u64,
    /// Bytes it takes.
    pub physical: u64,
    /// Whether changes are tracked.
    pub cbt: bool,
}

/// An SR's tree and fill.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SrInfo {
    /// Every node.
    pub nodes: Vec<SrNode>,
    /// Bytes in use.
    pub used: u64,
    /// Bytes in all.
    pub size: u64,
}
