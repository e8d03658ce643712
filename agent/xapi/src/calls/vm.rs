//! VMs: snapshots, copies, power, metadata.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value, json};

use super::object::gone_is_well;
use crate::records::{Host, Vdi, Vm};
use crate::{Client, Error, Ref};

/// How a VM is switched on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PowerOn {
    /// It stays paused.
    pub paused: bool,
    /// Versions of hosts are not compared.
    pub force: bool,
}

impl Client {
    /// Takes a snapshot of a VM and its disks, without those in `ignore`. Versions that cannot leave disks out take
    /// all, and the unwanted ones are removed again.
    ///
    /// # Errors
    /// As any operation. When removing an unwanted disk fails, the snapshot exists and is left to the caller's
    /// clean-up.
    pub async fn vm_snapshot(&self, vm: &Ref<Vm>, name: &str, ignore: &[Ref<Vdi>]) -> Result<Ref<Vm>, Error> {
        let plain = vec![json!(vm), json!(name)];
        if ignore.is_empty() {
            return self.operation_ref("VM.snapshot", plain).await;
        }
        let selective = vec![json!(vm), json!(name), json!(ignore)];
        match self.operation_ref("VM.snapshot", selective).await {
            Err(error) if error.is("MESSAGE_PARAMETER_COUNT_MISMATCH") => {
                let snapshot = self.operation_ref("VM.snapshot", plain).await?;
                self.remove_snapshots_of(&snapshot, ignore).await?;
                Ok(snapshot)
            }
            outcome => outcome,
        }
    }

    async fn remove_snapshots_of(&self, snapshot: &Ref<Vm>, unwanted: &[Ref<Vdi>]) -> Result<(), Error> {
        let unwanted: HashSet<&Ref<Vdi>> = unwanted.iter().collect();
        for vbd in &self.record::<Vm>(snapshot).await?.vbds {
            let Some(vdi) = self.record(vbd).await?.vdi.clone() else { continue };
            let disk = self.record::<Vdi>(&vdi).await?;
            if disk.is_a_snapshot && disk.snapshot_of.as_ref().is_some_and(|source| unwanted.contains(source)) {
                self.vbd_destroy(vbd).await?;
                self.vdi_destroy(&vdi).await?;
            }
        }
        Ok(())
    }

