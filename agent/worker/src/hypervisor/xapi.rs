//! The pool itself, over its client. Everything that changes a pool waits for authority first.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use coffer_disk::vhd::{MAX_SIZE, VhdKind, VhdPlan};
use coffer_extent::{BufferPool, ExtentError, ExtentSink, ExtentSource, RangeSet};
use coffer_runtime::CancellationToken;
use coffer_xapi::chains::Chains;
use coffer_xapi::records::{Network, NetworkRecord, Sr, SrRecord, Task, VbdRecord, Vdi, VdiRecord, Vm, VmRecord};
use coffer_xapi::{
    BUSY, Client, DiskFormat, Error, NewVbd, NewVdi, NewVif, PowerOn, Ref, Repeat, VdiExport, VdiImport, when_free,
};
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::sync::{OnceCell, Semaphore};
use uuid::Uuid;

use super::export::{CONNECTIONS, allocated, open_nbd, open_vhd, pool_error};
use super::import::{RawImportSink, VhdImportSink};
use super::machine::{disks, if_there, machine};
use super::{Chain, Creations, Hypervisor, Machine, OtherConfig, Reading, Snapshots, Storage};
use crate::authority::Authority;
use crate::stamps;

/// Of the 16 NBD connections that a host serves, those that this agent takes at once in a pool; a multiple of what one
/// disk takes. The rest is left to others.
const NBD_CONNECTIONS: u32 = 4 * CONNECTIONS;
/// The feature of a storage driver that tracks changed blocks.
const TRACKING: &str = "VDI_CONFIG_CBT";

/// A pool that is logged in to.
#[derive(Debug)]
pub(crate) struct XapiPool {
    client: Client,
    authority: Authority,
    buffers: BufferPool,
    nbd_slots: Arc<Semaphore>,
    /// Types of storage repositories that track changed blocks.
    tracking: OnceCell<HashSet<String>>,
}

impl XapiPool {
    pub(crate) fn new(client: Client, authority: Authority, buffers: BufferPool) -> Self {
        let slots = usize::try_from(NBD_CONNECTIONS).expect("a few");
        Self { client, authority, buffers, nbd_slots: Arc::new(Semaphore::new(slots)), tracking: OnceCell::new() }
    }

    /// The client, once changes are allowed.
    async fn change(&self) -> &Client {
        self.authority.full().await;
        &self.client
    }

    async fn tracking_types(&self) -> Result<&HashSet<String>, Error> {
        self.tracking
            .get_or_try_init(|| async {
                let drivers: Map<String, Value> =
                    self.client.call_as("SM.get_all_records", Vec::new(), Repeat::Safe).await?;
                let tracks = |driver: &&Value| driver.get("features").and_then(|all| all.get(TRACKING)).is_some();
                let kind = |driver: &Value| Some(driver.get("type")?.as_str()?.to_owned());
                Ok(drivers.values().filter(tracks).filter_map(kind).collect())
            })
            .await
    }

    async fn storage_from(&self, reference: Ref<Sr>, record: SrRecord) -> Result<Storage, Error> {
        let tracks_changes = self.tracking_types().await?.contains(&record.kind);
        Ok(Storage { reference, record, tracks_changes })
    }

    async fn export(&self, vdi: &Ref<Vdi>, base: Option<Ref<Vdi>>, label: &str) -> Result<VdiExport, Error> {
        Ok(VdiExport {
            vdi: vdi.clone(),
            sr: self.sr_of(vdi).await?,
            format: DiskFormat::Vhd,
            base,
            label: format!("Coffer: read {label}"),
        })
    }

    async fn sr_of(&self, vdi: &Ref<Vdi>) -> Result<Ref<Sr>, Error> {
        self.client.field(vdi, "SR").await
    }

    async fn in_sr(&self, sr: &Ref<Sr>) -> Result<Vec<(Ref<Vdi>, VdiRecord)>, Error> {
        self.client.records_where::<Vdi>(&format!("field \"SR\" = \"{sr}\"")).await
    }
}

#[async_trait]
impl Hypervisor for XapiPool {
    async fn pool_uuid(&self) -> Result<Uuid, Error> {
        Ok(self.client.pool().await?.1.uuid)
    }

    async fn find_vm(&self, uuid: Uuid) -> Result<Option<Ref<Vm>>, Error> {
        self.client.by_uuid(uuid).await
    }

    async fn machine(&self, uuid: Uuid) -> Result<Option<Machine>, Error> {
        machine(&self.client, uuid).await
    }

    async fn vm(&self, vm: &Ref<Vm>) -> Result<Option<VmRecord>, Error> {
        Ok(if_there(&self.client, vm).await?.map(|vm| vm.fields))
    }

    async fn disks(&self, vm: &Ref<Vm>) -> Result<Vec<(VbdRecord, Ref<Vdi>, VdiRecord)>, Error> {
        disks(&self.client, vm).await
    }

