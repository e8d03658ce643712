//! A pool's life: start, hosts going down and coming back, stop.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use pool_disks::nbd::{MAX_CONNECTIONS, NbdServer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::control::{HostInfo, PoolInfo, SrKind, SrSpec};
use crate::db::{Db, Schema};
use crate::error::Error;
use crate::http;
use crate::ops::power;
use crate::rpc::Methods;
use crate::saved::{self, Saved};
use crate::setup;
use crate::tls::Identity;
use crate::value::{Failure, Outcome, Value};
use crate::world::{Host, World, lock};

/// A pool that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) world: Arc<World>,
    pub(crate) methods: Arc<Methods>,
    pub(crate) control_port: u16,
    /// Goes with the pool when nobody named a folder.
    _temporary: Option<tempfile::TempDir>,
}

impl Running {
    /// Starts a pool, new or continued.
    pub(crate) async fn start(mut config: Config) -> Result<Arc<Self>, Error> {
        if !(1..=250).contains(&config.hosts) {
            return Err(Error::Configuration(format!("{} hosts; 1 to 250 are possible", config.hosts)));
        }
        let temporary = match &config.state {
            Some(_) => None,
            None => Some(tempfile::tempdir().map_err(|e| Error::state("making", &std::env::temp_dir(), e))?),
        };
        let named = config.state.clone().or_else(|| temporary.as_ref().map(|t| t.path().to_owned()));
        let folder: PathBuf = named.unwrap_or_else(std::env::temp_dir);
        std::fs::create_dir_all(&folder).map_err(|e| Error::state("making", &folder, e))?;
        let saved = saved::load(&folder)?;
        if let Some(saved) = &saved {
            config.profile = saved.profile;
            config.hosts = saved.hosts.len();
            config.port = if config.port == 0 { saved.port } else { config.port };
            config.control_port = if config.control_port == 0 { saved.control_port } else { config.control_port };
        }
        let schema = Schema::new(config.profile);
        let (db, references) = match &saved {
            Some(saved) => (Db::from_json(schema, &saved.database), saved.hosts.clone()),
            None => {
                let mut db = Db::new(schema);
                let references = setup::new_pool(&mut db, &config);
                (db, references)
            }
        };
        let hosts = references
            .into_iter()
            .enumerate()
            .map(|(number, reference)| new_host(&folder, number, reference))
            .collect::<Result<Vec<_>, _>>()?;
        let methods = Arc::new(crate::ops::methods(config.profile));
        let world = Arc::new(World::new(config, folder, hosts, db));
        let listeners = world.open(saved.as_ref()).await?;
        let control = listen_anywhere("127.0.0.1", world.config.control_port).await?;
        let control_port = port_of(&control);
        for (host, (https, nbd)) in listeners.into_iter().enumerate() {
            host_up(&world, &methods, host, https, nbd);
        }
        match saved {
            Some(saved) => {
                lock(&world.guests).extend(saved.guests);
                world.forget_tasks(None);
                saved::open_stores(&world)?;
            }
            None => world.furnish().await?,
        }
        for host in &world.hosts {
            world.write(|db| setup::certificate_record(db, &host.reference, &host.identity().fingerprint));
        }
        let running = Arc::new(Self { world: Arc::clone(&world), methods, control_port, _temporary: temporary });
        saved::save(&world, control_port)?;
        tokio::spawn(crate::gc::run(Arc::clone(&world)));
        tokio::spawn(saved::keep(Arc::clone(&world), control_port));
        tokio::spawn(crate::control::serve(Arc::downgrade(&running), world.stop.clone(), control));
        Ok(running)
    }

    /// Addresses, ports, fingerprints as they are now.
    pub(crate) fn info(&self) -> PoolInfo {
        let world = &self.world;
        let coordinator = world.coordinator();
        PoolInfo {
            url: format!("https://{}:{}", coordinator.address, coordinator.port()),
            uuid: world.read(|db| db.uuid("pool", &db.references("pool").pop().unwrap_or_default())),
            user: world.config.user.clone(),
            password: world.config.password.clone(),
            fingerprint: coordinator.identity().fingerprint,
            control: format!("http://127.0.0.1:{}", self.control_port),
            hosts: world.hosts.iter().map(|host| self.host_info(host)).collect(),
        }
    }

