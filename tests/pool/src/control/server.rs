//! The control interface's server: one request per connection, `POST /v1/<name>`.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::api::*;
use crate::content;
use crate::http::{Status, read_body, read_head, respond};
use crate::ops::{disks, post_message, snapshot, sr, vbd};
use crate::rpc::Cx;
use crate::running::Running;
use crate::value::{Failure, Outcome, Value};
use crate::world::{World, blocking};
use crate::{gc, guest, setup};

/// Largest request: a guest's write with its bytes in it.
const MAX_BODY: u64 = 256 << 20;

/// Serves until the pool stops.
pub(crate) async fn serve(pool: Weak<Running>, stop: CancellationToken, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match (accepted, pool.upgrade()) {
            (Ok((stream, _)), Some(pool)) => {
                tokio::spawn(async move {
                    if let Err(error) = connection(&pool, stream).await {
                        tracing::debug!(%error, "a control connection broke");
                    }
                });
            }
            (Err(error), Some(_)) => {
                tracing::warn!(%error, "accepting a control connection failed");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            (_, None) => return,
        }
    }
}

async fn connection(pool: &Arc<Running>, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let text = [("content-type", "text/plain"), ("connection", "close")];
    let request = match read_head(&mut stream).await? {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        Err(status) => return respond(&mut stream, status, &text, b"").await,
    };
    let body = if request.method == "GET" {
        b"null".to_vec()
    } else {
        match read_body(&mut stream, &request, MAX_BODY).await? {
            Ok(body) => body,
            Err(status) => return respond(&mut stream, status, &text, b"").await,
        }
    };
    let path = request.path.strip_prefix("/v1/").unwrap_or_default().trim_end_matches('/').to_owned();
    match carry_out(pool, &path, &body).await {
        Ok(answer) => {
            pool.world.durable().await;
            let json = [("content-type", "application/json"), ("connection", "close")];
            respond(&mut stream, Status(200), &json, answer.to_string().as_bytes()).await?;
        }
        Err(message) => respond(&mut stream, Status(400), &text, message.as_bytes()).await?,
    }
    stream.shutdown().await
}

fn read<Q: DeserializeOwned>(body: &[u8]) -> Result<Q, String> {
    serde_json::from_slice(body).map_err(|e| format!("the request is not what this call takes: {e}"))
}

fn show<A: Serialize>(answer: Outcome<A>) -> Result<Json, String> {
    let answer = answer.map_err(|failure| failure.to_string())?;
    serde_json::to_value(answer).map_err(|e| e.to_string())
}

async fn carry_out(pool: &Arc<Running>, path: &str, body: &[u8]) -> Result<Json, String> {
    let world = &pool.world;
    match path {
        "pool" => show(Ok(pool.info())),
        "sr/create" => show(create_sr(world, &read(body)?).await),
        "sr/info" => show(sr_info(world, &read::<Subject>(body)?.id)),
        "sr/collect" => show(collect(world, &read::<Subject>(body)?.id).await),
        "vm/create" => show(setup::make_vm(world, &read(body)?).await),
        "vm/info" => show(find(world, "VM", &read::<Subject>(body)?.id).map(|vm| setup::describe(world, &vm))),
        "vm/delete" => show(delete_vm(world, &read::<Subject>(body)?.id).await),
        "vm/disk/add" => {
            let request: AddDisk = read(body)?;
            show(add_disk(world, &request).await)
        }
        "vm/disk/remove" => show(remove_disk(world, &read::<Subject>(body)?.id).await),
        "vm/guest" => {
            let request: SetGuest = read(body)?;
            let vm = find(world, "VM", &request.vm).map_err(|f| f.to_string())?;
            guest::set_behaviour(world, &vm, request.guest).await;
            show(Ok(()))
        }
        "vm/xenstore" => show(guest_xenstore(world, &read(body)?)),
        "disk/write" => show(write(world, read(body)?).await),
        "disk/digest" => show(digest(world, &read::<Subject>(body)?.id).await),
        "disk/copy" => show(copy(world, &read(body)?).await),
        "disk/resize" => show(resize(world, &read(body)?).await),
        "disk/break-cbt" => show(break_cbt(world, &read::<Subject>(body)?.id).await),
        "counters" => show(Ok(world.tally.show())),
        "counters/reset" => {
            world.tally.reset();
            show(Ok(()))
        }
        "objects" => show(Ok(world.read(|db| {
            let counted = db.tables().map(|(class, table)| (class.to_owned(), table.rows.len()));
            counted.collect::<std::collections::BTreeMap<_, _>>()
        }))),
        "records" => show(records(world, &read::<RecordsOf>(body)?.class)),
        "fault/set" => show(Ok(FaultId { id: world.faults.arm(read(body)?) })),
        "fault/clear" => show(clear_fault(world, read::<FaultId>(body)?.id)),
        "fault/list" => show(Ok(world.faults.list())),
        "host/stop" => show(pool.take_down(read::<HostNumber>(body)?.host, true)),
        "host/start" => show(pool.bring_up(read::<HostNumber>(body)?.host).await),
        "host/toolstack-restart" => {
            let host = read::<HostNumber>(body)?.host;
            show(match pool.take_down(host, false) {
                Ok(()) => pool.bring_up(host).await,
                Err(failure) => Err(failure),
            })
        }
        "host/certificate" => {
            let (pool, host) = (Arc::clone(pool), read::<HostNumber>(body)?.host);
            show(blocking(move || pool.renew_certificate(host)).await)
        }
        "pool/coordinator" => show(set_coordinator(world, read::<HostNumber>(body)?.host)),
        "sessions/expire" => {
            world.forget_sessions();
            show(Ok(()))
        }
        "nbd/drop" => show(drop_nbd(world, read::<HostNumber>(body)?.host)),
        _ => Err(format!("there is no call {path}")),
    }
}

