//! Calls to controllers: any of several, the next one when one does not answer, each call with a deadline.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coffer_proto::order::{InOrder, Seen};
use coffer_proto::v1::work_service_client::WorkServiceClient;
use coffer_proto::v1::{
    CompleteRequest, CompleteResponse, PlanRetentionRequest, PlanRetentionResponse, RegisterRequest, RegisterResponse,
    ReportCatalogueRequest, ReportCatalogueResponse, ReportDeletedRequest, ReportInventoryRequest,
    ReportProgressRequest, RequestCommitRequest, RequestCommitResponse, SyncRequest, SyncResponse, TransitionRequest,
    TransitionResponse,
};
use coffer_runtime::retry::Policy;
use secrecy::SecretString;
use tokio::sync::{Notify, Semaphore, watch};
use tonic::codegen::http::Uri;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::token::Bearer;
use crate::Error;
use crate::control::{Controllers, Denied};
use crate::halt::Trouble;

/// How long a call may take that has nothing to wait for.
const CALL: Duration = Duration::from_secs(10);
/// How long a report of many parts may take.
const REPORT: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long telling of progress may take.
const TELLING: Duration = Duration::from_secs(2);
/// An answer that may pass and is no refusal is waited out this long.
const PATIENCE: Duration = Duration::from_secs(60);

const BETWEEN_CALLS: Policy = Policy { max: Duration::from_secs(1), ..Policy::RECONNECT };

type Client = WorkServiceClient<InOrder<InterceptedService<Channel, Bearer>>>;

/// The way to the controllers. Clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Link(Arc<Inner>);

struct Inner {
    clients: Vec<(String, Client)>,
    bearer: Bearer,
    /// Each controller is told of progress by one call at a time.
    telling: Vec<Arc<Semaphore>>,
    /// Which controllers refused the token at the last call.
    refusing: Vec<AtomicBool>,
    current: AtomicUsize,
    session: watch::Sender<Option<String>>,
    lost: Notify,
}

/// What an answer other than the wished one means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// This controller cannot answer now: another one may.
    Elsewhere,
    /// This controller does not know the agent's token; another one may, and somebody may correct it.
    Stranger,
    /// The session is over.
    SessionLost,
    /// The task is somebody else's.
    Fenced,
    /// Cancelling was asked for.
    Cancelled,
    /// It failed inside, maybe not the next time.
    Inside,
    /// No.
    Refused,
}

fn meaning(status: &Status) -> Meaning {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    match (reason, status.code()) {
        (Some("SESSION_UNKNOWN"), _) => Meaning::SessionLost,
        (Some("FENCED"), _) => Meaning::Fenced,
        (Some("CANCELLED"), _) => Meaning::Cancelled,
        (_, Code::Unauthenticated) => Meaning::Stranger,
        (_, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted) => {
            Meaning::Elsewhere
        }
        // A connection that breaks in the middle of an answer shows as Unknown.
        (_, Code::Internal | Code::Unknown | Code::Aborted) => Meaning::Inside,
        _ => Meaning::Refused,
    }
}

impl Link {
    /// A link to these controllers; connects when first used.
    pub(crate) fn new(
        controllers: &[String],
        token: &SecretString,
        token_file: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let bearer = Bearer::new(token, token_file)?;
        let seen = Seen::default();
        let mut clients = Vec::with_capacity(controllers.len());
        for address in controllers {
            let uri: Uri = address.parse().map_err(|source| Error::Address { address: address.clone(), source })?;
            let channel = Endpoint::from(uri)
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(CONNECT)
                .keep_alive_while_idle(true)
                .connect_lazy();
            let service = InOrder::new(InterceptedService::new(channel, bearer.clone()), seen.clone());
            clients.push((address.clone(), WorkServiceClient::new(service)));
        }
        if clients.is_empty() {
            return Err(Error::NoController);
        }
        let telling = clients.iter().map(|_| Arc::new(Semaphore::new(1))).collect();
        let refusing = clients.iter().map(|_| AtomicBool::new(false)).collect();
        let session = watch::channel(None).0;
        let current = AtomicUsize::new(0);
        Ok(Self(Arc::new(Inner { clients, bearer, telling, refusing, current, session, lost: Notify::new() })))
    }

    /// Begins to use a session.
    pub(crate) fn begin_session(&self, session: String) {
        self.0.session.send_replace(Some(session));
    }

    /// Notes that a session is over. A newer one stays.
    pub(crate) fn end_session(&self, session: &str) {
        let ended = self.0.session.send_if_modified(|current| {
            let same = current.as_deref() == Some(session);
            if same {
                *current = None;
            }
            same
        });
        if ended {
            self.0.lost.notify_one();
        }
    }

    /// The session in use.
    pub(crate) fn session(&self) -> Option<String> {
        self.0.session.borrow().clone()
    }

    /// The session in use, followed.
    pub(crate) fn sessions(&self) -> watch::Receiver<Option<String>> {
        self.0.session.subscribe()
    }

