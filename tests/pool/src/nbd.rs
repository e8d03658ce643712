//! A host's NBD exports: session check, dom0 VBD, counters and faults around the disks. The protocol is elsewhere.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use pool_disks::nbd::{Export, Exports, Mode};
use pool_disks::{Disk, ReadAt};

use crate::counters::OpenStream;
use crate::dom0::{self, Attached};
use crate::faults::StreamFaults;
use crate::ops::disks::vms_of;
use crate::value::{Failure, Outcome};
use crate::world::{Host, World, lock};

/// Attaching a disk for NBD.
const ATTACH: Duration = Duration::from_secs(2);

/// How a host offers NBD, by the purposes of its networks.
pub(crate) fn mode(world: &World, host: &Host) -> Mode {
    let purposes: Vec<String> = world.read(|db| {
        let networks = db.references("network");
        networks.iter().flat_map(|network| db.list("network", network, "purpose")).collect()
    });
    let has = |purpose: &str| purposes.iter().any(|p| p == purpose);
    match (has("nbd"), has("insecure_nbd")) {
        (true, false) => Mode::Tls(host.identity().server),
        (false, true) => Mode::Plain,
        _ => Mode::Refuse,
    }
}

/// What one host exports.
#[derive(Debug)]
pub(crate) struct HostExports {
    pub(crate) world: Weak<World>,
    pub(crate) host: usize,
}

#[async_trait]
impl Exports for HostExports {
    async fn open(&self, name: &str, peer: SocketAddr) -> Option<Arc<dyn Export>> {
        let world = self.world.upgrade()?;
        match open(&world, self.host, name).await {
            Ok(export) => Some(Arc::new(export)),
            Err(failure) => {
                tracing::debug!(host = self.host, %peer, name = name.split('?').next(), %failure, "no NBD export");
                None
            }
        }
    }
}

async fn open(world: &Arc<World>, host: usize, name: &str) -> Outcome<DiskExport> {
    let bad = || Failure::internal("malformed export name");
    let (path, query) = name.split_once('?').ok_or_else(bad)?;
    let uuid = path.trim_start_matches('/').to_ascii_lowercase();
    let session = query.split('&').find_map(|pair| pair.strip_prefix("session_id=")).ok_or_else(bad)?;
    world.session(session)?;
    let vdi = world.read(|db| db.by_uuid("VDI", &uuid))?;
    if world.faults.nbd_refused(&uuid) {
        return Err(Failure::internal("attaching was made to fail"));
    }
    let visible = world.read(|db| {
        let sr = db.text("VDI", &vdi, "SR");
        world.hosts.get(host).is_some_and(|h| crate::ops::power::sees(db, &h.reference, &sr))
    });
    if !visible {
        return Err(Failure::internal("this host does not see the disk's SR"));
    }
    let attached = dom0::attach(world, host, &vdi, false, ATTACH).await?;
    let disk = world.disk(&vdi)?;
    let size = disk.size()?;
    let stream = world.tally.open(world.read(|db| vms_of(db, &vdi)));
    let server = world.hosts.get(host).and_then(|h| h.nbd.get());
    world.tally.nbd_connected(&uuid, host, server.map_or(0, |s| s.connections() as u64));
    let faults = world.faults.stream("nbd", std::slice::from_ref(&uuid));
    let held = Mutex::new(Some((attached, stream)));
    Ok(DiskExport { world: Arc::clone(world), host, uuid, disk, size, faults, sent: AtomicU64::new(0), held })
}

/// One disk, on one connection.
struct DiskExport {
    world: Arc<World>,
    host: usize,
    uuid: String,
    disk: Disk,
    size: u64,
    faults: StreamFaults,
    sent: AtomicU64,
    held: Mutex<Option<(Attached, OpenStream)>>,
}

impl ReadAt for DiskExport {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> pool_disks::Result<()> {
        let length = buffer.len() as u64;
        let before = self.sent.fetch_add(length, Ordering::SeqCst);
        let broken = || pool_disks::Error::Stream { stream: "NBD", source: std::io::ErrorKind::ConnectionReset.into() };
        if self.faults.cut_after.is_some_and(|limit| before + length > limit) {
            if let Some(server) = self.world.hosts.get(self.host).and_then(|h| h.nbd.get()) {
                server.disconnect_all();
            }
            return Err(broken());
        }
        let runtime = tokio::runtime::Handle::try_current().ok();
        if let (Some((limit, cleared)), Some(runtime)) = (&self.faults.stall, &runtime)
            && before + length > *limit
        {
            runtime.block_on(async {
                tokio::select! { () = cleared.cancelled() => {}, () = self.world.stop.cancelled() => {} }
            });
        }
        if let (Some(rate), Some(runtime)) = (self.faults.bytes_per_second, &runtime) {
            #[expect(clippy::cast_precision_loss, reason = "a waiting time")]
            let wait = Duration::from_secs_f64(length as f64 / rate as f64);
            runtime.block_on(tokio::time::sleep(wait));
        }
        self.disk.read_at(offset, buffer)?;
        if let Some(at) = self.faults.corrupt_at.and_then(|at| at.checked_sub(before))
            && let Some(byte) = usize::try_from(at).ok().and_then(|at| buffer.get_mut(at))
        {
            *byte ^= 1;
        }
        self.world.tally.nbd_read(&self.uuid, length);
        Ok(())
    }
}

#[async_trait]
impl Export for DiskExport {
    fn size(&self) -> u64 {
        self.size
    }

    async fn close(&self) {
        let held = lock(&self.held).take();
        if held.is_some() {
            self.world.latency(Duration::from_secs(1)).await;
        }
        drop(held);
    }
}
