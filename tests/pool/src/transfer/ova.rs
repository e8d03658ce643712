//! `ova.xml`: the records of a VM as an XVA carries them. Pure.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::db::{Db, Type};
use crate::ops::disks::of_vm;
use crate::ops::gate::is_set;
use crate::value::{NULL, Outcome, Record, Value};
use crate::wire::xmlrpc;

/// What an archive holds: its metadata and which disks go under which names.
pub(super) struct Ova {
    pub(super) xml: String,
    /// `Ref:12` to the VDI's reference.
    pub(super) disks: BTreeMap<String, String>,
}

/// Fields of a VM that an export empties.
const EMPTIED: [&str; 14] = [
    "current_operations",
    "allowed_operations",
    "consoles",
    "crash_dumps",
    "blobs",
    "resident_on",
    "affinity",
    "snapshot_of",
    "snapshots",
    "parent",
    "children",
    "appliance",
    "suspend_SR",
    "blocked_operations",
];

/// Describes a VM for an export.
pub(super) fn describe(db: &Db, vm: &str, preserve_power_state: bool, host: &str) -> Outcome<Ova> {
    let suspended = preserve_power_state && db.text("VM", vm, "power_state") == "Suspended";
    let suspend_vdi = db.text("VM", vm, "suspend_VDI");
    let vbds = db.list("VM", vm, "VBDs");
    let mut vdis: Vec<String> = vbds.iter().map(|vbd| db.text("VBD", vbd, "VDI")).filter(|vdi| is_set(vdi)).collect();
    if suspended && is_set(&suspend_vdi) {
        vdis.push(suspend_vdi.clone());
    }
    vdis.sort();
    vdis.dedup();
    let mut srs: Vec<String> = vdis.iter().map(|vdi| db.text("VDI", vdi, "SR")).collect();
    srs.sort();
    srs.dedup();
    let vifs = db.list("VM", vm, "VIFs");
    let mut networks: Vec<String> = vifs.iter().map(|vif| db.text("VIF", vif, "network")).collect();
    networks.sort();
    networks.dedup();
    let one = |reference: String| if is_set(&reference) { vec![reference] } else { vec![] };
    let groups: [(&str, Vec<String>); 10] = [
        ("host", vec![host.to_owned()]),
        ("VM", vec![vm.to_owned()]),
        ("VM_metrics", one(db.text("VM", vm, "metrics"))),
        ("VM_guest_metrics", one(db.text("VM", vm, "guest_metrics"))),
        ("VBD", vbds),
        ("VIF", vifs),
        ("network", networks),
        ("VDI", vdis),
        ("SR", srs),
        ("VTPM", db.list("VM", vm, "VTPMs")),
    ];
    let names: BTreeMap<&str, String> = groups
        .iter()
        .flat_map(|(_, references)| references.iter().map(String::as_str))
        .enumerate()
        .map(|(n, reference)| (reference, format!("Ref:{n}")))
        .collect();
    let mut objects = Vec::new();
    for (class, references) in &groups {
        for reference in references {
            let mut record = renamed(db, class, reference, &names)?;
            strip(db, class, reference, suspended, &mut record);
            objects.push(Value::Map(BTreeMap::from([
                ("class".to_owned(), Value::str(*class)),
                ("id".to_owned(), Value::str(names.get(reference.as_str()).cloned().unwrap_or_default())),
                ("snapshot".to_owned(), Value::Map(record)),
            ])));
        }
    }
    let mut exported: Vec<String> = of_vm(db, vm).into_iter().map(|(_, vdi)| vdi).collect();
    if suspended {
        exported.push(suspend_vdi);
    }
    let disks = exported.into_iter().filter_map(|vdi| Some((names.get(vdi.as_str())?.clone(), vdi))).collect();
    let version = Value::map([
        ("hostname", db.text("host", host, "hostname").as_str()),
        ("date", "2024-01-01"),
        ("product_version", db.entry("host", host, "software_version", "product_version").unwrap_or_default().as_str()),
        ("product_brand", "XCP-ng"),
        ("build_number", "release"),
        ("xapi_major", "1"),
        ("xapi_minor", "20"),
        ("export_vsn", "2"),
    ]);
    let whole = BTreeMap::from([("version".to_owned(), version), ("objects".to_owned(), Value::Set(objects))]);
    Ok(Ova { xml: xmlrpc::value_text(&Value::Map(whole)), disks })
}

