//! What hosts answer: HTTP, calls, events, records, results of tasks, the beginning of downloads.

use std::rc::Rc;

use coffer_extent::RangeSet;
use coffer_xapi::records::{self, Full, decode_record};
use coffer_xapi::{Endpoint, Failure, Fingerprint, NbdExport, Ref, fuzz, imported_vms, wire};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::Target;
use super::peer::Peer;

const VM: &str = r#"{"uuid":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","name_label":"web","power_state":"Running",
    "tags":["a"],
    "VBDs":["b1"],"memory_static_max":1073741824,"other_config":{"k":"v"},"snapshot_time":"19700101T00:00:00Z",
    "resident_on":"h1","affinity":"OpaqueRef:NULL","is_a_template":false,"NVRAM":{"EFI-variables":"c2VjcmV0"}}"#;
const VDI: &str = r#"{"uuid":"7c2b5b3a-4c5e-4f53-9f5e-000000000001","name_label":"system",
    "virtual_size":"10737418240","SR":"s1",
    "managed":true,"cbt_enabled":true,"snapshot_time":"20230305T18:18:29Z","snapshot_of":"OpaqueRef:NULL",
    "sm_config":{"vhd-parent":"7c2b5b3a-4c5e-4f53-9f5e-000000000001"},"other_config":{}}"#;
const VBD: &str = r#"{"uuid":"7c2b5b3a-4c5e-4f53-9f5e-000000000002","VM":"v1","VDI":"d1","device":"xvda",
    "userdevice":"0",
    "bootable":true,"mode":"RW","type":"Disk","empty":false,"currently_attached":true,"other_config":{}}"#;
const TASK: &str = r#"{"uuid":"7c2b5b3a-4c5e-4f53-9f5e-000000000003","name_label":"Async.VM.snapshot",
    "status":"success",
    "progress":1.0,"result":"<value>OpaqueRef:1</value>","error_info":["SR_FULL","1"],"created":"20230305T18:18:29Z"}"#;
const HOST: &str = r#"{"uuid":"7c2b5b3a-4c5e-4f53-9f5e-000000000004","name_label":"xcp1","address":"192.0.2.1",
    "enabled":true,
    "metrics":"m1","PBDs":["p1"],"control_domain":"v0","software_version":{"product_brand":"XCP-ng"},
    "API_version_major":"2","API_version_minor":21}"#;
const SR: &str = r#"{"uuid":"7c2b5b3a-4c5e-4f53-9f5e-000000000005","name_label":"NFS","type":"nfs",
    "content_type":"user",
    "shared":true,"physical_size":"1099511627776","physical_utilisation":-1,"VDIs":["d1"],"PBDs":["p1"]}"#;
const PBD: &str = r#"{"uuid":"7c2b5b3a-4c5e-4f53-9f5e-000000000006","SR":"s1","host":"h1","currently_attached":true,
    "device_config":{}}"#;
const VIF: &str = r#"{"uuid":"7c2b5b3a-4c5e-4f53-9f5e-000000000007","VM":"v1","network":"n1","device":"0",
    "MAC":"aa:bb:cc:dd:ee:ff","MTU":"1500"}"#;
const POOL: &str = r#"{"uuid":"7c2b5b3a-4c5e-4f53-9f5e-000000000008","name_label":"","master":"h1","default_SR":"s1",
    "other_config":{},"restrictions":{"restrict_cbt":"false"}}"#;
const NETWORK: &str = r#"{"uuid":"7c2b5b3a-4c5e-4f53-9f5e-000000000009","name_label":"eth0","bridge":"xenbr0",
    "purpose":["nbd"],"VIFs":[]}"#;
const EVENTS: &str = r#"{"events":[{"id":"1","timestamp":"0.0","class":"vm","operation":"mod","ref":"OpaqueRef:1",
    "snapshot":{"uuid":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","VBDs":[]}},{"class":"vdi","operation":"del",
    "ref":"OpaqueRef:2"}],
    "valid_ref_counts":{"vm":1},"token":"00000000000000000001,00000000000000000000"}"#;
const NBD: &str = r#"[{"exportname":"/x?session_id=OpaqueRef:1","address":"192.0.2.1","port":10809,"subject":"xcp1",
    "cert":"-----BEGIN CERTIFICATE-----\nTm9ib2R5IHBhcnNlcyB3aGF0IGlzIGhlcmUu\n-----END CERTIFICATE-----\n"}]"#;
const CERTIFICATES: &str = r#"{"c1":{"type":"host","host":"h1",
    "fingerprint_sha256":"abababababababababababababababababababababababababababababababab"}}"#;