/// The object of this UUID, reference or name.
fn find(world: &World, class: &str, id: &str) -> Outcome<String> {
    world.read(|db| {
        if db.exists(class, id) {
            return Ok(id.to_owned());
        }
        if let Ok(found) = db.by_uuid(class, id) {
            return Ok(found);
        }
        let mut named = db.rows(class).filter(|(_, r)| r.get("name_label").is_some_and(|n| n.as_str() == id));
        match (named.next(), named.next()) {
            (Some((found, _)), None) => Ok(found.to_owned()),
            (Some(_), Some(_)) => Err(Failure::internal(format!("several objects of class {class} are named {id}"))),
            (None, _) => Err(Failure::internal(format!("there is no {class} {id}"))),
        }
    })
}

fn cx(world: &Arc<World>) -> Cx {
    Cx::new(world, world.coordinator().number, "")
}

async fn create_sr(world: &Arc<World>, spec: &SrSpec) -> Outcome<ObjectId> {
    let reference = setup::make_sr(world, spec).await?;
    Ok(ObjectId { uuid: world.read(|db| db.uuid("SR", &reference)), reference })
}

fn sr_info(world: &World, id: &str) -> Outcome<SrInfo> {
    let sr = sr::find(world, id)?;
    disks::sync_sr(world, &sr);
    let store = world.store(&sr)?;
    let usage = store.usage();
    let nodes = store.nodes().into_iter().map(|node| SrNode {
        uuid: node.id.to_string(),
        parent: node.parent.map(|p| p.to_string()),
        hidden: node.hidden,
        size: node.size,
        physical: node.physical,
        cbt: node.cbt,
    });
    Ok(SrInfo { nodes: nodes.collect(), used: usage.physical_utilisation, size: usage.physical_size })
}

async fn collect(world: &Arc<World>, id: &str) -> Outcome<()> {
    let sr = sr::find(world, id)?;
    gc::collect(world, &sr, false).await?;
    disks::sync_sr(world, &sr);
    Ok(())
}

async fn delete_vm(world: &Arc<World>, id: &str) -> Outcome<()> {
    let vm = find(world, "VM", id)?;
    snapshot::destroy_with_disks(&cx(world), &vm).await
}

async fn add_disk(world: &Arc<World>, request: &AddDisk) -> Outcome<DiskInfo> {
    let vm = find(world, "VM", &request.vm)?;
    setup::add_disk(world, &vm, &request.disk).await
}

async fn remove_disk(world: &Arc<World>, id: &str) -> Outcome<()> {
    let vdi = find(world, "VDI", id)?;
    for each in world.read(|db| db.list("VDI", &vdi, "VBDs")) {
        match vbd::detach(world, &each).await {
            Err(failure) if failure.code != "DEVICE_ALREADY_DETACHED" => return Err(failure),
            _ => {}
        }
    }
    disks::destroy(&cx(world), &vdi).await
}

