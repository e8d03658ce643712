//! Makes the VM with all its devices, empty disks included. Everything bears its stamp from birth.

use coffer_model::counted;
use coffer_xapi::records::Vdi;
use coffer_xapi::{FailureClass, NewVbd, NewVdi, NewVif, Ref};
use secrecy::SecretString;
use serde_json::json;

use super::plan::{PlannedDisk, PlannedInterface};
use super::preflight::Ready;
use super::{BLOCKED, Made, Subject};
use crate::halt::{Outcome, Trouble};
use crate::journal::Done;
use crate::stamps::Stamp;
use crate::task::Task;

/// What the name of a VM begins with until it is complete.
pub(super) const PREFIX: &str = "[Restoring] ";
const REASON: &str = "Coffer is restoring this virtual machine";

/// The step. Returns the VM and its empty disks in the order of the document.
pub(super) async fn create(
    task: &Task,
    subject: &Subject,
    ready: &Ready,
    stamp: &Stamp,
) -> Outcome<((Made, Vec<Ref<Vdi>>), Done)> {
    let (pool, plan) = (&subject.pool, &ready.plan);
    let mut record = plan.vm.clone();
    record.insert("name_label".to_owned(), json!(format!("{PREFIX}{}", plan.label)));
    let config = record.entry("other_config").or_insert_with(|| json!({}));
    for (key, value) in stamp.marks(None) {
        config[key] = json!(value);
    }
    let vm = pool.create_vm(&record).await?;
    let uuid = pool.vm(&vm).await?.ok_or_else(vanished)?.uuid;
    pool.mark_vm(&vm, &stamp.marks(Some(uuid))).await?;
    for operation in BLOCKED {
        pool.block(&vm, operation, REASON).await?;
    }
    if !plan.bios_strings.is_empty() {
        pool.set_bios_strings(&vm, &plan.bios_strings).await?;
    }
    let mut disks = Vec::with_capacity(plan.disks.len());
    for disk in &plan.disks {
        let new = new_disk(disk, ready, stamp);
        let vdi = pool.create_disk(&new).await.map_err(|error| ready.without_room(error.into()))?;
        if let Some(uuid) = disk_uuid(subject, &vdi).await? {
            pool.mark_disk(&vdi, &stamp.marks(Some(uuid))).await?;
        }
        let mut vbd = NewVbd::disk(vm.clone(), vdi.clone(), &disk.position);
        (vbd.bootable, vbd.mode, vbd.unpluggable) = (disk.bootable, disk.mode, disk.unpluggable);
        vbd.other_config.clone_from(&disk.vbd_config);
        pool.attach(&vbd).await?;
        disks.push(vdi);
    }
    for drive in &plan.drives {
        let mut vbd = NewVbd::empty_drive(vm.clone(), &drive.position);
        vbd.bootable = drive.bootable;
        pool.attach(&vbd).await?;
    }
    for interface in &plan.interfaces {
        pool.connect(&new_interface(&vm, interface)).await?;
    }
    create_tpms(task, subject, ready, &vm).await?;
    let message =
        format!("{} ({uuid}) with {} on {}", plan.label, counted(disks.len(), "disk"), ready.storage.record.name_label);
    Ok(((Made { vm, uuid, label: plan.label.clone() }, disks), message.into()))
}

async fn disk_uuid(subject: &Subject, vdi: &Ref<Vdi>) -> Outcome<Option<uuid::Uuid>> {
    Ok(subject.pool.disk_record(vdi).await?.map(|record| record.uuid))
}

fn new_disk(disk: &PlannedDisk, ready: &Ready, stamp: &Stamp) -> NewVdi {
    let mut new = NewVdi::new(&disk.label, ready.storage.reference.clone(), disk.size);
    new.name_description.clone_from(&disk.description);
    new.kind.clone_from(&disk.kind);
    new.sharable = disk.sharable;
    new.tags.clone_from(&disk.tags);
    new.other_config.clone_from(&disk.other_config);
    new.other_config.extend(stamp.marks(None));
    new
}

fn new_interface(vm: &Ref<coffer_xapi::records::Vm>, interface: &PlannedInterface) -> NewVif {
    let mut new = NewVif::new(vm.clone(), interface.network.clone(), &interface.position, &interface.mac);
    new.mtu = interface.mtu;
    new.other_config.clone_from(&interface.other_config);
    new.locking_mode.clone_from(&interface.locking_mode);
    new.ipv4_allowed.clone_from(&interface.ipv4_allowed);
    new.ipv6_allowed.clone_from(&interface.ipv6_allowed);
    new.qos_algorithm_type.clone_from(&interface.qos_type);
    new.qos_algorithm_params.clone_from(&interface.qos_params);
    new
}

async fn create_tpms(task: &Task, subject: &Subject, ready: &Ready, vm: &Ref<coffer_xapi::records::Vm>) -> Outcome<()> {
    for tpm in &ready.point.document.tpms {
        let is_unique = tpm.record.get("is_unique").and_then(serde_json::Value::as_bool).unwrap_or(false);
        let contents = tpm.contents.clone().map(SecretString::from);
        match subject.pool.create_tpm(vm, is_unique, contents.as_ref()).await {
            Ok(()) => {}
            // A machine without its TPM is better than none.
            Err(error) if matches!(error.class(), Some(FailureClass::Unsupported | FailureClass::Permission)) => {
                task.journal.warn_error("the TPM could not be restored", &error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn vanished() -> Trouble {
    Trouble::new(
        "VM_GONE",
        "the new virtual machine was removed by somebody else while it was being restored",
        "look who removes virtual machines in this pool, then try again",
    )
    .passing()
}
