//! What the crate keeps to itself and parses all the same, without a pool: for the fuzz targets, and nobody else.

use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::events::Tables;
use crate::hosts::{Hosts, certificate_of};
use crate::link::{Call, Link, Repeat, Slot, Timeouts};
use crate::records::{Host, TaskRecord};
use crate::task::outcome_of;
use crate::transfer::{Pieces, redirect};
use crate::transport::{Connection, Method, RequestHead, empty_body};
use crate::wire::{Batch, Malformed, XmlValue};
use crate::{Endpoint, Error, Fingerprint, Inventory, Outcome, Ref};

/// The longest answer that is read here, bytes.
const MAX_ANSWER: usize = 1 << 20;

fn host() -> Endpoint {
    Endpoint::parse("192.0.2.1").expect("a constant that is an address")
}

/// One call over a stream to a host: HTTP, the body, JSON-RPC.
///
/// # Errors
/// As any call.
pub async fn call(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Value, Error> {
    let host = host();
    let hosts = Hosts::new(vec![host.clone()], Fingerprint::of_der(&[]), Vec::new());
    let (timeouts, ids) = (Timeouts::default(), AtomicU64::new(7));
    let link = Link { hosts: &hosts, timeouts: &timeouts, max_answer: MAX_ANSWER, ids: &ids };
    let call = Call {
        method: "VM.get_record".to_owned(),
        params: Vec::new(),
        repeat: Repeat::Safe,
        timeout: timeouts.call,
        asks_for_coordinator: true,
    };
    let slot = Slot::with(Connection::over(&host, stream).await?);
    link.exchange(&slot, &host, Some("OpaqueRef:session"), &call).await
}

/// The head of the answer to the request for a transfer, and where it sends us.
///
/// # Errors
/// As any transfer that does not begin.
pub async fn redirected(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Option<Endpoint>, Error> {
    let host = host();
    let head = RequestHead {
        method: Method::GET,
        path_and_query: "/export/",
        content_type: None,
        content_length: None,
        keep_alive: false,
        asks_for_coordinator: false,
        what: "GET /export/",
    };
    let request = head.with(&host, empty_body())?;
    let response = Connection::over(&host, stream).await?.send(request, "GET /export/").await?;
    redirect(&host, "GET /export/", &response)
}

/// What a reader gets of a download that comes in these pieces, or the status of the error in place of data.
///
/// # Errors
/// The status.
pub fn download<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, u16> {
    let (mut held, mut data) = (Pieces::new(), Vec::new());
    for piece in pieces {
        held.take(Bytes::copy_from_slice(piece)).map_err(|status| status.0)?;
        data.extend_from_slice(&held.ready());
    }
    held.end().map_err(|status| status.0)?;
    data.extend_from_slice(&held.ready());
    Ok(data)
}

/// The bitmap of changed blocks that a task returned.
///
/// # Errors
/// [`Malformed`].
pub fn bitmap(value: XmlValue) -> Result<Vec<u8>, Malformed> {
    crate::calls::bitmap_of(value)
}

/// How a task ended, from its record.
///
/// # Errors
/// [`Malformed`].
pub fn outcome(task: &TaskRecord) -> Result<Option<Outcome>, Malformed> {
    outcome_of("fuzz", task)
}

/// What a pool holds whose classes have these records.
pub fn inventory(classes: Map<String, Value>) -> Inventory {
    let mut tables = Tables::default();
    for (class, records) in classes {
        if let Value::Object(records) = records {
            tables.replace(&class, records);
        }
    }
    Inventory::of(&tables)
}

/// What a pool holds of which these events tell, and how many classes are miscounted then.
pub fn events(batch: Batch) -> (Inventory, usize) {
    let mut tables = Tables::default();
    let counts = batch.valid_ref_counts.clone();
    tables.apply(batch);
    (Inventory::of(&tables), tables.miscounted(&counts).len())
}

/// The certificate of a host in what the pool says of all certificates.
pub fn certificate(certificates: &Value, host: &Ref<Host>) -> Option<Fingerprint> {
    certificate_of(certificates, host)
}