    /// One host as it is now.
    pub(crate) fn host_info(&self, host: &Host) -> HostInfo {
        let identity = host.identity();
        let (name, uuid) =
            self.world.read(|db| (db.text("host", &host.reference, "name_label"), db.uuid("host", &host.reference)));
        HostInfo {
            name,
            uuid,
            reference: host.reference.clone(),
            address: host.address.clone(),
            port: host.port(),
            nbd_port: host.nbd_port(),
            fingerprint: identity.fingerprint,
            certificate_pem: identity.pem,
            coordinator: self.world.coordinator().number == host.number,
            up: host.is_up(),
        }
    }

    /// A host's listeners close and every connection is reset; its pending tasks are gone, and with the coordinator
    /// all sessions and tasks. `vms`: the whole host is lost, its VMs halt.
    pub(crate) fn take_down(&self, number: usize, vms: bool) -> Outcome<()> {
        let world = &self.world;
        let host =
            world.hosts.get(number).ok_or_else(|| Failure::internal(format!("there is no host number {number}")))?;
        host.up.store(false, Ordering::SeqCst);
        host.life().cancel();
        if let Some(nbd) = host.nbd.get() {
            nbd.disconnect_all();
        }
        let coordinator = world.coordinator().number == number;
        if coordinator {
            world.forget_sessions();
        }
        world.forget_tasks((!coordinator).then_some(host.reference.as_str()));
        if vms {
            power::host_lost(world, &host.reference);
        }
        world.write(|db| {
            let metrics = db.text("host", &host.reference, "metrics");
            db.set("host_metrics", &metrics, "live", Value::Bool(false));
        });
        Ok(())
    }

    /// Opens the listeners of a host that is down.
    pub(crate) async fn bring_up(&self, number: usize) -> Outcome<()> {
        let world = &self.world;
        let host =
            world.hosts.get(number).ok_or_else(|| Failure::internal(format!("there is no host number {number}")))?;
        if host.is_up() {
            return Ok(());
        }
        let listening: Vec<_> = lock(&host.listening).drain(..).collect();
        futures::future::join_all(listening).await;
        let https = http::listen(&host.address, host.port()).await.map_err(Failure::internal)?;
        let nbd = http::listen(&host.address, host.nbd_port()).await.map_err(Failure::internal)?;
        *lock(&host.alive) = CancellationToken::new();
        host_up(world, &self.methods, number, https, nbd);
        world.write(|db| {
            let metrics = db.text("host", &host.reference, "metrics");
            db.set("host_metrics", &metrics, "live", Value::Bool(true));
        });
        Ok(())
    }

    /// Installs a new certificate; connections that are open keep the old one.
    pub(crate) fn renew_certificate(&self, number: usize) -> Outcome<HostInfo> {
        let world = &self.world;
        let host =
            world.hosts.get(number).ok_or_else(|| Failure::internal(format!("there is no host number {number}")))?;
        let made = Identity::make(&world.folder, number, &host.address).map_err(Failure::internal)?;
        world.write(|db| setup::certificate_record(db, &host.reference, &made.fingerprint));
        *host.identity.write().unwrap_or_else(PoisonError::into_inner) = made;
        if let Some(nbd) = host.nbd.get() {
            nbd.set_mode(crate::nbd::mode(world, host));
        }
        Ok(self.host_info(host))
    }

