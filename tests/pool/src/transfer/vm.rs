//! `/export` and `/export_metadata`: a VM as an XVA.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pool_disks::xva::{self, Checksum, Compression, ExportOptions, KeepAlive};
use tokio::io::AsyncWriteExt;

use super::ova::{Ova, describe};
use super::tap::Tap;
use super::{Refusal, Stream, begin, cancellable, finish, object, own_task, place, progress};
use crate::dom0;
use crate::http::{Request, Status};
use crate::ops::disks::{of_vm, original};
use crate::ops::gate::begin_vm;
use crate::rpc::Cx;
use crate::value::{Failure, Outcome, Value};

/// Attaching a disk for a stream.
const ATTACH: Duration = Duration::from_secs(1);
/// Silence after which the stream is kept alive.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

fn subject(cx: &Cx, request: &Request) -> Result<String, Refusal> {
    let missing = || Refusal::Status(Status(400), Failure::new("VM_MISSING", &[]));
    let id = request.query("ref").or(request.query("uuid")).ok_or_else(missing)?;
    Ok(cx.world.read(|db| object(db, "VM", id))?)
}

pub(super) async fn export(cx: &Cx, request: &Request, stream: &mut Stream) -> Result<io::Result<()>, Refusal> {
    let world = &cx.world;
    let vm = subject(cx, request)?;
    let compression = match request.query("use_compression") {
        Some("true" | "gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        _ => Compression::None,
    };
    let preserve = request.query("preserve_power_state") == Some("true");
    let (uuid, counted, srs) = world.read(|db| {
        let mut srs: Vec<String> = of_vm(db, &vm).iter().map(|(_, vdi)| db.text("VDI", vdi, "SR")).collect();
        srs.sort();
        srs.dedup();
        (db.uuid("VM", &vm), db.uuid("VM", &original(db, &vm)), srs)
    });
    place(cx, request, &srs)?;
    let cx = own_task(cx, "VM.export");
    let running = match begin_vm(&cx, &vm, "export").await {
        Ok(running) => running,
        Err(failure) => {
            finish(&cx, Err(failure.clone()), None);
            return Err(failure.into());
        }
    };
    let mut faults = world.faults.stream("/export", &[uuid.clone(), counted.clone()]);
    let task_fault = faults.task_fails.take();
    if let Err(error) = begin(stream, "1.0", &cx.task, "application/octet-stream", "export.xva").await {
        finish(&cx, Err(Failure::internal(&error)), None);
        return Ok(Err(error));
    }
    let aborts = faults.cut_after.is_some();
    let mut tap = Tap::new(&mut *stream, faults);
    let sent = tap.counter();
    let open = world.tally.open(vec![counted]);
    let outcome = cancellable(&cx, send(&cx, &vm, preserve, compression, &mut tap)).await;
    world.tally.vm_exported(&uuid, sent.load(Ordering::Relaxed));
    drop((open, running));
    let broken = outcome.is_err();
    finish(&cx, outcome.map(|()| Value::Void), task_fault);
    Ok(if broken && aborts { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) })
}

async fn send<W>(cx: &Cx, vm: &str, preserve: bool, compression: Compression, writer: &mut W) -> Outcome<()>
where
    W: tokio::io::AsyncWrite + Send + Unpin,
{
    let world = &cx.world;
    let Ova { xml, disks: named } = world.read(|db| describe(db, vm, preserve, &cx.here().reference))?;
    let mut disks = BTreeMap::new();
    let mut attached = Vec::new();
    for (name, vdi) in &named {
        attached.push(dom0::attach(world, cx.host, vdi, false, ATTACH).await?);
        disks.insert(name.clone(), world.disk(vdi)?);
    }
    let options = ExportOptions {
        compression,
        checksum: Checksum::Xxhash,
        keep_alive: KeepAlive::Idle(world.config.scaled(KEEP_ALIVE).max(Duration::from_millis(20))),
    };
    xva::export(xml.as_bytes(), &disks, options, writer, &progress(cx)).await?;
    writer.flush().await.map_err(|_| Failure::internal("Unix.Unix_error(Unix.EPIPE, \"write\", \"\")"))?;
    drop(attached);
    Ok(())
}

/// Only `ova.xml`, in a tar of known length.
pub(super) async fn export_metadata(
    cx: &Cx,
    request: &Request,
    stream: &mut Stream,
) -> Result<io::Result<()>, Refusal> {
    let vm = subject(cx, request)?;
    let cx = own_task(cx, "VM.metadata_export");
    let ova = cx.world.read(|db| describe(db, &vm, true, &cx.here().reference))?;
    let mut archive = Vec::new();
    let none = BTreeMap::new();
    let written = xva::export(ova.xml.as_bytes(), &none, ExportOptions::default(), &mut archive, &|_| {}).await;
    written.map_err(Failure::from)?;
    let sent = super::answer_with(stream, &cx.task, &archive).await;
    finish(&cx, Ok(Value::Void), None);
    Ok(sent)
}