    /// Returns when some call found that the session is over.
    pub(crate) async fn session_lost(&self) {
        self.0.lost.notified().await;
    }

    async fn session_in_use(&self) -> String {
        let mut session = self.0.session.subscribe();
        loop {
            if let Some(session) = session.borrow_and_update().clone() {
                return session;
            }
            if session.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Asks the controller that answered last; turns to the next one when it does not answer.
    async fn ask<T, F>(&self, deadline: Duration, call: impl FnOnce(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let turn = self.0.current.load(Ordering::Relaxed);
        let controller = turn % self.0.clients.len();
        let (address, client) = &self.0.clients[controller];
        let result = match tokio::time::timeout(deadline, call(client.clone())).await {
            Ok(result) => result.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("{address} did not answer within {deadline:?}"))),
        };
        let answer = result.as_ref().err().map(meaning);
        self.heard_of_token(controller, answer);
        if let Err(status) = &result
            && matches!(answer, Some(Meaning::Elsewhere | Meaning::Inside | Meaning::Stranger))
        {
            tracing::debug!(controller = address, code = ?status.code(), message = status.message(), "no answer");
            // Whoever is first turns; the others have failed at the same one.
            let _ = self.0.current.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
        }
        result
    }

    /// Says once when a controller begins to refuse the token, once when it takes it again. What is refused is read
    /// anew.
    fn heard_of_token(&self, controller: usize, answer: Option<Meaning>) {
        let refuses = match answer {
            Some(Meaning::Stranger) => true,
            // Nothing was heard that the token mattered for.
            Some(Meaning::Elsewhere) => return,
            _ => false,
        };
        let refused = self.0.refusing[controller].swap(refuses, Ordering::Relaxed);
        let controller = self.0.clients[controller].0.as_str();
        match (refused, refuses, self.0.bearer.file()) {
            (false, true, Some(file)) => tracing::error!(
                "the controller at {controller} does not know the token in {}: put there what is in the controller's file \
                 `api-token`; it is read anew at every attempt, nothing need be restarted",
                file.display()
            ),
            (false, true, None) => tracing::error!(
                "the controller at {controller} does not know this agent's token: start the agent with what is in the \
                 controller's file `api-token`"
            ),
            (true, false, _) => tracing::info!("the controller at {controller} knows the token now"),
            (true, true, _) | (false, false, _) => {}
        }
        if refuses && self.0.bearer.read_anew() {
            tracing::info!("the token has changed");
        }
    }

    /// Whether an answer says that the controller does not know the token.
    pub(super) fn is_stranger(status: &Status) -> bool {
        meaning(status) == Meaning::Stranger
    }

    /// One attempt to begin a session.
    pub(crate) async fn register(&self, request: RegisterRequest) -> Result<RegisterResponse, Status> {
        self.ask(CALL, |mut client| async move { client.register(request).await }).await
    }

    /// One Sync, which may take so long. A lost session is noted.
    pub(crate) async fn sync(&self, request: SyncRequest, deadline: Duration) -> Result<SyncResponse, Status> {
        let session = request.session.clone();
        let result = self.ask(deadline, |mut client| async move { client.sync(request).await }).await;
        if let Err(status) = &result
            && meaning(status) == Meaning::SessionLost
        {
            self.end_session(&session);
        }
        result
    }

    /// Tells the other controllers how far tasks are: once, and whether it arrives or not. One that is slow is told
    /// less often.
    pub(crate) fn tell_others(&self, request: &ReportProgressRequest) {
        let current = self.0.current.load(Ordering::Relaxed) % self.0.clients.len();
        for (number, (_, client)) in self.0.clients.iter().enumerate().filter(|(number, _)| *number != current) {
            let Ok(telling) = Arc::clone(&self.0.telling[number]).try_acquire_owned() else { continue };
            let (mut client, request) = (client.clone(), request.clone());
            tokio::spawn(async move {
                let told = tokio::time::timeout(TELLING, client.report_progress(request)).await;
                tracing::trace!(controller = number, told = told.is_ok_and(|told| told.is_ok()), "progress");
                drop(telling);
            });
        }
    }

    /// Reports the inventory of a pool: one attempt.
    pub(crate) async fn report_inventory(&self, mut parts: Vec<ReportInventoryRequest>) -> Result<(), Status> {
        let session = self.session_in_use().await;
        for part in &mut parts {
            part.session.clone_from(&session);
        }
        let parts = futures::stream::iter(parts);
        let result = self.ask(REPORT, |mut client| async move { client.report_inventory(parts).await }).await;
        if let Err(status) = &result
            && meaning(status) == Meaning::SessionLost
        {
            self.end_session(&session);
        }
        result.map(|_| ())
    }

    /// Repeats a call of a task until a controller has answered it for good, through lost controllers and sessions.
    async fn insist<T, F>(&self, deadline: Duration, mut call: impl FnMut(Client, String) -> F) -> Result<T, Denied>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut delays = BETWEEN_CALLS.delays(rand::random());
        let mut failing_inside: Option<tokio::time::Instant> = None;
        loop {
            let session = self.session_in_use().await;
            let status = match self.ask(deadline, |client| call(client, session.clone())).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            match meaning(&status) {
                Meaning::Fenced => return Err(Denied::Fenced),
                Meaning::Cancelled => return Err(Denied::Cancelled),
                Meaning::SessionLost => self.end_session(&session),
                Meaning::Elsewhere | Meaning::Stranger => failing_inside = None,
                Meaning::Inside => {
                    let since = *failing_inside.get_or_insert_with(tokio::time::Instant::now);
                    if since.elapsed() > PATIENCE {
                        return Err(Denied::Refused(refused(&status).passing()));
                    }
                }
                Meaning::Refused => return Err(Denied::Refused(refused(&status))),
            }
            tokio::time::sleep(delays.next().unwrap_or(BETWEEN_CALLS.max)).await;
        }
    }
}

