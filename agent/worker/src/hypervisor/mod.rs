//! What the steps of a task need of a pool: a small trait over the client of XAPI, so that every step can be made to
//! fail or be lost in a test.

mod export;
mod import;
mod machine;
mod patience;
mod xapi;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use async_trait::async_trait;
use coffer_disk::nbd::ReadPlan;
use coffer_extent::{ExtentError, ExtentSink, ExtentSource, RangeSet};
use coffer_xapi::records::{
    Full, Network, NetworkRecord, Sr, SrRecord, Task, Vbd, VbdRecord, Vdi, VdiRecord, Vif, Vm, VmRecord, Vtpm,
};
use coffer_xapi::{Error, NewVbd, NewVdi, NewVif, Ref};
use futures::StreamExt;
use futures::future::BoxFuture;
use secrecy::SecretString;
use serde_json::{Map, Value};
use uuid::Uuid;

pub(crate) use patience::{nothing_pending, snapshot_not_pending};
pub(crate) use xapi::XapiPool;

/// Free text of clients on an object of a pool.
pub(crate) type OtherConfig = BTreeMap<String, String>;

/// Objects of a pool that are worked on at once.
const AT_ONCE: usize = 4;

/// Carries out several pieces of work, so that waiting for busy objects does not add up; all of them, whatever fails.
pub(crate) async fn at_once<T>(work: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    futures::stream::iter(work).buffered(AT_ONCE).collect().await
}

/// A VM with everything that hangs on it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) vm: Full<Vm>,
    /// Its disks by position.
    pub(crate) disks: Vec<MachineDisk>,
    /// Its CD drives.
    pub(crate) drives: Vec<Full<Vbd>>,
    /// Its network interfaces, each with its network where that is known.
    pub(crate) interfaces: Vec<(Full<Vif>, Option<NetworkRecord>)>,
    /// Its TPMs, each with its contents where we may read them.
    pub(crate) tpms: Vec<(Full<Vtpm>, Option<SecretString>)>,
}

/// A disk of a VM.
#[derive(Debug)]
pub(crate) struct MachineDisk {
    pub(crate) vbd: Full<Vbd>,
    pub(crate) vdi: Full<Vdi>,
}

/// A storage repository.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub(crate) reference: Ref<Sr>,
    pub(crate) record: SrRecord,
    /// Its driver tracks changed blocks.
    pub(crate) tracks_changes: bool,
}

/// The chain of a disk on its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Nodes, the disk itself included.
    pub(crate) depth: usize,
    /// Nodes that wait to be merged.
    pub(crate) uncoalesced: usize,
}

/// A way to read a disk.
#[derive(Debug, Clone)]
pub(crate) enum Reading {
    /// Over NBD, what the plan says.
    Nbd(ReadPlan),
    /// As a VHD stream: what differs from `base`, or all that is allocated.
    Vhd {
        /// The snapshot that it is a delta against.
        base: Option<Ref<Vdi>>,
    },
}

/// All snapshots of a pool that carry a stamp or a name of ours, of any site.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    pub(crate) vms: Vec<(Ref<Vm>, VmRecord)>,
    pub(crate) vdis: Vec<(Ref<Vdi>, VdiRecord)>,
}

/// VMs and disks that carry a stamp of ours and are no snapshots.
#[derive(Debug, Default)]
pub(crate) struct Creations {
    pub(crate) vms: Vec<(Ref<Vm>, VmRecord)>,
    pub(crate) vdis: Vec<(Ref<Vdi>, VdiRecord)>,
}

/// A pool. Methods that destroy succeed when the object is gone already, and wait for one that is in use for seconds
/// after a transfer.
#[async_trait]
pub(crate) trait Hypervisor: Send + Sync + fmt::Debug {
    /// The pool's identity.
    async fn pool_uuid(&self) -> Result<Uuid, Error>;
    /// The VM of this identity; `None` when there is none.
    async fn find_vm(&self, uuid: Uuid) -> Result<Option<Ref<Vm>>, Error>;
    /// A VM with its parts; `None` when there is none of that identity.
    async fn machine(&self, uuid: Uuid) -> Result<Option<Machine>, Error>;
    /// The record of a VM; `None` when it is gone.
    async fn vm(&self, vm: &Ref<Vm>) -> Result<Option<VmRecord>, Error>;
    /// The disks of a VM or of a snapshot of one, by position.
    async fn disks(&self, vm: &Ref<Vm>) -> Result<Vec<(VbdRecord, Ref<Vdi>, VdiRecord)>, Error>;
    /// The disk of this identity.
    async fn disk(&self, uuid: Uuid) -> Result<Option<(Ref<Vdi>, VdiRecord)>, Error>;
    /// The record of a disk; `None` when it is gone.
    async fn disk_record(&self, vdi: &Ref<Vdi>) -> Result<Option<VdiRecord>, Error>;
    /// The storage repository of this identity.
    async fn storage(&self, uuid: Uuid) -> Result<Option<Storage>, Error>;
    /// The storage repository that a disk is on.
    async fn storage_of(&self, sr: &Ref<Sr>) -> Result<Storage, Error>;
    /// The chain of a disk; depth 0 where its storage has no chains.
    async fn chain(&self, sr: &Ref<Sr>, disk: Uuid) -> Result<Chain, Error>;
    /// All networks.
    async fn networks(&self) -> Result<Vec<(Ref<Network>, NetworkRecord)>, Error>;
    /// Snapshots that are, or may be, ours.
    async fn snapshots(&self) -> Result<Snapshots, Error>;
    /// What restores of ours created: VMs of the pool, disks of one storage repository.
    async fn creations(&self, sr: Option<&Ref<Sr>>) -> Result<Creations, Error>;