    /// Stops everything and saves the state.
    pub(crate) async fn stop(&self) {
        self.world.stop.cancel();
        let (world, port) = (Arc::clone(&self.world), self.control_port);
        match tokio::task::spawn_blocking(move || saved::save(&world, port)).await {
            Ok(Err(error)) => tracing::error!(error = &error as &dyn std::error::Error, "the state could not be saved"),
            Ok(Ok(())) => {}
            Err(error) => tracing::error!(%error, "the state could not be saved"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.world.stop.cancel();
    }
}

fn new_host(folder: &std::path::Path, number: usize, reference: String) -> Result<Host, Error> {
    let address = setup::address(number);
    Ok(Host {
        number,
        reference,
        identity: RwLock::new(Identity::load_or_make(folder, number, &address)?),
        address,
        port: AtomicU16::new(0),
        nbd_port: AtomicU16::new(0),
        up: AtomicBool::new(false),
        nbd: OnceLock::new(),
        listening: Mutex::default(),
        alive: Mutex::new(CancellationToken::new()),
    })
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().map_or(0, |address| address.port())
}

/// Tries for one port that is free on all addresses.
const ATTEMPTS: usize = 50;

/// A port that the system gives to nobody of itself, so that it is still free when a pool comes back to it.
fn lasting_port() -> u16 {
    rand::random_range(17_000..32_000)
}

/// Opens a listener on this port; on a free lasting one when it is 0.
async fn listen_anywhere(address: &str, port: u16) -> Result<TcpListener, Error> {
    for _ in 0..ATTEMPTS {
        if port == 0
            && let Ok(listener) = http::listen(address, lasting_port()).await
        {
            return Ok(listener);
        }
    }
    http::listen(address, port).await
}

impl World {
    /// Opens HTTPS (one port for all hosts) and NBD listeners.
    async fn open(&self, saved: Option<&Saved>) -> Result<Vec<(TcpListener, TcpListener)>, Error> {
        let mut attempt = 0;
        let https = loop {
            match self.open_https().await {
                Ok(listeners) => break listeners,
                Err(error) if self.config.port != 0 || attempt == ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
        };
        let mut all = Vec::new();
        for (host, https) in self.hosts.iter().zip(https) {
            host.port.store(port_of(&https), Ordering::SeqCst);
            let wanted = saved.and_then(|s| s.nbd_ports.get(host.number)).copied().unwrap_or(0);
            let nbd = match listen_anywhere(&host.address, wanted).await {
                Ok(listener) => listener,
                Err(_) => listen_anywhere(&host.address, 0).await?,
            };
            host.nbd_port.store(port_of(&nbd), Ordering::SeqCst);
            all.push((https, nbd));
        }
        Ok(all)
    }

    async fn open_https(&self) -> Result<Vec<TcpListener>, Error> {
        let mut listeners: Vec<TcpListener> = Vec::new();
        let port = if self.config.port == 0 { lasting_port() } else { self.config.port };
        for host in &self.hosts {
            listeners.push(http::listen(&host.address, port).await?);
        }
        Ok(listeners)
    }

    /// SRs and VMs of a new pool.
    async fn furnish(self: &Arc<Self>) -> Result<(), Error> {
        let failed =
            |subject: &str, failure: Failure| Error::Setup { subject: subject.to_owned(), detail: failure.to_string() };
        let mut srs = Vec::new();
        if self.config.default_srs {
            for host in 0..self.hosts.len() {
                let name = format!("Local storage {}", host + 1);
                srs.push(SrSpec { name, kind: SrKind::Ext, size: 0, host });
            }
            srs.push(SrSpec { name: "Shared NFS".to_owned(), kind: SrKind::Nfs, size: 0, host: 0 });
        }
        srs.extend(self.config.sr.iter().cloned());
        for spec in &srs {
            setup::make_sr(self, spec).await.map_err(|failure| failed(&spec.name, failure))?;
        }
        for spec in &self.config.vm {
            setup::make_vm(self, spec).await.map_err(|failure| failed(&spec.name, failure))?;
        }
        Ok(())
    }
}

fn host_up(world: &Arc<World>, methods: &Arc<Methods>, number: usize, https: TcpListener, nbd: TcpListener) {
    let Some(host) = world.hosts.get(number) else { return };
    let server = host.nbd.get_or_init(|| {
        let exports = Arc::new(crate::nbd::HostExports { world: Arc::downgrade(world), host: number });
        NbdServer::new(crate::nbd::mode(world, host), MAX_CONNECTIONS, exports)
    });
    server.set_mode(crate::nbd::mode(world, host));
    host.up.store(true, Ordering::SeqCst);
    let serving = tokio::spawn(http::serve(Arc::clone(world), Arc::clone(methods), number, https));
    let (server, life, stop) = (server.clone(), host.life(), world.stop.clone());
    let exporting = tokio::spawn(async move {
        let shutdown = CancellationToken::new();
        let serving = server.serve(nbd, shutdown.clone());
        tokio::pin!(serving);
        tokio::select! {
            () = &mut serving => return,
            () = life.cancelled() => {}
            () = stop.cancelled() => {}
        }
        shutdown.cancel();
        serving.await;
    });
    lock(&host.listening).extend([serving, exporting]);
}
