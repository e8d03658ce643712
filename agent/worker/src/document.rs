//! `vm.json`: what a restore point knows besides the content of disks. Versioned; records of XAPI are kept as received.
//!
//! | field | holds |
//! | --- | --- |
//! | `format`, `version` | `coffer-vm`, [`VERSION`] |
//! | `site`, `pool`, `pool_uuid`, `job`, `schedule`, `run`, `task` | where it comes from |
//! | `vm_uuid`, `vm_label`, `time` | what it shows, and when |
//! | `vm` | the record of the VM, NVRAM, firmware strings and platform included |
//! | `disks` | each disk: record of its VBD and VDI, where its content is, how it was read, what was kept for the next delta |
//! | `excluded` | disks that were left out because their name asks for it |
//! | `drives`, `interfaces`, `tpms` | records of CD drives; of VIFs, with the names of their networks; of TPMs, with contents |
//! | `added_bytes` | what the restore point added to the remote |

use std::fmt;

use coffer_model::RemoteId;
use coffer_model::names::Named;
use coffer_proto::v1::{RestorePoint, RestorePointDisk};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::backup::leftovers::Keep;
use crate::halt::Trouble;
use crate::journal::to_timestamp;

/// Where it stands in a restore point.
pub(crate) const PATH: &str = "vm.json";
/// The most that is read of it, in bytes: NVRAM and TPM contents are below a MiB.
pub(crate) const MAX_BYTES: u64 = 16 << 20;
/// The version that this program writes, and the newest it reads.
const VERSION: u32 = 1;
const FORMAT: &str = "coffer-vm";

/// A record of XAPI, as received.
pub(crate) type Record = Map<String, Value>;

/// The content of `vm.json`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VmDocument {
    format: String,
    version: u32,
    pub(crate) site: String,
    /// `pools/{id}`.
    pub(crate) pool: String,
    pub(crate) pool_uuid: Uuid,
    /// `jobs/{id}`.
    pub(crate) job: String,
    /// `jobs/{job}/schedules/{id}`, or empty.
    pub(crate) schedule: String,
    /// `runs/{id}`.
    pub(crate) run: String,
    pub(crate) task: Uuid,
    pub(crate) vm_uuid: Uuid,
    pub(crate) vm_label: String,
    pub(crate) time: Timestamp,
    pub(crate) vm: Record,
    pub(crate) disks: Vec<DocumentDisk>,
    #[serde(default)]
    pub(crate) excluded: Vec<ExcludedDisk>,
    #[serde(default)]
    pub(crate) drives: Vec<Record>,
    #[serde(default)]
    pub(crate) interfaces: Vec<DocumentInterface>,
    #[serde(default)]
    pub(crate) tpms: Vec<DocumentTpm>,
    #[serde(default)]
    pub(crate) added_bytes: u64,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DocumentDisk {
    /// UUID of the VM's own disk.
    pub(crate) uuid: Uuid,
    /// As the guest sees it.
    pub(crate) device: String,
    /// XAPI's `userdevice`.
    pub(crate) position: String,
    pub(crate) label: String,
    /// Size at the instant of the snapshot, bytes.
    pub(crate) size: u64,
    /// Where its content is in the restore point.
    pub(crate) path: String,
    pub(crate) vbd: Record,
    pub(crate) vdi: Record,
    /// What was kept in the pool for the next delta.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<Reference>,
    /// How it was read.
    #[serde(default)]
    pub(crate) source: String,
    /// Why not in a better way.
    #[serde(default)]
    pub(crate) reason: String,
}

/// A snapshot of a disk that was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    /// UUID of the snapshot of the disk.
    pub(crate) vdi: Uuid,
    /// What was kept of it.
    pub(crate) kept: Keep,
}

/// A disk that was left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExcludedDisk {
    pub(crate) uuid: Uuid,
    pub(crate) position: String,
    pub(crate) label: String,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DocumentInterface {
    pub(crate) vif: Record,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<DocumentNetwork>,
}