/// A record with its references renamed; those that are not exported become `NULL` or vanish from sets.
fn renamed(db: &Db, class: &str, reference: &str, names: &BTreeMap<&str, String>) -> Outcome<Record> {
    let mut record = db.record(class, reference)?.clone();
    let fields = db.schema().class(class).map(|c| c.fields.as_slice()).unwrap_or_default();
    for field in fields {
        let Some(value) = record.get_mut(&field.name) else { continue };
        match &field.kind {
            Type::Ref(_) => *value = Value::str(names.get(value.as_str()).cloned().unwrap_or_else(|| NULL.to_owned())),
            Type::Set(of) if matches!(**of, Type::Ref(_)) => {
                *value = Value::set(value.as_set().iter().filter_map(|r| names.get(r.as_str()).cloned()));
            }
            _ => {}
        }
    }
    Ok(record)
}

fn strip(db: &Db, class: &str, reference: &str, suspended: bool, record: &mut Record) {
    let mut empty = |field: &str| {
        let kind = db.schema().class(class).and_then(|c| c.field(field)).map(|f| f.kind.clone());
        if let Some(kind) = kind {
            record.insert(field.to_owned(), kind.empty());
        }
    };
    match class {
        "VM" => {
            EMPTIED.iter().for_each(|field| empty(field));
            if !suspended {
                empty("suspend_VDI");
                record.insert("power_state".to_owned(), Value::str("Halted"));
            }
            record.insert("is_a_snapshot".to_owned(), Value::Bool(false));
        }
        "host" => ["PBDs", "PIFs", "software_version", "license_params", "resident_VMs"].iter().for_each(|f| empty(f)),
        "VBD" | "VIF" => ["current_operations", "allowed_operations"].iter().for_each(|f| empty(f)),
        "VDI" => ["current_operations", "allowed_operations", "snapshot_of", "snapshots"].iter().for_each(|f| empty(f)),
        "VTPM" => {
            let contents = crate::ops::vtpm_contents(db, reference);
            record.insert("contents".to_owned(), Value::str(contents));
        }
        _ => {}
    }
}

/// The records of an archive, by class and name.
pub(super) struct Objects(Vec<(String, String, Json)>);

impl Objects {
    /// Reads `ova.xml`; the error says what is wrong.
    pub(super) fn parse(xml: &[u8]) -> Result<Self, String> {
        let whole = xmlrpc::parse_value(xml)?;
        if let Some(version) = whole["version"]["export_vsn"].as_str()
            && version.parse::<u32>().map_or(true, |v| v > 2)
        {
            return Err(format!("export_vsn {version}"));
        }
        let objects = whole["objects"].as_array().ok_or("no objects")?;
        let text =
            |object: &Json, key: &str| object[key].as_str().map(str::to_owned).ok_or(format!("an object has no {key}"));
        let parsed = objects.iter().map(|o| Ok((text(o, "class")?, text(o, "id")?, o["snapshot"].clone())));
        parsed.collect::<Result<_, String>>().map(Self)
    }

    /// The records of a class: name and fields, those that are missing or unreadable left out.
    pub(super) fn of(&self, db: &Db, class: &str) -> Vec<(String, Record)> {
        let Some(definition) = db.schema().class(class) else { return Vec::new() };
        let read = |json: &Json| {
            let fields = definition.fields.iter();
            fields.filter_map(|f| Some((f.name.clone(), f.kind.decode(json.get(&f.name)?)?))).collect()
        };
        self.0.iter().filter(|(c, _, _)| c == class).map(|(_, id, json)| (id.clone(), read(json))).collect()
    }

    /// A text of a record that is no field of the class.
    pub(super) fn text(&self, class: &str, id: &str, key: &str) -> String {
        let found = self.0.iter().find(|(c, i, _)| c == class && i == id);
        found.and_then(|(_, _, json)| json[key].as_str()).unwrap_or_default().to_owned()
    }
}