    /// Takes a snapshot with the VM's memory.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vm_checkpoint(&self, vm: &Ref<Vm>, name: &str) -> Result<Ref<Vm>, Error> {
        self.operation_ref("VM.checkpoint", vec![json!(vm), json!(name)]).await
    }

    /// Clones a halted VM, a snapshot or a template.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vm_clone(&self, vm: &Ref<Vm>, name: &str) -> Result<Ref<Vm>, Error> {
        self.operation_ref("VM.clone", vec![json!(vm), json!(name)]).await
    }

    /// Makes a VM from a record, without disks and networks. `blocked_operations` of it are ignored by XAPI. As a task
    /// it is seen by whoever has to wait for it after a crash.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vm_create(&self, record: &Map<String, Value>) -> Result<Ref<Vm>, Error> {
        self.operation_ref("VM.create", vec![json!(record)]).await
    }

    /// Destroys a VM or a snapshot; its disks stay. That it is gone already is no error.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vm_destroy(&self, vm: &Ref<Vm>) -> Result<(), Error> {
        gone_is_well(self.operation("VM.destroy", vec![json!(vm)]).await.map(drop))
    }

    /// Switches a VM on.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vm_start(&self, vm: &Ref<Vm>, how: PowerOn) -> Result<(), Error> {
        self.operation("VM.start", vec![json!(vm), json!(how.paused), json!(how.force)]).await.map(drop)
    }

    /// Switches a VM on, on this host.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vm_start_on(&self, vm: &Ref<Vm>, host: &Ref<Host>, how: PowerOn) -> Result<(), Error> {
        let params = vec![json!(vm), json!(host), json!(how.paused), json!(how.force)];
        self.operation("VM.start_on", params).await.map(drop)
    }

    /// Resumes a suspended VM.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vm_resume(&self, vm: &Ref<Vm>, how: PowerOn) -> Result<(), Error> {
        self.operation("VM.resume", vec![json!(vm), json!(how.paused), json!(how.force)]).await.map(drop)
    }

    /// Suspends a VM to disk.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vm_suspend(&self, vm: &Ref<Vm>) -> Result<(), Error> {
        self.operation("VM.suspend", vec![json!(vm)]).await.map(drop)
    }

    /// Asks the guest to shut down.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vm_clean_shutdown(&self, vm: &Ref<Vm>) -> Result<(), Error> {
        self.operation("VM.clean_shutdown", vec![json!(vm)]).await.map(drop)
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vm_hard_shutdown(&self, vm: &Ref<Vm>) -> Result<(), Error> {
        self.operation("VM.hard_shutdown", vec![json!(vm)]).await.map(drop)
    }

    /// Makes a VM a template or no longer one; exports of a snapshot keep this flag.
    ///
    /// # Errors
    /// As any call.
    pub async fn vm_set_is_a_template(&self, vm: &Ref<Vm>, value: bool) -> Result<(), Error> {
        self.set_field(vm, "is_a_template", json!(value)).await
    }

    /// Blocks an operation, with the reason that people see.
    ///
    /// # Errors
    /// As any call.
    pub async fn vm_block_operation(&self, vm: &Ref<Vm>, operation: &str, reason: &str) -> Result<(), Error> {
        self.set_in_map(vm, "blocked_operations", operation, reason).await
    }

    /// Blocks an operation no more.
    ///
    /// # Errors
    /// As any call.
    pub async fn vm_unblock_operation(&self, vm: &Ref<Vm>, operation: &str) -> Result<(), Error> {
        self.remove_from_map(vm, "blocked_operations", operation).await
    }

    /// Sets one key that the guest may read (and write) under `vm-data/`.
    ///
    /// # Errors
    /// As any call.
    pub async fn vm_set_xenstore(&self, vm: &Ref<Vm>, key: &str, value: &str) -> Result<(), Error> {
        self.set_in_map(vm, "xenstore_data", key, value).await
    }

    /// The free positions for disks: `0`, `1`, …
    ///
    /// # Errors
    /// As any call.
    pub async fn vm_free_disk_positions(&self, vm: &Ref<Vm>) -> Result<Vec<String>, Error> {
        self.read("VM.get_allowed_VBD_devices", vec![json!(vm)]).await
    }

    /// The free positions for network interfaces.
    ///
    /// # Errors
    /// As any call.
    pub async fn vm_free_network_positions(&self, vm: &Ref<Vm>) -> Result<Vec<String>, Error> {
        self.read("VM.get_allowed_VIF_devices", vec![json!(vm)]).await
    }

    /// Sets the firmware's variables: boot entries, secure boot.
    ///
    /// # Errors
    /// As any call.
    pub async fn vm_set_nvram(&self, vm: &Ref<Vm>, nvram: &BTreeMap<String, String>) -> Result<(), Error> {
        self.set_field(vm, "NVRAM", json!(nvram)).await
    }

    /// Sets the strings that the guest's firmware shows. They can be set once; that they were set already is no error.
    ///
    /// # Errors
    /// As any call.
    pub async fn vm_set_bios_strings(&self, vm: &Ref<Vm>, strings: &BTreeMap<String, String>) -> Result<(), Error> {
        match self.set_field(vm, "bios_strings", json!(strings)).await {
            Err(error) if error.is("VM_BIOS_STRINGS_ALREADY_SET") => Ok(()),
            outcome => outcome,
        }
    }

    /// The hosts that could start it.
    ///
    /// # Errors
    /// As any call.
    pub async fn vm_possible_hosts(&self, vm: &Ref<Vm>) -> Result<Vec<Ref<Host>>, Error> {
        self.read("VM.get_possible_hosts", vec![json!(vm)]).await
    }

    /// Asks whether an operation would be allowed now.
    ///
    /// # Errors
    /// The error that the operation would give.
    pub async fn vm_assert_allowed(&self, vm: &Ref<Vm>, operation: &str) -> Result<(), Error> {
        self.set("VM.assert_operation_valid", vec![json!(vm), json!(operation)]).await
    }
}
