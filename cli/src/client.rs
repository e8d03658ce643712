//! The connection to the controllers.

use std::time::Duration;

use coffer_proto::order::{InOrder, Seen};
use coffer_proto::v1;
use coffer_proto::v1::agent_service_client::AgentServiceClient;
use coffer_proto::v1::job_service_client::JobServiceClient;
use coffer_proto::v1::pool_service_client::PoolServiceClient;
use coffer_proto::v1::remote_service_client::RemoteServiceClient;
use coffer_proto::v1::restore_point_service_client::RestorePointServiceClient;
use coffer_proto::v1::restore_service_client::RestoreServiceClient;
use coffer_proto::v1::run_service_client::RunServiceClient;
use secrecy::{ExposeSecret, SecretString};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::Error;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for an answer that is not a stream.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);
/// How often a connection is tried on which nothing happens, so that a dead one is noticed while a run is followed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Most bytes of an answer.
const MOST: usize = 64 << 20;
/// Entries per page; the API's greatest.
pub(crate) const PAGE: u32 = 1000;

/// Shows the token with every call.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Service = InOrder<InterceptedService<Channel, Bearer>>;

/// A connection to one of the controllers, all of which say the same.
#[derive(Clone)]
pub(crate) struct Client {
    controllers: Vec<(String, Endpoint)>,
    bearer: Bearer,
    seen: Seen,
    current: usize,
    service: Service,
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $client:ident;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name(&self) -> $client<Service> {
            $client::new(self.service.clone()).max_decoding_message_size(MOST)
        }
    )*};
}

impl Client {
    /// Connects to the first controller that answers. Each of `servers` is `HOST:PORT` or a URL.
    pub(crate) async fn connect(servers: &[String], token: &SecretString) -> Result<Self, Error> {
        let controllers = servers.iter().map(|server| Ok((server.clone(), endpoint(server)?)));
        let controllers: Vec<(String, Endpoint)> = controllers.collect::<Result<_, Error>>()?;
        let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", token.expose_secret())
            .parse()
            .map_err(|_| Error::usage("the API token has characters that cannot be sent", None))?;
        bearer.set_sensitive(true);
        let (bearer, seen) = (Bearer(bearer), Seen::default());
        let (current, channel) = reach(&controllers, 0).await?;
        let service = InOrder::new(InterceptedService::new(channel, bearer.clone()), seen.clone());
        Ok(Self { controllers, bearer, seen, current, service })
    }

    /// Turns to the next controller that answers, which may be the same one again.
    pub(crate) async fn turn(&mut self) -> Result<(), Error> {
        let (current, channel) = reach(&self.controllers, self.current + 1).await?;
        self.current = current;
        self.service = InOrder::new(InterceptedService::new(channel, self.bearer.clone()), self.seen.clone());
        Ok(())
    }

    services! {
        pools: PoolServiceClient;
        remotes: RemoteServiceClient;
        jobs: JobServiceClient;
        runs: RunServiceClient;
        points: RestorePointServiceClient;
        restores: RestoreServiceClient;
        agents: AgentServiceClient;
    }
}

fn endpoint(server: &str) -> Result<Endpoint, Error> {
    let url = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let endpoint = Endpoint::from_shared(url).map_err(|_| {
        Error::usage(
            format!("{server:?} is not the address of a controller"),
            Some("expected HOST:PORT, as 127.0.0.1:7420; of several controllers, separated by commas"),
        )
    })?;
    Ok(endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

/// The first controller that answers, beginning with number `first`, and the connection to it.
async fn reach(controllers: &[(String, Endpoint)], first: usize) -> Result<(usize, Channel), Error> {
    let mut failed = None;
    for turn in 0..controllers.len() {
        let number = (first + turn) % controllers.len();
        match controllers[number].1.connect().await {
            Ok(channel) => return Ok((number, channel)),
            Err(source) => failed = Some(source),
        }
    }
    let server = controllers.iter().map(|(server, _)| server.as_str()).collect::<Vec<_>>().join(", ");
    Err(match failed {
        Some(source) => Error::Connect { server, source },
        None => Error::usage("no controller is given", Some("expected HOST:PORT, as 127.0.0.1:7420")),
    })
}

/// A request with a deadline, so that a controller that hangs does not hang us.
pub(crate) fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER);
    request
}

/// A random request id: makes a repetition of the same call harmless.
pub(crate) fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Reads all pages of a list. `$call` is the method of `$client`, `$items` the field of the answer.
macro_rules! all_pages {
    ($client:expr, $call:ident, $items:ident, $request:expr) => {{
        let mut client = $client;
        let first = $request;
        let mut page_token = String::new();
        let mut all = Vec::new();
        loop {
            let mut request = first.clone();
            request.page_size = $crate::client::PAGE;
            request.page_token = page_token;
            let answer = client.$call($crate::client::timed(request)).await?.into_inner();
            all.extend(answer.$items);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break all;
            }
        }
    }};
}
pub(crate) use all_pages;

impl Client {
    pub(crate) async fn all_pools(&self) -> Result<Vec<v1::Pool>, Error> {
        Ok(all_pages!(self.pools(), list_pools, pools, v1::ListPoolsRequest::default()))
    }

    pub(crate) async fn all_vms(&self, pool: &str) -> Result<Vec<v1::VirtualMachine>, Error> {
        let request = v1::ListVirtualMachinesRequest { parent: pool.to_owned(), ..Default::default() };
        Ok(all_pages!(self.pools(), list_virtual_machines, virtual_machines, request))
    }

    pub(crate) async fn all_srs(&self, pool: &str) -> Result<Vec<v1::StorageRepository>, Error> {
        let request = v1::ListStorageRepositoriesRequest { parent: pool.to_owned(), ..Default::default() };
        Ok(all_pages!(self.pools(), list_storage_repositories, storage_repositories, request))
    }

    pub(crate) async fn all_schedules(&self, job: &str) -> Result<Vec<v1::Schedule>, Error> {
        let request = v1::ListSchedulesRequest { parent: job.to_owned(), ..Default::default() };
        Ok(all_pages!(self.jobs(), list_schedules, schedules, request))
    }

    pub(crate) async fn all_tasks(&self, run: &str) -> Result<Vec<v1::Task>, Error> {
        let request = v1::ListTasksRequest { parent: run.to_owned(), ..Default::default() };
        Ok(all_pages!(self.runs(), list_tasks, tasks, request))
    }

    pub(crate) async fn all_points(
        &self,
        filter: v1::ListRestorePointsRequest,
    ) -> Result<Vec<v1::RestorePoint>, Error> {
        Ok(all_pages!(self.points(), list_restore_points, restore_points, filter))
    }

    pub(crate) async fn run(&self, name: &str) -> Result<v1::Run, Error> {
        Ok(self.runs().get_run(timed(v1::GetRunRequest { name: name.to_owned() })).await?.into_inner())
    }
}