    async fn disk(&self, uuid: Uuid) -> Result<Option<(Ref<Vdi>, VdiRecord)>, Error> {
        let Some(reference) = self.client.by_uuid::<Vdi>(uuid).await? else { return Ok(None) };
        Ok(if_there(&self.client, &reference).await?.map(|disk| (reference, disk.fields)))
    }

    async fn disk_record(&self, vdi: &Ref<Vdi>) -> Result<Option<VdiRecord>, Error> {
        Ok(if_there(&self.client, vdi).await?.map(|disk| disk.fields))
    }

    async fn storage(&self, uuid: Uuid) -> Result<Option<Storage>, Error> {
        let Some(reference) = self.client.by_uuid::<Sr>(uuid).await? else { return Ok(None) };
        self.storage_of(&reference).await.map(Some)
    }

    async fn storage_of(&self, sr: &Ref<Sr>) -> Result<Storage, Error> {
        let record = self.client.record(sr).await?.fields;
        self.storage_from(sr.clone(), record).await
    }

    async fn chain(&self, sr: &Ref<Sr>, disk: Uuid) -> Result<Chain, Error> {
        let all = self.in_sr(sr).await?;
        let chains = Chains::of(all.iter().map(|(_, record)| record));
        Ok(Chain { depth: chains.depth(disk), uncoalesced: chains.uncoalesced(disk) })
    }

    async fn networks(&self) -> Result<Vec<(Ref<Network>, NetworkRecord)>, Error> {
        self.client.all_records().await
    }

    async fn snapshots(&self) -> Result<Snapshots, Error> {
        const SNAPSHOTS: &str = "field \"is_a_snapshot\" = \"true\"";
        let mut vms = self.client.records_where::<Vm>(SNAPSHOTS).await?;
        let mut vdis = self.client.records_where::<Vdi>(SNAPSHOTS).await?;
        vms.retain(|(_, vm)| stamps::may_be_ours(&vm.name_label, &vm.other_config));
        vdis.retain(|(_, vdi)| stamps::may_be_ours("", &vdi.other_config));
        Ok(Snapshots { vms, vdis })
    }

    async fn creations(&self, sr: Option<&Ref<Sr>>) -> Result<Creations, Error> {
        let mut vms = self.client.all_records::<Vm>().await?;
        let mut vdis = match sr {
            Some(sr) => self.in_sr(sr).await?,
            None => self.client.all_records::<Vdi>().await?,
        };
        vms.retain(|(_, vm)| !vm.is_a_snapshot && stamps::may_be_ours("", &vm.other_config));
        vdis.retain(|(_, vdi)| !vdi.is_a_snapshot && stamps::may_be_ours("", &vdi.other_config));
        Ok(Creations { vms, vdis })
    }

    async fn offers_nbd(&self, vdi: &Ref<Vdi>) -> Result<bool, Error> {
        Ok(!self.client.vdi_nbd_info(vdi).await?.is_empty())
    }

    async fn changed_blocks(&self, from: &Ref<Vdi>, to: &Ref<Vdi>) -> Result<Vec<u8>, Error> {
        self.client.vdi_list_changed_blocks(from, to).await
    }

    async fn allocated(&self, vdi: &Ref<Vdi>) -> Result<RangeSet, ExtentError> {
        let export = self.export(vdi, None, "allocation").await.map_err(|error| pool_error("allocation", error))?;
        allocated(&self.client, &export).await
    }

    async fn read(&self, vdi: &Ref<Vdi>, label: &str, reading: Reading) -> Result<Box<dyn ExtentSource>, ExtentError> {
        let failed = |error| pool_error(label, error);
        match reading {
            Reading::Nbd(plan) => {
                let exports = self.client.vdi_nbd_info(vdi).await.map_err(failed)?;
                open_nbd(exports, plan, &self.nbd_slots, self.buffers.clone()).await
            }
            Reading::Vhd { base } => {
                let export = self.export(vdi, base, label).await.map_err(failed)?;
                open_vhd(&self.client, &export, self.buffers.clone()).await
            }
        }
    }

    async fn write(
        &self,
        vdi: &Ref<Vdi>,
        label: &str,
        size: u64,
        content: &RangeSet,
    ) -> Result<Box<dyn ExtentSink>, ExtentError> {
        let failed = |error| pool_error(label, error);
        let plan = if size <= MAX_SIZE {
            let plan = VhdPlan::from_ranges(size, content, VhdKind::Dynamic);
            Some(plan.map_err(|error| ExtentError::new(label, false, error))?)
        } else {
            None
        };
        let import = VdiImport {
            vdi: vdi.clone(),
            sr: self.sr_of(vdi).await.map_err(failed)?,
            format: if plan.is_some() { DiskFormat::Vhd } else { DiskFormat::Raw },
            length: plan.as_ref().map_or(size, VhdPlan::content_length),
            label: format!("Coffer: write {label}"),
        };
        let upload = self.change().await.import_vdi(&import).await.map_err(failed)?;
        Ok(match plan {
            Some(plan) => Box::new(VhdImportSink::new(upload, plan, label)),
            None => Box::new(RawImportSink::new(upload, label)),
        })
    }

