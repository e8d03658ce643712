//! Puts a controller together and takes it apart again.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coffer_core::record::SiteRecord;
use coffer_core::{Change, Entry, Key};
use coffer_proto::v1;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::pb::health_server::{Health, HealthServer};
use v1::agent_service_server::AgentServiceServer;
use v1::job_service_server::JobServiceServer;
use v1::pool_service_server::PoolServiceServer;
use v1::remote_service_server::RemoteServiceServer;
use v1::restore_point_service_server::RestorePointServiceServer;
use v1::restore_service_server::RestoreServiceServer;
use v1::run_service_server::RunServiceServer;
use v1::work_service_server::WorkServiceServer;

use crate::auth::Token;
use crate::fault::Fault;
use crate::order::InOrder;
use crate::plane::Plane;
use crate::service::{
    agents::Agents, jobs::Jobs, points::Points, pools::Pools, remotes::Remotes, restores::Restores, runs::Runs,
    work::Work,
};
use crate::{Error, ServeOptions, Timings, duty, ready, secret};

/// Name of the file in the state folder with the token that clients show as `authorization: Bearer …`; mode 0600.
pub const API_TOKEN_FILE: &str = "api-token";
/// Name of the file in the state folder with the address that is listened on; only there while it is.
pub const ADDRESS_FILE: &str = "address";

/// Name of the file in the state folder with the keys that seal passwords; mode 0600.
pub const SEALING_KEY_FILE: &str = "sealing-key";

/// How long calls may take to end when the controller stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How often a silent connection is asked whether it still is one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Most streams of one connection, so that one client cannot take all memory.
const STREAMS: u32 = 1000;

/// A controller.
#[derive(Debug)]
pub struct Controller;