/// What a network is recognised by in another pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DocumentNetwork {
    pub(crate) uuid: Uuid,
    pub(crate) label: String,
    pub(crate) bridge: String,
}

/// A TPM.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DocumentTpm {
    pub(crate) record: Record,
    /// Base64; absent when the pool did not give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) contents: Option<String>,
}

/// What the parts of a document are about; everything else of it comes from records.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) site: String,
    pub(crate) pool: String,
    pub(crate) pool_uuid: Uuid,
    pub(crate) job: String,
    pub(crate) schedule: String,
    pub(crate) run: String,
    pub(crate) task: Uuid,
    pub(crate) vm_uuid: Uuid,
    pub(crate) vm_label: String,
    pub(crate) time: Timestamp,
}

impl VmDocument {
    /// A document about a VM, without devices yet.
    pub(crate) fn new(origin: Origin, vm: Record) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            site: origin.site,
            pool: origin.pool,
            pool_uuid: origin.pool_uuid,
            job: origin.job,
            schedule: origin.schedule,
            run: origin.run,
            task: origin.task,
            vm_uuid: origin.vm_uuid,
            vm_label: origin.vm_label,
            time: origin.time,
            vm,
            disks: Vec::new(),
            excluded: Vec::new(),
            drives: Vec::new(),
            interfaces: Vec::new(),
            tpms: Vec::new(),
            added_bytes: 0,
        }
    }

    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a document has only plain fields and text keys");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the bytes of the file; `subject` names the restore point.
    pub(crate) fn decode(bytes: &[u8], subject: &str) -> Result<Self, Trouble> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let damaged = |what: String| {
            Trouble::new(
                "RESTORE_POINT_DAMAGED",
                format!("{PATH} of {subject} cannot be read: {what}"),
                "use another restore point, and verify this remote",
            )
        };
        let head: Head = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if head.format != FORMAT {
            return Err(damaged(format!("it says that it is {:?}", head.format)));
        }
        if head.version > VERSION {
            return Err(Trouble::new(
                "RESTORE_POINT_TOO_NEW",
                format!("{PATH} of {subject} has version {}, this program knows {VERSION}", head.version),
                "use a newer version of this program",
            ));
        }
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))
    }

    /// Bytes of all disks. A document may say anything of a disk, hence also more than there are numbers for.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.size).fold(0, u64::saturating_add)
    }

    /// The restore point as controllers know it.
    pub(crate) fn restore_point(&self, remote: &RemoteId, snapshot_id: &str) -> RestorePoint {
        RestorePoint {
            name: format!("restorePoints/{}.{remote}", self.task),
            remote: remote.name(),
            vm_uuid: self.vm_uuid.to_string(),
            vm_label: self.vm_label.clone(),
            pool: self.pool.clone(),
            time: Some(to_timestamp(self.time)),
            job: self.job.clone(),
            schedule: self.schedule.clone(),
            run: self.run.clone(),
            disks: self
                .disks
                .iter()
                .map(|disk| RestorePointDisk {
                    uuid: disk.uuid.to_string(),
                    device: disk.device.clone(),
                    label: disk.label.clone(),
                    size_bytes: disk.size,
                    path: disk.path.clone(),
                })
                .collect(),
            disk_bytes: self.disk_bytes(),
            added_bytes: self.added_bytes,
            snapshot_id: snapshot_id.to_owned(),
            verified_time: None,
            damage: String::new(),
        }
    }
}

impl fmt::Debug for VmDocument {
    /// Without records: they hold the secrets of the guest's firmware and TPM.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmDocument")
            .field("vm_uuid", &self.vm_uuid)
            .field("time", &self.time)
            .field("disks", &self.disks.len())
            .finish_non_exhaustive()
    }
}

/// The device of a position, as a Linux guest names it: `xvda` for 0, `xvdaa` for 26.
pub(crate) fn device_of_position(position: &str) -> String {
    let Ok(mut number) = position.parse::<u32>() else { return "disk".to_owned() };
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b'a' + u8::try_from(number % 26).unwrap_or(0)));
        if number < 26 {
            break;
        }
        number = number / 26 - 1;
    }
    format!("xvd{}", letters.iter().rev().collect::<String>())
}