fn refused(status: &Status) -> Trouble {
    Trouble::new(
        "CONTROLLER_REFUSED",
        format!("the controller refused a call of the agent: {} ({:?})", status.message(), status.code()),
        "look whether controllers and agents have the same version, and at the controller's log",
    )
}

#[async_trait]
impl Controllers for Link {
    async fn transition(&self, request: TransitionRequest) -> Result<TransitionResponse, Denied> {
        self.insist(CALL, |mut client, session| {
            let request = TransitionRequest { session, ..request.clone() };
            async move { client.transition(request).await }
        })
        .await
    }

    async fn request_commit(&self, request: RequestCommitRequest) -> Result<RequestCommitResponse, Denied> {
        self.insist(CALL, |mut client, session| {
            let request = RequestCommitRequest { session, ..request.clone() };
            async move { client.request_commit(request).await }
        })
        .await
    }

    async fn plan_retention(&self, request: PlanRetentionRequest) -> Result<PlanRetentionResponse, Denied> {
        self.insist(CALL, |mut client, session| {
            let request = PlanRetentionRequest { session, ..request.clone() };
            async move { client.plan_retention(request).await }
        })
        .await
    }

    async fn report_deleted(&self, request: ReportDeletedRequest) -> Result<(), Denied> {
        self.insist(CALL, |mut client, session| {
            let request = ReportDeletedRequest { session, ..request.clone() };
            async move { client.report_deleted(request).await }
        })
        .await
        .map(|_| ())
    }

    async fn report_catalogue(&self, parts: Vec<ReportCatalogueRequest>) -> Result<ReportCatalogueResponse, Denied> {
        self.insist(REPORT, |mut client, session| {
            let mut parts = parts.clone();
            for part in &mut parts {
                part.session.clone_from(&session);
            }
            async move { client.report_catalogue(futures::stream::iter(parts)).await }
        })
        .await
    }

    async fn complete(&self, request: CompleteRequest) -> Result<CompleteResponse, Denied> {
        self.insist(CALL, |mut client, session| {
            let request = CompleteRequest { session, ..request.clone() };
            async move { client.complete(request).await }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    fn status(code: Code, reason: &str) -> Status {
        Status::with_error_details(
            code,
            "no",
            ErrorDetails::with_error_info(reason, "coffer", HashMap::<String, String>::new()),
        )
    }

    #[test]
    fn reasons_say_more_than_codes() {
        assert_eq!(meaning(&status(Code::FailedPrecondition, "FENCED")), Meaning::Fenced);
        assert_eq!(meaning(&status(Code::Unauthenticated, "SESSION_UNKNOWN")), Meaning::SessionLost);
        assert_eq!(meaning(&status(Code::FailedPrecondition, "CANCELLED")), Meaning::Cancelled);
        assert_eq!(meaning(&Status::unauthenticated("wrong token")), Meaning::Stranger);
        assert_eq!(meaning(&Status::unavailable("starting")), Meaning::Elsewhere);
        assert_eq!(meaning(&Status::invalid_argument("no such step")), Meaning::Refused);
    }

    #[test]
    fn addresses_and_tokens_are_checked_before_anything_is_sent() {
        let token = SecretString::from("t");
        assert!(matches!(Link::new(&[], &token, None), Err(Error::NoController)));
        assert!(matches!(Link::new(&["http://a b".to_owned()], &token, None), Err(Error::Address { .. })));
        let control = SecretString::from("a\nb");
        assert!(matches!(Link::new(&["http://127.0.0.1:1".to_owned()], &control, None), Err(Error::Token)));
    }

    #[tokio::test]
    async fn only_the_session_in_use_can_be_lost() {
        let link = Link::new(&["http://127.0.0.1:1".to_owned()], &SecretString::from("t"), None).unwrap();
        link.begin_session("two".to_owned());
        link.end_session("one");
        assert_eq!(link.session().as_deref(), Some("two"));
        link.end_session("two");
        assert_eq!(link.session(), None);
        link.session_lost().await;
    }
}