fn guest_xenstore(world: &World, request: &GuestXenstore) -> Outcome<()> {
    let vm = find(world, "VM", &request.vm)?;
    if !request.key.starts_with("vm-data/") {
        return Err(Failure::internal(format!("{} is not below vm-data/", request.key)));
    }
    if world.read(|db| db.text("VM", &vm, "power_state")) != "Running" {
        return Err(Failure::internal("the VM does not run"));
    }
    world.write(|db| db.put("VM", &vm, "xenstore_data", &request.key, request.value.as_str()));
    Ok(())
}

async fn write(world: &Arc<World>, request: DiskWrite) -> Outcome<Written> {
    let vdi = find(world, "VDI", &request.vdi)?;
    let disk = world.disk(&vdi)?;
    let written = blocking(move || content::write(&disk, &request.write)).await?;
    disks::sync_sr(world, &world.read(|db| db.text("VDI", &vdi, "SR")));
    Ok(written)
}

async fn digest(world: &Arc<World>, id: &str) -> Outcome<Digest> {
    let disk = world.disk(&find(world, "VDI", id)?)?;
    blocking(move || content::digest(&disk)).await
}

async fn copy(world: &Arc<World>, request: &DiskCopy) -> Outcome<Digest> {
    let disk = world.disk(&find(world, "VDI", &request.vdi)?)?;
    let path = PathBuf::from(&request.path);
    blocking(move || content::copy_to(&disk, &path)).await
}

async fn resize(world: &Arc<World>, request: &DiskResize) -> Outcome<()> {
    let vdi = find(world, "VDI", &request.vdi)?;
    let (disk, size) = (world.disk(&vdi)?, request.size);
    let sr = world.read(|db| db.text("VDI", &vdi, "SR"));
    // A disk can only be cut when nothing shares its blocks.
    gc::collect(world, &sr, false).await?;
    blocking(move || {
        let (store, id) = (disk.store(), disk.id());
        if size < disk.size()? {
            store.shrink(id, size)?
        } else {
            store.resize(id, size)?
        };
        Ok(())
    })
    .await?;
    disks::sync_sr(world, &sr);
    Ok(())
}

async fn break_cbt(world: &Arc<World>, id: &str) -> Outcome<()> {
    let vdi = find(world, "VDI", id)?;
    let disk = world.disk(&vdi)?;
    let was_on = blocking(move || Ok(disk.store().break_cbt(disk.id())?)).await?;
    if was_on {
        let uuid = world.read(|db| db.uuid("VDI", &vdi));
        disks::sync_sr(world, &world.read(|db| db.text("VDI", &vdi, "SR")));
        let body = "Changed block tracking was disabled: its log is inconsistent.";
        post_message(world, "VDI_CBT_METADATA_INCONSISTENT", 3, "VDI", &uuid, body);
    }
    Ok(())
}

fn records(world: &World, class: &str) -> Outcome<std::collections::BTreeMap<String, Json>> {
    world.read(|db| {
        db.schema().class(class).ok_or_else(|| Failure::internal(format!("there is no class {class}")))?;
        Ok(db.rows(class).map(|(r, record)| (r.to_owned(), Value::Map(record.clone()).to_json())).collect())
    })
}

fn clear_fault(world: &World, id: u64) -> Outcome<()> {
    if world.faults.clear(id) { Ok(()) } else { Err(Failure::internal(format!("there is no fault {id}"))) }
}

fn set_coordinator(world: &World, number: usize) -> Outcome<()> {
    let host = world.hosts.get(number).ok_or_else(|| Failure::internal(format!("there is no host number {number}")))?;
    let pool = world.pool();
    world.write(|db| db.set("pool", &pool, "master", Value::str(host.reference.clone())));
    Ok(())
}

fn drop_nbd(world: &World, number: usize) -> Outcome<()> {
    let host = world.hosts.get(number).ok_or_else(|| Failure::internal(format!("there is no host number {number}")))?;
    if let Some(server) = host.nbd.get() {
        server.disconnect_all();
    }
    Ok(())
}