pub(super) fn targets(runtime: &Rc<Runtime>) -> Vec<Target> {
    let pool = [
        ("pool", "o1", POOL),
        ("host", "h1", HOST),
        ("sr", "s1", SR),
        ("pbd", "p1", PBD),
        ("network", "n1", NETWORK),
        ("vm", "v1", VM),
        ("vbd", "b1", VBD),
        ("vif", "f1", VIF),
        ("vdi", "d1", VDI),
        ("task", "t1", TASK),
        ("host_metrics", "m1", r#"{"live":true}"#),
    ]
    .map(|(class, reference, record)| format!(r#""{class}":{{"{reference}":{record}}}"#));
    let pool = format!("{{{}}}", pool.join(","));
    let (calling, redirecting) = (Rc::clone(runtime), Rc::clone(runtime));
    vec![
        Target::text(
            "xapi-answer",
            &[
                r#"{"jsonrpc":"2.0","result":"OpaqueRef:1","id":7}"#,
                r#"{"jsonrpc":"2.0","error":{"code":1,"message":"SR_FULL","data":["1","2"]},"id":7}"#,
                r#"{"result":null,"error":["HANDLE_INVALID","VM","OpaqueRef:1"],"id":7}"#,
            ],
            |body| match wire::decode_answer(body.as_bytes(), Some(7)) {
                Ok(wire::Answer::Failure { code, params }) => {
                    let failure = Failure::new("VM.start", &code, params);
                    !failure.to_string().is_empty() | failure.is_retryable()
                }
                Ok(wire::Answer::Result(_)) => true,
                Err(_) => false,
            },
        ),
        Target::new(
            "xapi-http",
            vec![http("200 OK", "", r#"{"jsonrpc":"2.0","result":{"uuid":"x"},"id":7}"#), chunked()],
            move |input| calling.block_on(fuzz::call(Peer::asked(input))).is_ok(),
        )
        .and_odd(vec![http("500 Internal Error", "", "no")]),
        Target::new(
            "xapi-redirect",
            vec![
                http("302 Found", "Location: https://[2001:db8::2]:8443/export/?a=b\r\n", ""),
                http("200 OK", "", "data"),
            ],
            move |input| redirecting.block_on(fuzz::redirected(Peer::asked(input))).is_ok(),
        ),
        Target::text("download-head", &["\0conectix and more", "short"], |text| {
            let data = text.as_bytes();
            let whole = fuzz::download([data]);
            for size in [1, 5, 13, 14] {
                assert_eq!(fuzz::download(data.chunks(size)), whole, "cut by {size}");
            }
            whole.is_ok_and(|read| read == data)
        })
        .and_odd(vec![b"HTTP/1.1 500 Internal Error\r\n".to_vec()]),
        Target::json("xapi-events", &[EVENTS], |value| {
            let Ok(batch) = wire::decode_batch(value) else { return false };
            fuzz::events(batch);
            true
        }),
        Target::json("xapi-records", &[VM, VDI, VBD, TASK, HOST, SR, PBD, VIF, POOL, NETWORK], |value| {
            decoded(&value) > 0
        }),
        Target::json("xapi-pool", &[&pool], |value| match value {
            Value::Object(classes) => !fuzz::inventory(classes).vms.is_empty(),
            _ => false,
        }),
        Target::json("xapi-task", &[TASK], |value| match decode_record::<records::Task>(value) {
            Ok(task) => fuzz::outcome(&task).is_ok(),
            Err(_) => false,
        }),
        Target::text(
            "xapi-task-result",
            &[
                "<value><array><data><value>OpaqueRef:1</value></data></array></value>",
                "<value><string>a&lt;&#x41;</string></value>",
            ],
            |text| {
                let Ok(value) = wire::parse_result(text) else { return false };
                let _ = imported_vms(&value);
                true
            },
        ),
        Target::text("changed-blocks-result", &["<value>gAAAAAAAAAE=</value>"], |text| {
            let bitmap = wire::parse_result(text).and_then(fuzz::bitmap);
            bitmap.is_ok_and(|bitmap| RangeSet::from_cbt_bitmap(&bitmap, bitmap.len() as u64 * 8 * 65536, 0).is_ok())
        }),
        Target::json("xapi-nbd-info", &[NBD], |value| {
            let exports: Result<Vec<NbdExport>, _> = serde_json::from_value(value);
            exports.is_ok_and(|exports| exports.iter().all(|export| export.fingerprint().is_ok()))
        }),
        Target::json("xapi-certificates", &[CERTIFICATES], |value| {
            Ref::new("h1").is_some_and(|host| fuzz::certificate(&value, &host).is_some())
        }),
        Target::text("fingerprint", &[&format!("{}CD", "AB:".repeat(31))], |text| text.parse::<Fingerprint>().is_ok()),
        Target::text("endpoint", &["xcp1.example.org:8443", "[2001:db8::1]", "https://192.0.2.1/"], |text| {
            Endpoint::parse(text).is_ok_and(|endpoint| Endpoint::parse(&endpoint.to_string()).is_ok())
        }),
    ]
}

/// Reads a record as one of every class; how many could.
fn decoded(record: &Value) -> usize {
    fn one<C: coffer_xapi::Class>(record: &Value) -> usize {
        if let Some(reference) = Ref::<C>::new("OpaqueRef:1") {
            let _ = Full::<C>::decode(reference, record.clone());
        }
        usize::from(decode_record::<C>(record.clone()).is_ok())
    }
    one::<records::Vm>(record)
        + one::<records::GuestMetrics>(record)
        + one::<records::Vdi>(record)
        + one::<records::Vbd>(record)
        + one::<records::Vif>(record)
        + one::<records::Vtpm>(record)
        + one::<records::Network>(record)
        + one::<records::Sr>(record)
        + one::<records::Pbd>(record)
        + one::<records::Host>(record)
        + one::<records::HostMetrics>(record)
        + one::<records::Pool>(record)
        + one::<records::Task>(record)
}

fn http(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn chunked() -> Vec<u8> {
    let body = r#"{"result":1,"id":7}"#;
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes()
}
