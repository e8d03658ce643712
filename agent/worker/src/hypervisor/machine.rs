//! Reads a VM with everything that hangs on it.

use coffer_xapi::records::{Full, VbdRecord, VbdType, Vdi, VdiRecord, Vm, Vtpm};
use coffer_xapi::{Class, Client, Error, FailureClass, Ref};
use secrecy::SecretString;
use uuid::Uuid;

use super::{Machine, MachineDisk};

/// The VM of this identity.
pub(super) async fn machine(client: &Client, uuid: Uuid) -> Result<Option<Machine>, Error> {
    let Some(reference) = client.by_uuid::<Vm>(uuid).await? else { return Ok(None) };
    let Some(vm) = if_there(client, &reference).await? else { return Ok(None) };
    let (mut disks, mut drives, mut interfaces, mut tpms) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for reference in &vm.vbds {
        let Some(vbd) = if_there(client, reference).await? else { continue };
        match (vbd.kind, vbd.vdi.clone()) {
            (VbdType::Disk, Some(vdi)) => {
                if let Some(vdi) = if_there(client, &vdi).await? {
                    disks.push(MachineDisk { vbd, vdi });
                }
            }
            (VbdType::Cd, _) => drives.push(vbd),
            _ => {}
        }
    }
    for reference in &vm.vifs {
        let Some(vif) = if_there(client, reference).await? else { continue };
        let network = match &vif.network {
            Some(network) => if_there(client, network).await?.map(|network| network.fields),
            None => None,
        };
        interfaces.push((vif, network));
    }
    for reference in &vm.vtpms {
        let Some(tpm) = if_there(client, reference).await? else { continue };
        let contents = tpm_contents(client, reference).await?;
        tpms.push((tpm, contents));
    }
    disks.sort_by_key(|disk| position(&disk.vbd));
    drives.sort_by_key(|drive| position(drive));
    interfaces.sort_by_key(|(vif, _)| vif.device.parse::<u32>().unwrap_or(u32::MAX));
    Ok(Some(Machine { vm, disks, drives, interfaces, tpms }))
}

/// The disks of a VM or a snapshot.
pub(super) async fn disks(client: &Client, vm: &Ref<Vm>) -> Result<Vec<(VbdRecord, Ref<Vdi>, VdiRecord)>, Error> {
    let mut disks = Vec::new();
    let Some(vm) = if_there(client, vm).await? else { return Ok(disks) };
    for reference in &vm.vbds {
        let Some(vbd) = if_there(client, reference).await? else { continue };
        if vbd.kind != VbdType::Disk {
            continue;
        }
        let Some(vdi) = vbd.vdi.clone() else { continue };
        if let Some(record) = if_there(client, &vdi).await? {
            disks.push((vbd.fields, vdi, record.fields));
        }
    }
    disks.sort_by_key(|(vbd, _, _)| position(vbd));
    Ok(disks)
}

/// The record of an object that somebody may remove meanwhile.
pub(super) async fn if_there<C: Class>(client: &Client, reference: &Ref<C>) -> Result<Option<Full<C>>, Error> {
    match client.record(reference).await {
        Ok(record) => Ok(Some(record)),
        Err(error) if error.class() == Some(FailureClass::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The contents of a TPM; `None` where this user or this version does not give them.
async fn tpm_contents(client: &Client, tpm: &Ref<Vtpm>) -> Result<Option<SecretString>, Error> {
    match client.vtpm_contents(tpm).await {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if matches!(error.class(), Some(FailureClass::Permission | FailureClass::Unsupported)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn position(vbd: &VbdRecord) -> u32 {
    vbd.userdevice.parse().unwrap_or(u32::MAX)
}