    async fn enable_tracking(&self, vdi: &Ref<Vdi>) -> Result<(), Error> {
        self.change().await.vdi_enable_cbt(vdi).await
    }

    async fn snapshot(&self, vm: &Ref<Vm>, name: &str, ignore: &[Ref<Vdi>]) -> Result<Ref<Vm>, Error> {
        self.change().await.vm_snapshot(vm, name, ignore).await
    }

    async fn mark_vm(&self, vm: &Ref<Vm>, marks: &OtherConfig) -> Result<(), Error> {
        for (key, value) in marks {
            self.change().await.set_other_config(vm, key, value).await?;
        }
        Ok(())
    }

    async fn unmark_vm(&self, vm: &Ref<Vm>, keys: &[&str]) -> Result<(), Error> {
        for key in keys {
            self.change().await.remove_other_config(vm, key).await?;
        }
        Ok(())
    }

    async fn mark_disk(&self, vdi: &Ref<Vdi>, marks: &OtherConfig) -> Result<(), Error> {
        for (key, value) in marks {
            self.change().await.set_other_config(vdi, key, value).await?;
        }
        Ok(())
    }

    async fn unmark_disk(&self, vdi: &Ref<Vdi>, keys: &[&str]) -> Result<(), Error> {
        for key in keys {
            self.change().await.remove_other_config(vdi, key).await?;
        }
        Ok(())
    }

    async fn destroy_vm(&self, vm: &Ref<Vm>) -> Result<(), Error> {
        // Each attempt asks for authority anew: waiting may take longer than that lasts.
        when_free("removing a VM", BUSY, &CancellationToken::new(), || async {
            self.change().await.vm_destroy(vm).await
        })
        .await
    }

    async fn destroy_disk(&self, vdi: &Ref<Vdi>) -> Result<(), Error> {
        let destroy = || async { self.change().await.vdi_destroy(vdi).await };
        self.client.when_disk_is_free("removing a disk", vdi, BUSY, &CancellationToken::new(), destroy).await
    }

    async fn drop_data(&self, vdi: &Ref<Vdi>) -> Result<(), Error> {
        let drop = || async { self.change().await.vdi_data_destroy(vdi).await };
        let what = "dropping the data of a snapshot";
        self.client.when_disk_is_free(what, vdi, BUSY, &CancellationToken::new(), drop).await
    }

    async fn under_way(&self, method: &str) -> Result<BTreeSet<Ref<Task>>, Error> {
        self.client.operations_under_way(method).await
    }

    async fn create_vm(&self, record: &Map<String, Value>) -> Result<Ref<Vm>, Error> {
        self.change().await.vm_create(record).await
    }

    async fn create_disk(&self, disk: &NewVdi) -> Result<Ref<Vdi>, Error> {
        self.change().await.vdi_create(disk).await
    }

    async fn attach(&self, vbd: &NewVbd) -> Result<(), Error> {
        self.change().await.vbd_create(vbd).await.map(drop)
    }

    async fn connect(&self, vif: &NewVif) -> Result<(), Error> {
        self.change().await.vif_create(vif).await.map(drop)
    }

    async fn create_tpm(&self, vm: &Ref<Vm>, is_unique: bool, contents: Option<&SecretString>) -> Result<(), Error> {
        let client = self.change().await;
        let tpm = client.vtpm_create(vm, is_unique).await?;
        match contents {
            Some(contents) => client.vtpm_set_contents(&tpm, contents).await,
            None => Ok(()),
        }
    }

    async fn set_bios_strings(&self, vm: &Ref<Vm>, strings: &BTreeMap<String, String>) -> Result<(), Error> {
        self.change().await.vm_set_bios_strings(vm, strings).await
    }

    async fn set_vm(&self, vm: &Ref<Vm>, field: &str, value: Value) -> Result<(), Error> {
        self.change().await.set_field(vm, field, value).await
    }

    async fn block(&self, vm: &Ref<Vm>, operation: &str, reason: &str) -> Result<(), Error> {
        self.change().await.vm_block_operation(vm, operation, reason).await
    }

    async fn unblock(&self, vm: &Ref<Vm>, operation: &str) -> Result<(), Error> {
        self.change().await.vm_unblock_operation(vm, operation).await
    }

    async fn start(&self, vm: &Ref<Vm>) -> Result<(), Error> {
        self.change().await.vm_start(vm, PowerOn::default()).await
    }
}
