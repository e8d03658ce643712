//! What is attached to a VM: disks, network interfaces, TPMs.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::json;

use crate::records::{Network, Vbd, VbdMode, VbdType, Vdi, Vif, Vm, Vtpm};
use crate::refs::NULL;
use crate::{Client, Error, Ref};

/// A disk or CD drive to be attached.
#[derive(Debug, Clone, Serialize)]
pub struct NewVbd {
    /// The VM.
    #[serde(rename = "VM")]
    pub vm: Ref<Vm>,
    /// The disk; none for an empty drive.
    #[serde(rename = "VDI", serialize_with = "null_or")]
    pub vdi: Option<Ref<Vdi>>,
    /// The position, `0`, or `autodetect`.
    pub userdevice: String,
    /// As the guest sees it; honoured for a suspended VM only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// Honoured for a suspended VM only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub currently_attached: bool,
    /// The VM boots from it.
    pub bootable: bool,
    /// Whether the VM may write.
    pub mode: VbdMode,
    /// Disk or CD.
    #[serde(rename = "type")]
    pub kind: VbdType,
    /// No medium.
    pub empty: bool,
    /// Can be taken away from a running VM.
    pub unpluggable: bool,
    /// Free for clients.
    pub other_config: BTreeMap<String, String>,
    /// Unused by anybody, demanded by XAPI.
    qos_algorithm_type: &'static str,
    qos_algorithm_params: BTreeMap<String, String>,
}

impl NewVbd {
    /// A writable disk.
    #[must_use]
    pub fn disk(vm: Ref<Vm>, vdi: Ref<Vdi>, position: &str) -> Self {
        Self {
            vm,
            vdi: Some(vdi),
            userdevice: position.to_owned(),
            device: String::new(),
            currently_attached: false,
            bootable: false,
            mode: VbdMode::ReadWrite,
            kind: VbdType::Disk,
            empty: false,
            unpluggable: true,
            other_config: BTreeMap::new(),
            qos_algorithm_type: "",
            qos_algorithm_params: BTreeMap::new(),
        }
    }

    /// An empty CD drive.
    #[must_use]
    pub fn empty_drive(vm: Ref<Vm>, position: &str) -> Self {
        Self {
            vm,
            vdi: None,
            userdevice: position.to_owned(),
            device: String::new(),
            currently_attached: false,
            bootable: false,
            mode: VbdMode::ReadOnly,
            kind: VbdType::Cd,
            empty: true,
            unpluggable: false,
            other_config: BTreeMap::new(),
            qos_algorithm_type: "",
            qos_algorithm_params: BTreeMap::new(),
        }
    }
}

/// A network interface to be attached.
#[derive(Debug, Clone, Serialize)]
pub struct NewVif {
    /// The VM.
    #[serde(rename = "VM")]
    pub vm: Ref<Vm>,
    /// The network.
    pub network: Ref<Network>,
    /// The position, `0`.
    pub device: String,
    /// The hardware address; empty: made from the VM's `mac_seed`.
    #[serde(rename = "MAC")]
    pub mac: String,
    /// The largest frame.
    #[serde(rename = "MTU")]
    pub mtu: i64,
    /// Honoured for a suspended VM only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub currently_attached: bool,
    /// Free for clients.
    pub other_config: BTreeMap<String, String>,
    /// `network_default`, `locked`, `unlocked`, `disabled`.
    pub locking_mode: String,
    /// With `locked`.
    pub ipv4_allowed: Vec<String>,
    /// With `locked`.
    pub ipv6_allowed: Vec<String>,
    /// As recorded.
    pub qos_algorithm_type: String,
    /// As recorded.
    pub qos_algorithm_params: BTreeMap<String, String>,
}

impl NewVif {
    /// An ordinary interface.
    #[must_use]
    pub fn new(vm: Ref<Vm>, network: Ref<Network>, position: &str, mac: &str) -> Self {
        Self {
            vm,
            network,
            device: position.to_owned(),
            mac: mac.to_owned(),
            mtu: 1500,
            currently_attached: false,
            other_config: BTreeMap::new(),
            locking_mode: "network_default".to_owned(),
            ipv4_allowed: Vec::new(),
            ipv6_allowed: Vec::new(),
            qos_algorithm_type: String::new(),
            qos_algorithm_params: BTreeMap::new(),
        }
    }
}

impl Client {
    /// Attaches a disk or a drive.
    ///
    /// # Errors
    /// As any call.
    pub async fn vbd_create(&self, vbd: &NewVbd) -> Result<Ref<Vbd>, Error> {
        self.make("VBD.create", vec![json!(vbd)]).await
    }

    /// Detaches a disk or a drive that is not in use. That it is gone already is no error.
    ///
    /// # Errors
    /// As any call.
    pub async fn vbd_destroy(&self, vbd: &Ref<Vbd>) -> Result<(), Error> {
        self.unmake("VBD.destroy", vec![json!(vbd)]).await
    }

    /// Takes a disk away from a running VM.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vbd_unplug(&self, vbd: &Ref<Vbd>) -> Result<(), Error> {
        self.operation("VBD.unplug", vec![json!(vbd)]).await.map(drop)
    }

    /// Gives a disk to a running VM.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vbd_plug(&self, vbd: &Ref<Vbd>) -> Result<(), Error> {
        self.operation("VBD.plug", vec![json!(vbd)]).await.map(drop)
    }

    /// Attaches a network interface.
    ///
    /// # Errors
    /// As any call.
    pub async fn vif_create(&self, vif: &NewVif) -> Result<Ref<Vif>, Error> {
        self.make("VIF.create", vec![json!(vif)]).await
    }

    /// Detaches a network interface. That it is gone already is no error.
    ///
    /// # Errors
    /// As any call.
    pub async fn vif_destroy(&self, vif: &Ref<Vif>) -> Result<(), Error> {
        self.unmake("VIF.destroy", vec![json!(vif)]).await
    }

    /// Gives a halted VM a TPM.
    ///
    /// # Errors
    /// As any call; `FEATURE_RESTRICTED` where the licence forbids it.
    pub async fn vtpm_create(&self, vm: &Ref<Vm>, is_unique: bool) -> Result<Ref<Vtpm>, Error> {
        self.make("VTPM.create", vec![json!(vm), json!(is_unique)]).await
    }

    /// The contents of a TPM, base64. Only local root may ask.
    ///
    /// # Errors
    /// As any call.
    pub async fn vtpm_contents(&self, vtpm: &Ref<Vtpm>) -> Result<SecretString, Error> {
        self.read("VTPM.get_contents", vec![json!(vtpm)]).await
    }

    /// Sets the contents of a TPM, base64. Only local root may.
    ///
    /// # Errors
    /// As any call.
    pub async fn vtpm_set_contents(&self, vtpm: &Ref<Vtpm>, contents: &SecretString) -> Result<(), Error> {
        self.set("VTPM.set_contents", vec![json!(vtpm), json!(contents.expose_secret())]).await
    }

    /// Takes a TPM away. That it is gone already is no error.
    ///
    /// # Errors
    /// As any call.
    pub async fn vtpm_destroy(&self, vtpm: &Ref<Vtpm>) -> Result<(), Error> {
        self.unmake("VTPM.destroy", vec![json!(vtpm)]).await
    }
}

fn null_or<S: serde::Serializer>(vdi: &Option<Ref<Vdi>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(vdi.as_ref().map_or(NULL, Ref::as_str))
}
