//! VTPM calls. Contents are secrets beside the records, as on real hosts.

use crate::config::Profile;
use crate::db::Db;
use crate::rpc::Methods;
use crate::value::{Failure, Record, Value};

/// Where a VTPM's contents are kept: a `secret` record of this name.
fn secret_of(db: &Db, vtpm: &str) -> Option<String> {
    let mine =
        |record: &Record| record.get("other_config").is_some_and(|c| c.get("vtpm").is_some_and(|v| v.as_str() == vtpm));
    db.rows("secret").find(|(_, record)| mine(record)).map(|(reference, _)| reference.to_owned())
}

pub(super) fn enter(table: &mut Methods) {
    if table.profile() == Profile::V8_2 {
        return;
    }
    table.add("VTPM.create", "vm:ref(VM) is_unique:bool=false", |cx, args| async move {
        let vm = args.text(0);
        cx.world.write(|db| {
            super::gate::check_vm(db, cx.world.profile(), &vm, "create_vtpm")?;
            let restricted = db.rows("pool").next().and_then(|(_, pool)| pool.get("restrictions")).cloned();
            if restricted.and_then(|r| r.get("restrict_vtpm").map(|v| v.as_str() != "false")).unwrap_or(true) {
                return Err(Failure::new("FEATURE_RESTRICTED", &["VTPM"]));
            }
            if !db.list("VM", &vm, "VTPMs").is_empty() {
                return Err(Failure::new("VTPM_MAX_AMOUNT_REACHED", &["1"]));
            }
            Ok(Value::str(create(db, &vm, args.flag(1), "")))
        })
    });
    table.add("VTPM.destroy", "self:ref(VTPM)", |cx, args| async move {
        cx.world.write(|db| destroy(db, &args.text(0)));
        Ok(Value::Void)
    });
    table.add("VTPM.get_contents", "self:ref(VTPM)", |cx, args| async move {
        Ok(Value::str(cx.world.read(|db| contents_of(db, &args.text(0)))))
    });
    table.add("VTPM.set_contents", "self:ref(VTPM) contents:string", |cx, args| async move {
        use base64::Engine;
        let contents = args.text(1);
        if base64::engine::general_purpose::STANDARD.decode(&contents).is_err() {
            return Err(Failure::internal("Rfc7519.Invalid_base64"));
        }
        cx.world.write(|db| {
            if let Some(secret) = secret_of(db, &args.text(0)) {
                db.set("secret", &secret, "value", Value::str(contents));
            }
        });
        Ok(Value::Void)
    });
}

/// Gives a VM a VTPM with these contents.
pub(crate) fn create(db: &mut Db, vm: &str, unique: bool, contents: &str) -> String {
    let vtpm = db.create(
        "VTPM",
        Record::from([
            ("VM".to_owned(), Value::str(vm)),
            ("is_unique".to_owned(), Value::Bool(unique)),
            ("allowed_operations".to_owned(), Value::set(["destroy"])),
        ]),
    );
    let secret = Record::from([
        ("value".to_owned(), Value::str(contents)),
        ("other_config".to_owned(), Value::map([("vtpm", vtpm.as_str())])),
    ]);
    db.create("secret", secret);
    vtpm
}

/// Base64 of the TPM's state.
pub(crate) fn contents_of(db: &Db, vtpm: &str) -> String {
    secret_of(db, vtpm).map(|secret| db.text("secret", &secret, "value")).unwrap_or_default()
}

/// Removes a VTPM and its contents.
pub(super) fn destroy(db: &mut Db, vtpm: &str) {
    if let Some(secret) = secret_of(db, vtpm) {
        db.delete("secret", &secret);
    }
    db.delete("VTPM", vtpm);
}

/// Copies the VTPMs of one VM to another; unique ones come empty.
pub(super) fn copy(db: &mut Db, from: &str, to: &str) {
    for vtpm in db.list("VM", from, "VTPMs") {
        let unique = db.flag("VTPM", &vtpm, "is_unique");
        let contents = if unique { String::new() } else { contents_of(db, &vtpm) };
        create(db, to, unique, &contents);
    }
}