    /// Whether a disk is offered over NBD.
    async fn offers_nbd(&self, vdi: &Ref<Vdi>) -> Result<bool, Error>;
    /// The bitmap of changed blocks between two snapshots.
    async fn changed_blocks(&self, from: &Ref<Vdi>, to: &Ref<Vdi>) -> Result<Vec<u8>, Error>;
    /// Which parts of a snapshot hold data, where its storage can tell.
    async fn allocated(&self, vdi: &Ref<Vdi>) -> Result<RangeSet, ExtentError>;
    /// Opens a snapshot for reading. The end of the source is reached only when the pool says that the export went
    /// well.
    async fn read(&self, vdi: &Ref<Vdi>, label: &str, reading: Reading) -> Result<Box<dyn ExtentSource>, ExtentError>;
    /// Opens a new, empty disk for writing; `content` is all that is not zero. Finishing the sink means that the pool
    /// says that the import went well.
    async fn write(
        &self,
        vdi: &Ref<Vdi>,
        label: &str,
        size: u64,
        content: &RangeSet,
    ) -> Result<Box<dyn ExtentSink>, ExtentError>;

    /// Tracks changed blocks of a disk from now on.
    async fn enable_tracking(&self, vdi: &Ref<Vdi>) -> Result<(), Error>;
    /// Takes a snapshot of a VM without the disks in `ignore`.
    async fn snapshot(&self, vm: &Ref<Vm>, name: &str, ignore: &[Ref<Vdi>]) -> Result<Ref<Vm>, Error>;
    /// Sets keys of `other_config` of a VM.
    async fn mark_vm(&self, vm: &Ref<Vm>, marks: &OtherConfig) -> Result<(), Error>;
    /// Removes keys of `other_config` of a VM.
    async fn unmark_vm(&self, vm: &Ref<Vm>, keys: &[&str]) -> Result<(), Error>;
    /// Sets keys of `other_config` of a disk.
    async fn mark_disk(&self, vdi: &Ref<Vdi>, marks: &OtherConfig) -> Result<(), Error>;
    /// Removes keys of `other_config` of a disk.
    async fn unmark_disk(&self, vdi: &Ref<Vdi>, keys: &[&str]) -> Result<(), Error>;
    /// Destroys a VM or a snapshot, not its disks.
    async fn destroy_vm(&self, vm: &Ref<Vm>) -> Result<(), Error>;
    /// Destroys a disk.
    async fn destroy_disk(&self, vdi: &Ref<Vdi>) -> Result<(), Error>;
    /// Deletes the data of a snapshot, keeps its bitmap.
    async fn drop_data(&self, vdi: &Ref<Vdi>) -> Result<(), Error>;

    /// The operations of a kind (`VM.snapshot`) that are under way, whoever began them.
    async fn under_way(&self, method: &str) -> Result<BTreeSet<Ref<Task>>, Error>;

    /// Makes a VM without devices.
    async fn create_vm(&self, record: &Map<String, Value>) -> Result<Ref<Vm>, Error>;
    /// Makes a disk.
    async fn create_disk(&self, disk: &NewVdi) -> Result<Ref<Vdi>, Error>;
    /// Attaches a disk or a drive.
    async fn attach(&self, vbd: &NewVbd) -> Result<(), Error>;
    /// Attaches a network interface.
    async fn connect(&self, vif: &NewVif) -> Result<(), Error>;
    /// Gives a VM a TPM with these contents.
    async fn create_tpm(&self, vm: &Ref<Vm>, is_unique: bool, contents: Option<&SecretString>) -> Result<(), Error>;
    /// Sets the strings that the firmware shows.
    async fn set_bios_strings(&self, vm: &Ref<Vm>, strings: &BTreeMap<String, String>) -> Result<(), Error>;
    /// Sets one field of a VM.
    async fn set_vm(&self, vm: &Ref<Vm>, field: &str, value: Value) -> Result<(), Error>;
    /// Blocks an operation on a VM.
    async fn block(&self, vm: &Ref<Vm>, operation: &str, reason: &str) -> Result<(), Error>;
    /// Blocks it no more.
    async fn unblock(&self, vm: &Ref<Vm>, operation: &str) -> Result<(), Error>;
    /// Switches a VM on.
    async fn start(&self, vm: &Ref<Vm>) -> Result<(), Error>;
}
