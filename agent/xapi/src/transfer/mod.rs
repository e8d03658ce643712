//! Disks and VMs as streams of bytes over HTTP.
//!
//! XAPI answers `200` before it has done anything, gives no length, and may put an error into the middle of the data:
//! the HTTP layer proves nothing. Every transfer has a task, and only that task says whether it succeeded. What the
//! stream must look like inside is for its reader to check.

mod download;
mod head;
mod open;
mod place;
mod upload;

use crate::records::{Sr, Vdi, Vm};
use crate::transport::percent_encoded;
use crate::wire::{Malformed, XmlValue};
use crate::{Client, Error, Ref};

pub(crate) use head::Pieces;
pub(crate) use open::redirect;
pub(crate) use place::Load;

pub use download::Download;
pub use upload::Upload;

/// How a disk is written as a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// Every byte.
    Raw,
    /// A dynamic VHD; with a base, a differencing one.
    Vhd,
}

/// What the host compresses an export with, on one CPU of its control domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Nothing.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// zstd, level 3.
    Zstd,
}

/// A disk to be read.
#[derive(Debug, Clone)]
pub struct VdiExport {
    /// The disk, a snapshot unless nobody writes to it.
    pub vdi: Ref<Vdi>,
    /// Where it is.
    pub sr: Ref<Sr>,
    /// As what.
    pub format: DiskFormat,
    /// Only what differs from this one.
    pub base: Option<Ref<Vdi>>,
    /// The task's label: what people see on the pool.
    pub label: String,
}

/// A disk to be written.
#[derive(Debug, Clone)]
pub struct VdiImport {
    /// The disk, attached to nothing.
    pub vdi: Ref<Vdi>,
    /// Where it is.
    pub sr: Ref<Sr>,
    /// As what the data comes.
    pub format: DiskFormat,
    /// Bytes that will come.
    pub length: u64,
    /// The task's label.
    pub label: String,
}

/// A VM to be read as an XVA.
#[derive(Debug, Clone)]
pub struct VmExport {
    /// A VM that is halted or suspended, or a snapshot.
    pub vm: Ref<Vm>,
    /// A storage repository of its disks, to choose the host by.
    pub sr: Option<Ref<Sr>>,
    /// Compressed by the host.
    pub compression: Compression,
    /// A suspended VM stays one, its memory included.
    pub preserve_power_state: bool,
    /// The task's label.
    pub label: String,
}

/// A VM to be made of an XVA.
#[derive(Debug, Clone)]
pub struct VmImport {
    /// Where its disks go.
    pub sr: Ref<Sr>,
    /// It keeps its identity and replaces the VM that has it.
    pub restore: bool,
    /// Checksums and versions are not minded.
    pub force: bool,
    /// Bytes that will come.
    pub length: u64,
    /// The task's label.
    pub label: String,
}

impl Client {
    /// Starts reading a disk.
    ///
    /// # Errors
    /// As any call; [`Error::NoHostForSr`]; whatever the host answers in place of data.
    pub async fn export_vdi(&self, export: &VdiExport) -> Result<Download, Error> {
        let mut query = vec![("vdi", export.vdi.as_str()), ("format", export.format.name())];
        if let Some(base) = &export.base {
            query.push(("base", base.as_str()));
        }
        self.download("/export_raw_vdi/", query, Some(&export.sr), &export.label).await
    }

    /// Starts reading a VM.
    ///
    /// # Errors
    /// As any call; whatever the host answers in place of data.
    pub async fn export_vm(&self, export: &VmExport) -> Result<Download, Error> {
        let compression = match export.compression {
            Compression::None => "false",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        let mut query = vec![("ref", export.vm.as_str()), ("use_compression", compression)];
        if export.preserve_power_state {
            query.push(("preserve_power_state", "true"));
        }
        self.download("/export/", query, export.sr.as_ref(), &export.label).await
    }

    /// Starts writing a disk. Blocks that a VHD does not have keep their content.
    ///
    /// # Errors
    /// As any call; [`Error::NoHostForSr`]; whatever the host answers in place of taking data.
    pub async fn import_vdi(&self, import: &VdiImport) -> Result<Upload, Error> {
        let query = vec![("vdi", import.vdi.as_str()), ("format", import.format.name())];
        self.upload("/import_raw_vdi/", query, &import.sr, &import.label, import.length).await
    }

    /// Starts making a VM; see [`imported_vms`] for what its end returns.
    ///
    /// # Errors
    /// As any call; [`Error::NoHostForSr`]; whatever the host answers in place of taking data.
    pub async fn import_vm(&self, import: &VmImport) -> Result<Upload, Error> {
        let mut query = vec![("sr_id", import.sr.as_str())];
        if import.restore {
            query.push(("restore", "true"));
        }
        if import.force {
            query.push(("force", "true"));
        }
        self.upload("/import/", query, &import.sr, &import.label, import.length).await
    }
}

/// The VMs that an import made, from what [`Upload::finish`] returned.
///
/// # Errors
/// [`Error::Answer`] when the result is not a set of VMs.
pub fn imported_vms(result: &XmlValue) -> Result<Vec<Ref<Vm>>, Error> {
    let vm = |value: &XmlValue| match value {
        XmlValue::Text(text) => Ref::new(text),
        XmlValue::Void | XmlValue::Set(_) => None,
    };
    let vms = match result {
        XmlValue::Set(values) => values.iter().map(vm).collect::<Option<Vec<_>>>(),
        single => vm(single).map(|vm| vec![vm]),
    };
    vms.ok_or_else(|| Error::Answer {
        what: "/import".to_owned(),
        source: Malformed::Shape("the result is not a set of VMs"),
    })
}

impl DiskFormat {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
        }
    }
}

/// Path and query of a transfer. It holds the session: never to be shown.
fn path_and_query(path: &str, query: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", percent_encoded(value))).collect();
    format!("{path}?{}", pairs.join("&"))
}

/// The status in a body that is an error in place of data: XAPI sometimes sends a second head after its early `200`.
fn error_status(head: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(head.get(..13)?).ok()?;
    let (version, rest) = text.split_once(' ')?;
    let (status, rest) = rest.split_at_checked(3)?;
    let status: u16 = status.parse().ok()?;
    let is_head = matches!(version, "HTTP/1.0" | "HTTP/1.1") && matches!(rest.as_bytes().first(), Some(b' ' | b'\r'));
    (is_head && (400..600).contains(&status)).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_place_of_data_is_told_from_data() {
        assert_eq!(error_status(b"HTTP/1.1 500 Internal"), Some(500));
        assert_eq!(error_status(b"HTTP/1.0 403\r\n"), Some(403));
        for data in [
            &b"conectix\0\0\0\x02\0\x01"[..],
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1",
            b"HTTP/1.1 5000 x",
            b"HTTP/1.1 \xff\xff\xff\xff",
        ] {
            assert_eq!(error_status(data), None, "{data:?}");
        }
    }

    #[test]
    fn an_import_returns_its_vms() {
        let vm = |id: &str| XmlValue::Text(id.to_owned());
        assert_eq!(imported_vms(&XmlValue::Set(vec![vm("OpaqueRef:1")])).unwrap()[0].as_str(), "OpaqueRef:1");
        assert!(imported_vms(&XmlValue::Void).is_err());
        assert!(imported_vms(&XmlValue::Set(vec![XmlValue::Void])).is_err());
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(path_and_query("/x/", &[("vdi", "OpaqueRef:1"), ("a", "b&c")]), "/x/?vdi=OpaqueRef%3A1&a=b%26c");
    }
}
