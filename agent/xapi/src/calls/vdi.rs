//! Disks: made, copied, tracked, served over NBD, destroyed.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::object::gone_is_well;
use crate::records::{Sr, Vdi};
use crate::refs::or_null;
use crate::wire::{Malformed, XmlValue};
use crate::{Client, Error, Fingerprint, Ref};

/// A disk to be made.
#[derive(Debug, Clone, Serialize)]
pub struct NewVdi {
    /// Name.
    pub name_label: String,
    /// Description.
    pub name_description: String,
    /// Where.
    #[serde(rename = "SR")]
    pub sr: Ref<Sr>,
    /// Bytes; the storage may round it up.
    pub virtual_size: u64,
    /// `user`, `system`, `suspend`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Several VMs may write.
    pub sharable: bool,
    /// Nobody may write.
    pub read_only: bool,
    /// Free for clients.
    pub other_config: BTreeMap<String, String>,
    /// Tags.
    pub tags: Vec<String>,
}

impl NewVdi {
    /// An ordinary disk.
    #[must_use]
    pub fn new(name: &str, sr: Ref<Sr>, virtual_size: u64) -> Self {
        Self {
            name_label: name.to_owned(),
            name_description: String::new(),
            sr,
            virtual_size,
            kind: "user".to_owned(),
            sharable: false,
            read_only: false,
            other_config: BTreeMap::new(),
            tags: Vec::new(),
        }
    }
}

/// One way to read a disk over NBD.
#[derive(Debug, Clone, Deserialize)]
pub struct NbdExport {
    /// Names the disk to the server; holds the session.
    #[serde(rename = "exportname")]
    pub export_name: SecretString,
    /// IPv4 or IPv6 address.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// The server's certificate in PEM; always there, also where the server speaks no TLS.
    #[serde(rename = "cert")]
    pub certificate: String,
    /// The name in the certificate.
    pub subject: String,
}

impl NbdExport {
    /// What the server's certificate is pinned to.
    ///
    /// # Errors
    /// [`Error::Fingerprint`] when the certificate cannot be read.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        Fingerprint::of_pem(&self.certificate)
    }
}

/// The bytes of a bitmap that a task returned.
pub(crate) fn bitmap_of(value: XmlValue) -> Result<Vec<u8>, Malformed> {
    match value {
        XmlValue::Void => Ok(Vec::new()),
        XmlValue::Text(text) => STANDARD.decode(text).map_err(|_| Malformed::Shape("the bitmap is not base64")),
        XmlValue::Set(_) => Err(Malformed::Shape("the bitmap is a set")),
    }
}

impl Client {
    /// Makes a disk. That can take a while: as a task it is seen by whoever has to wait for it after a crash.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vdi_create(&self, disk: &NewVdi) -> Result<Ref<Vdi>, Error> {
        self.operation_ref("VDI.create", vec![json!(disk)]).await
    }

    /// Destroys a disk. That it is gone already is no error. See [`Client::vdi_destroy_when_free`].
    ///
    /// # Errors
    /// As any operation; `VDI_IN_USE` also for seconds after a transfer.
    pub async fn vdi_destroy(&self, vdi: &Ref<Vdi>) -> Result<(), Error> {
        gone_is_well(self.operation("VDI.destroy", vec![json!(vdi)]).await.map(drop))
    }

    /// Takes a snapshot of one disk.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vdi_snapshot(&self, vdi: &Ref<Vdi>) -> Result<Ref<Vdi>, Error> {
        self.operation_ref("VDI.snapshot", vec![json!(vdi), json!({})]).await
    }

    /// Makes a writable clone, sharing what both have.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vdi_clone(&self, vdi: &Ref<Vdi>) -> Result<Ref<Vdi>, Error> {
        self.operation_ref("VDI.clone", vec![json!(vdi), json!({})]).await
    }

    /// Copies a disk to a storage repository.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vdi_copy(&self, vdi: &Ref<Vdi>, to: &Ref<Sr>) -> Result<Ref<Vdi>, Error> {
        self.operation_ref("VDI.copy", vec![json!(vdi), json!(to)]).await
    }

    /// Copies a disk, or only what differs from `base`, into an existing one.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vdi_copy_into(
        &self,
        vdi: &Ref<Vdi>,
        base: Option<&Ref<Vdi>>,
        into: &Ref<Vdi>,
    ) -> Result<Ref<Vdi>, Error> {
        let params = vec![json!(vdi), json!(or_null::<Sr>(None)), json!(or_null(base)), json!(into)];
        self.operation_ref("VDI.copy", params).await
    }

    /// Makes a disk larger, bytes.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vdi_resize(&self, vdi: &Ref<Vdi>, size: u64) -> Result<(), Error> {
        self.operation("VDI.resize", vec![json!(vdi), json!(size)]).await.map(drop)
    }

    /// Tracks changed blocks from now on.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vdi_enable_cbt(&self, vdi: &Ref<Vdi>) -> Result<(), Error> {
        self.operation("VDI.enable_cbt", vec![json!(vdi)]).await.map(drop)
    }

    /// Tracks changed blocks no more.
    ///
    /// # Errors
    /// As any operation.
    pub async fn vdi_disable_cbt(&self, vdi: &Ref<Vdi>) -> Result<(), Error> {
        self.operation("VDI.disable_cbt", vec![json!(vdi)]).await.map(drop)
    }

    /// The bitmap of blocks of 64 KiB that may differ, first block in the highest bit.
    ///
    /// # Errors
    /// As any operation; class [`crate::FailureClass::ChangedBlocks`] when these two cannot be compared.
    pub async fn vdi_list_changed_blocks(&self, from: &Ref<Vdi>, to: &Ref<Vdi>) -> Result<Vec<u8>, Error> {
        let method = "VDI.list_changed_blocks";
        let value = self.operation(method, vec![json!(from), json!(to)]).await?;
        bitmap_of(value).map_err(|source| Error::Answer { what: method.to_owned(), source })
    }

    /// Deletes the data of a snapshot, keeps its bitmap.
    ///
    /// # Errors
    /// As any operation; `VDI_IN_USE` also for seconds after a transfer.
    pub async fn vdi_data_destroy(&self, vdi: &Ref<Vdi>) -> Result<(), Error> {
        self.operation("VDI.data_destroy", vec![json!(vdi)]).await.map(drop)
    }

    /// The ways to read a disk over NBD; none when no network of the pool is meant for it.
    ///
    /// # Errors
    /// As any call.
    pub async fn vdi_nbd_info(&self, vdi: &Ref<Vdi>) -> Result<Vec<NbdExport>, Error> {
        self.read("VDI.get_nbd_info", vec![json!(vdi)]).await
    }
}
