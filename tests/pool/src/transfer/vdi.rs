//! `/export_raw_vdi` and `/import_raw_vdi`: one disk as raw, VHD or tar.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pool_disks::{Disk, raw, vhd, xva};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::tap::Tap;
use super::{Refusal, Stream, accept, begin, cancellable, finish, object, own_task, place, progress};
use crate::dom0;
use crate::http::{Request, Status};
use crate::ops::disks::{create, sync_sr, vms_of};
use crate::ops::gate::check_vdi;
use crate::rpc::Cx;
use crate::value::{Failure, Outcome, Record, Value};
use crate::world::uuid_of;

/// Attaching a disk for a stream.
const ATTACH: Duration = Duration::from_secs(1);
/// A declared length beyond any disk means that the client does not know it and will cut the connection.
const UNKNOWN_LENGTH: u64 = 1 << 49;
/// Largest VHD, 2040 GiB.
const MAX_VHD: i64 = 2040 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Raw,
    Vhd,
    Tar,
}

impl Format {
    fn of(request: &Request) -> Result<Self, Refusal> {
        match request.query("format").unwrap_or("raw") {
            "raw" => Ok(Self::Raw),
            "vhd" => Ok(Self::Vhd),
            "tar" => Ok(Self::Tar),
            other => Err(Refusal::Status(Status(404), Failure::internal(format!("Unknown format {other}")))),
        }
    }

    /// Name, content type, suffix.
    fn facts(self) -> (&'static str, &'static str) {
        match self {
            Self::Raw => ("raw", "application/octet-stream"),
            Self::Vhd => ("vhd", "application/vhd"),
            Self::Tar => ("tar", "application/x-tar"),
        }
    }
}

pub(super) async fn export(cx: &Cx, request: &Request, stream: &mut Stream) -> Result<io::Result<()>, Refusal> {
    let world = &cx.world;
    let format = Format::of(request)?;
    let missing = || Refusal::Status(Status(400), Failure::new("VDI_MISSING", &[]));
    let id = request.query("vdi").ok_or_else(missing)?;
    let (vdi, sr, uuid) = world.read(|db| {
        let vdi = object(db, "VDI", id)?;
        Ok::<_, Failure>((vdi.clone(), db.text("VDI", &vdi, "SR"), db.uuid("VDI", &vdi)))
    })?;
    let base = match request.query("base").filter(|base| !base.is_empty()) {
        None => None,
        Some(base) => {
            let base = world.read(|db| object(db, "VDI", base).map(|r| db.uuid("VDI", &r)))?;
            Some(uuid_of(&base)?)
        }
    };
    place(cx, request, std::slice::from_ref(&sr))?;
    let cx = own_task(cx, "VDI.export_raw");
    let (suffix, kind) = format.facts();
    let mut faults = world.faults.stream("/export_raw_vdi", std::slice::from_ref(&uuid));
    let task_fault = faults.task_fails.take();
    if let Err(error) = begin(stream, "1.1", &cx.task, kind, &format!("{uuid}.{suffix}")).await {
        finish(&cx, Err(Failure::internal(&error)), None);
        return Ok(Err(error));
    }
    let aborts = faults.cut_after.is_some();
    let mut tap = Tap::new(&mut *stream, faults);
    let sent = tap.counter();
    let open = world.tally.open(world.read(|db| vms_of(db, &vdi)));
    let outcome = cancellable(&cx, send(&cx, &vdi, format, base, &mut tap)).await;
    world.tally.vdi_exported(&uuid, suffix, sent.load(Ordering::Relaxed));
    drop(open);
    let broken = outcome.is_err();
    finish(&cx, outcome.map(|()| Value::Void), task_fault);
    Ok(if broken && aborts { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) })
}

async fn send<W>(cx: &Cx, vdi: &str, format: Format, base: Option<Uuid>, writer: &mut W) -> Outcome<()>
where
    W: tokio::io::AsyncWrite + Send + Unpin,
{
    let size = cx.world.read(|db| db.int("VDI", vdi, "virtual_size"));
    if format == Format::Vhd && size > MAX_VHD {
        return Err(Failure::new("VDI_TOO_LARGE", &[vdi, &MAX_VHD.to_string()]));
    }
    let attached = dom0::attach(&cx.world, cx.host, vdi, false, ATTACH).await?;
    let disk = cx.world.disk(vdi)?;
    let report = progress(cx);
    match format {
        Format::Raw => raw::export(&disk, base, writer, &report).await.map(drop)?,
        Format::Vhd => vhd::export(&disk, base, writer, &report).await.map(drop)?,
        Format::Tar => xva::export_vdi_tar(&disk, writer, &report).await.map(drop)?,
    }
    writer.flush().await.map_err(|_| Failure::new("VDI_IO_ERROR", &["Device I/O errors"]))?;
    drop(attached);
    Ok(())
}