/// Where the content of a disk stands in a restore point.
pub(crate) fn disk_path(device: &str, uuid: Uuid) -> String {
    format!("disks/{device}-{uuid}.raw")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    pub(crate) fn sample() -> VmDocument {
        let origin = Origin {
            site: "s".into(),
            pool: "pools/lab".into(),
            pool_uuid: Uuid::from_u128(1),
            job: "jobs/nightly".into(),
            schedule: String::new(),
            run: "runs/r".into(),
            task: Uuid::from_u128(2),
            vm_uuid: Uuid::from_u128(3),
            vm_label: "db".into(),
            time: Timestamp::from_second(1_700_000_000).unwrap(),
        };
        let Value::Object(vm) = json!({"uuid": "x", "name_label": "db", "NVRAM": {"EFI-variables": "c2VjcmV0"}}) else {
            unreachable!("an object was written")
        };
        let mut document = VmDocument::new(origin, vm);
        document.tpms.push(DocumentTpm { record: Record::new(), contents: Some("c2VjcmV0".into()) });
        document.disks.push(DocumentDisk {
            uuid: Uuid::from_u128(4),
            device: "xvda".into(),
            position: "0".into(),
            label: "system".into(),
            size: 1 << 30,
            path: disk_path("xvda", Uuid::from_u128(4)),
            vbd: Record::new(),
            vdi: Record::new(),
            reference: Some(Reference { vdi: Uuid::from_u128(5), kept: Keep::Bitmap }),
            source: "nbd".into(),
            reason: "first".into(),
        });
        document
    }

    #[test]
    fn a_document_is_read_back_as_it_was_written() {
        let document = sample();
        assert!(VmDocument::decode(&document.encode(), "x").unwrap() == document);
        let point = document.restore_point(&"nas".parse().unwrap(), "abc");
        assert_eq!(point.name, format!("restorePoints/{}.nas", Uuid::from_u128(2)));
        assert_eq!((point.disk_bytes, point.remote.as_str()), (1 << 30, "remotes/nas"));
    }

    #[test]
    fn a_document_of_the_future_and_nonsense_are_told_apart() {
        let newer = br#"{"format":"coffer-vm","version":2,"anything":1}"#;
        assert_eq!(VmDocument::decode(newer, "x").unwrap_err().reason(), "RESTORE_POINT_TOO_NEW");
        for bytes in
            [&b""[..], b"{}", b"[]", br#"{"format":"other","version":1}"#, br#"{"format":"coffer-vm","version":1}"#]
        {
            assert_eq!(VmDocument::decode(bytes, "x").unwrap_err().reason(), "RESTORE_POINT_DAMAGED");
        }
    }

    #[test]
    fn disks_that_say_they_are_larger_than_any_number_are_summed_without_a_panic() {
        let mut document = sample();
        document.disks.push(DocumentDisk { size: u64::MAX, ..document.disks[0].clone() });
        let point = document.restore_point(&"nas".parse().unwrap(), "abc");
        assert_eq!(point.disk_bytes, u64::MAX);
    }

    #[test]
    fn secrets_of_the_guest_are_not_in_debug_output() {
        assert!(!format!("{:?}", sample()).contains("c2VjcmV0"));
    }

    #[test]
    fn positions_are_named_as_guests_name_them() {
        for (position, device) in
            [("0", "xvda"), ("1", "xvdb"), ("25", "xvdz"), ("26", "xvdaa"), ("254", "xvdiu"), ("autodetect", "disk")]
        {
            assert_eq!(device_of_position(position), device);
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((".{0,8}", inner), 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn records_survive_whatever_they_hold(entries in prop::collection::vec((".{0,8}", any_value()), 0..6)) {
            let mut document = sample();
            document.vm = entries.into_iter().collect();
            prop_assert!(VmDocument::decode(&document.encode(), "x").unwrap() == document);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = VmDocument::decode(&bytes, "x");
        }
    }
}