impl Controller {
    /// Starts serving and returns once the address is listened on.
    ///
    /// # Errors
    /// When the address is not loopback or taken, the store does not answer, or the token cannot be made.
    pub async fn serve(options: ServeOptions) -> Result<Handle, Error> {
        let ServeOptions { store, listen, state_dir, sealing_key, forget_passwords, timings, limits, clock } = options;
        check(&timings)?;
        if !listen.ip().is_loopback() {
            return Err(Error::NotLoopback { address: listen });
        }
        let in_folder = |source| Error::StateFolder { path: state_dir.clone(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&state_dir).map_err(in_folder)?;
        let token = Token::load_or_create(&state_dir.join(API_TOKEN_FILE))?;
        let sealer = secret::sealer(&*store, &sealing_key, forget_passwords).await?;
        let not_listening = |source| Error::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(not_listening)?;
        let local_addr = listener.local_addr().map_err(not_listening)?;
        let plane = Arc::new(Plane::load(store, sealer, clock, timings, limits).await?);

        let mut parts = JoinSet::new();
        let following = Arc::clone(&plane);
        parts.spawn(async move { following.follow().await.map_or(Ok(()), Err) });
        // From here on dropping the handle stops all of it.
        let mut handle = Handle { local_addr, token, plane, parts, address_file: None };
        found_site(&handle.plane).await?;
        duty::spawn_all(&handle.plane, &mut handle.parts);
        let (reporter, health) = tonic_health::server::health_reporter();
        handle.parts.spawn(ready::watch(Arc::clone(&handle.plane), reporter));
        let server = serve(Arc::clone(&handle.plane), handle.token.clone(), health, listener)?;
        handle.parts.spawn(server);
        handle.address_file = Some(write_address(&state_dir, local_addr).map_err(in_folder)?);
        tracing::info!(address = %local_addr, "the controller serves");
        Ok(handle)
    }
}

fn check(timings: &Timings) -> Result<(), Error> {
    if timings.session_ttl < coffer_store::limits::MIN_TTL {
        return Err(Error::Timings("the session's time to live must be 2 seconds or longer"));
    }
    if timings.sync_interval.is_zero() || timings.loop_period.is_zero() {
        return Err(Error::Timings("the interval of Sync and the period of the loops must not be zero"));
    }
    if timings.sync_interval >= timings.authority || timings.authority >= timings.hard_stop {
        return Err(Error::Timings("the interval of Sync < the authority < the hard stop must hold"));
    }
    Ok(())
}

/// Gives this installation its name, once.
async fn found_site(plane: &Plane) -> Result<(), Error> {
    let site = uuid::Uuid::new_v4().to_string();
    let founded = plane.mutate(|state, _| {
        let change = match state.sites.get(&()) {
            Some(_) => Change::new(),
            None => Change::new()
                .absent(Key::Site())
                .put(Entry::Site((), SiteRecord { site: site.clone(), incarnation: 1 })),
        };
        Ok((change, ()))
    });
    founded.await.map_err(|fault| match fault {
        Fault::Store(source) => Error::Store { doing: "naming this installation", source },
        other => Error::Part(other.to_string()),
    })
}

/// All services behind the token, but for the health of the process, which probes ask for.
fn serve<H: Health>(
    plane: Arc<Plane>,
    token: Token,
    health: HealthServer<H>,
    listener: TcpListener,
) -> Result<impl Future<Output = Result<(), Error>> + Send + use<H>, Error> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(coffer_proto::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let shared = || Arc::clone(&plane);
    let router = Server::builder()
        .layer(InOrder(shared()))
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .max_concurrent_streams(Some(STREAMS))
        .add_service(health)
        .add_service(InterceptedService::new(reflection, token.clone()))
        .add_service(PoolServiceServer::with_interceptor(Pools(shared()), token.clone()))
        .add_service(RemoteServiceServer::with_interceptor(Remotes(shared()), token.clone()))
        .add_service(JobServiceServer::with_interceptor(Jobs(shared()), token.clone()))
        .add_service(RunServiceServer::with_interceptor(Runs(shared()), token.clone()))
        .add_service(RestorePointServiceServer::with_interceptor(Points(shared()), token.clone()))
        .add_service(RestoreServiceServer::with_interceptor(Restores(shared()), token.clone()))
        .add_service(AgentServiceServer::with_interceptor(Agents(shared()), token.clone()))
        .add_service(WorkServiceServer::with_interceptor(Work(shared()), token));
    let stop = plane.stop.clone();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(async move {
        let drained = router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        tokio::pin!(drained);
        tokio::select! {
            ended = &mut drained => return Ok(ended?),
            () = stop.cancelled() => {}
        }
        match tokio::time::timeout(DRAIN, drained).await {
            Ok(ended) => Ok(ended?),
            Err(_) => {
                tracing::warn!("calls that did not end in time were cut off");
                Ok(())
            }
        }
    })
}

/// Where others on this machine find the controller; whole or not there.
fn write_address(folder: &Path, address: SocketAddr) -> std::io::Result<PathBuf> {
    let path = folder.join(ADDRESS_FILE);
    let aside = folder.join("address.new");
    std::fs::write(&aside, format!("{address}\n"))?;
    std::fs::rename(&aside, &path)?;
    Ok(path)
}

/// A controller that is serving. Dropping it cuts everything off; [`Handle::shutdown`] drains first.
#[derive(Debug)]
pub struct Handle {
    local_addr: SocketAddr,
    token: Token,
    plane: Arc<Plane>,
    parts: JoinSet<Result<(), Error>>,
    address_file: Option<PathBuf>,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What clients show: `authorization: Bearer {token}`.
    #[must_use]
    pub fn api_token(&self) -> &str {
        self.token.as_str()
    }

    /// Drains and stops: held calls are answered, streams end, nothing is half done. Runs go on when a controller is
    /// started on the same store again.
    ///
    /// # Errors
    /// When a part of it had failed.
    pub async fn shutdown(mut self) -> Result<(), Error> {
        self.plane.stop.cancel();
        let mut result = Ok(());
        while let Some(ended) = self.parts.join_next().await {
            result = result.and(outcome(ended));
        }
        result
    }

    /// Returns when the controller stops by itself, which it does only when the store is lost.
    pub async fn stopped(&mut self) -> Error {
        let ended = self.parts.join_next().await;
        // What is left would serve what is no longer true.
        self.plane.stop.cancel();
        match ended.map(outcome) {
            Some(Err(error)) => error,
            Some(Ok(())) | None => Error::Part("it ended without a reason".to_owned()),
        }
    }
}

fn outcome(ended: Result<Result<(), Error>, JoinError>) -> Result<(), Error> {
    ended.unwrap_or_else(|error| Err(Error::Part(error.to_string())))
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.plane.stop.cancel();
        if let Some(path) = &self.address_file
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(%error, path = %path.display(), "the address file is gone already");
        }
    }
}