pub(super) async fn import(
    cx: &Cx,
    request: &Request,
    stream: &mut Stream,
    probe: bool,
) -> Result<io::Result<()>, Refusal> {
    let world = &cx.world;
    let format = Format::of(request)?;
    if request.header("transfer-encoding").is_some() {
        return Err(Refusal::Status(Status(404), Failure::internal("Transfer-Encoding is not supported")));
    }
    let bad = || Refusal::Status(Status(400), Failure::new("VDI_MISSING", &[]));
    let length = request.content_length().map_err(|_| bad())?;
    let existing = match request.query("vdi") {
        Some(id) => Some(world.read(|db| object(db, "VDI", id))?),
        None => None,
    };
    let sr = match (&existing, request.query("sr_id").or(request.query("sr_uuid"))) {
        (Some(vdi), _) => world.read(|db| db.text("VDI", vdi, "SR")),
        (None, Some(id)) if format == Format::Raw => world.read(|db| object(db, "SR", id))?,
        _ => return Err(bad()),
    };
    place(cx, request, std::slice::from_ref(&sr))?;
    if probe {
        return Ok(super::answer(stream, Status(200), &[]).await);
    }
    if existing.is_none() && length.is_none() {
        return Err(bad());
    }
    let cx = own_task(cx, "VDI.import_raw");
    let subject = existing.as_ref().map(|vdi| world.read(|db| db.uuid("VDI", vdi))).unwrap_or_default();
    let mut faults = world.faults.stream("/import_raw_vdi", std::slice::from_ref(&subject));
    let task_fault = faults.task_fails.take();
    if let Err(error) = accept(stream, &cx.task).await {
        finish(&cx, Err(Failure::internal(&error)), None);
        return Ok(Err(error));
    }
    let known = length.filter(|length| *length < UNKNOWN_LENGTH);
    let aborts = faults.cut_after.is_some();
    let mut tap = Tap::new((&mut *stream).take(length.unwrap_or(u64::MAX)), faults);
    let received = tap.counter();
    let chunked = request.query("chunked").is_some_and(|c| c == "true" || c == "1" || c.is_empty());
    let mut target = existing.clone();
    let outcome = cancellable(&cx, async {
        if target.is_none() {
            let record = Record::from([
                ("SR".to_owned(), Value::str(sr.clone())),
                ("name_label".to_owned(), Value::str("Imported VDI")),
                ("virtual_size".to_owned(), Value::bytes(known.unwrap_or(0))),
            ]);
            target = Some(create(&cx, record).await?);
        }
        receive(&cx, target.as_deref().unwrap_or_default(), format, chunked, known, &mut tap).await
    })
    .await;
    let vdi = target.unwrap_or_default();
    let uuid = world.read(|db| db.uuid("VDI", &vdi));
    world.tally.vdi_imported(&uuid, format.facts().0, received.load(Ordering::Relaxed));
    sync_sr(world, &sr);
    let broken = outcome.is_err();
    finish(&cx, outcome.map(|()| Value::str(vdi)), task_fault);
    Ok(if broken && aborts { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) })
}

async fn receive<R>(
    cx: &Cx,
    vdi: &str,
    format: Format,
    chunked: bool,
    length: Option<u64>,
    reader: &mut R,
) -> Outcome<()>
where
    R: tokio::io::AsyncRead + Send + Unpin,
{
    let world = &cx.world;
    world.read(|db| {
        check_vdi(db, world.profile(), vdi, "import")?;
        if db.flag("VDI", vdi, "read_only") || db.flag("VDI", vdi, "is_a_snapshot") {
            return Err(Failure::new("VDI_READONLY", &[vdi]));
        }
        Ok(())
    })?;
    let sr = world.read(|db| db.text("VDI", vdi, "SR"));
    world.needs_room(&sr)?;
    let open = world.tally.open(world.read(|db| vms_of(db, vdi)));
    let attached = dom0::attach(world, cx.host, vdi, true, ATTACH).await?;
    let disk: Disk = world.disk(vdi)?;
    let report = progress(cx);
    match format {
        Format::Raw if chunked => drop(raw::import_chunked(reader, &disk).await?),
        Format::Raw => drop(raw::import(reader, length, &disk, &report).await?),
        Format::Vhd => vhd::import(reader, length, &disk, &report).await?,
        Format::Tar => xva::import_vdi_tar(reader, &disk, &report).await.map(drop)?,
    }
    drop((attached, open));
    Ok(())
}
