//! A gate between an agent and its controller: it passes every call on, and holds one at a chosen moment of a task, so
//! that a test can kill a program at exactly that moment.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use coffer_proto::v1::work_service_client::WorkServiceClient;
use coffer_proto::v1::work_service_server::{WorkService, WorkServiceServer};
use coffer_proto::v1::{
    CompleteRequest, CompleteResponse, PlanRetentionRequest, PlanRetentionResponse, RegisterRequest, RegisterResponse,
    ReportCatalogueRequest, ReportCatalogueResponse, ReportDeletedRequest, ReportDeletedResponse,
    ReportInventoryRequest, ReportInventoryResponse, ReportProgressRequest, ReportProgressResponse,
    RequestCommitRequest, RequestCommitResponse, SyncRequest, SyncResponse, TransitionRequest, TransitionResponse,
    step,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Extensions, Request, Response, Status, Streaming};

/// How long a moment is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A moment in the life of a task at which its agent is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The controller knows that the step begins; nothing of it has been done.
    Begun(&'static str),
    /// All of the step has been done; the controller does not know.
    Done(&'static str),
    /// The agent may publish, and does not know.
    Granted,
    /// All has been done; the controller does not know.
    Completing,
    /// The controller knows the end of the task; the agent does not know that.
    Completed,
}

/// What becomes of the call that was held.
enum Verdict {
    /// It goes on its way; an answer that was held is lost, hence asked for again.
    PassOn,
    /// It is lost.
    Lose,
}

struct Armed {
    moment: Moment,
    reached: oneshot::Sender<()>,
    verdict: oneshot::Receiver<Verdict>,
}

/// A call that is to be held, or is.
pub struct Held {
    moment: Moment,
    reached: Option<oneshot::Receiver<()>>,
    verdict: oneshot::Sender<Verdict>,
}

impl Held {
    /// Waits until the moment has come.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn reached(&mut self) -> Result<()> {
        let moment = self.moment;
        let reached = self.reached.take().context("it is waited for once")?;
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.with_context(|| format!("{moment:?} did not come within {PATIENCE:?}"))?.context("the gate is gone")
    }

    /// Lets the call go on.
    pub fn pass_on(self) {
        // Whoever called may be dead.
        let _ = self.verdict.send(Verdict::PassOn);
    }

    /// The call never arrives.
    pub fn lose(self) {
        let _ = self.verdict.send(Verdict::Lose);
    }
}

/// The gate. It ends when dropped.
pub struct Gate {
    address: String,
    armed: Arc<Mutex<Option<Armed>>>,
    server: JoinHandle<()>,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Gate {
    /// A gate before the controller at `host:port`.
    ///
    /// # Errors
    /// When there is no port for it.
    pub async fn start(controller: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{controller}"))?.connect_lazy();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let armed = Arc::default();
        let passage = Passage { controller: WorkServiceClient::new(channel), armed: Arc::clone(&armed) };
        let serving = Server::builder()
            .add_service(WorkServiceServer::new(passage))
            .serve_with_incoming(TcpListenerStream::new(listener));
        // It ends with the test; what goes wrong shows as an agent that reaches no controller.
        let server = tokio::spawn(async move { drop(serving.await) });
        Ok(Self { address, armed, server })
    }

    /// Where the agent reaches its controller, `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Holds the next call that belongs to a moment.
    #[must_use]
    pub fn hold(&self, moment: Moment) -> Held {
        let ((reached, to_be_reached), (verdict, to_be_judged)) = (oneshot::channel(), oneshot::channel());
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Armed { moment, reached, verdict: to_be_judged });
        Held { moment, reached: Some(to_be_reached), verdict }
    }
}

struct Passage {
    controller: WorkServiceClient<Channel>,
    armed: Arc<Mutex<Option<Armed>>>,
}

fn lost() -> Status {
    Status::unavailable("the call was lost on its way")
}

/// The request with what came along, as the token.
fn again<T>(request: Request<T>) -> Request<T> {
    let (metadata, _, message) = request.into_parts();
    Request::from_parts(metadata, Extensions::default(), message)
}

/// All parts of a streamed request, with what came along.
async fn gathered<T>(
    request: Request<Streaming<T>>,
) -> Result<Request<tokio_stream::Iter<std::vec::IntoIter<T>>>, Status> {
    let (metadata, _, mut stream) = request.into_parts();
    let mut parts = Vec::new();
    while let Some(part) = stream.message().await? {
        parts.push(part);
    }
    Ok(Request::from_parts(metadata, Extensions::default(), tokio_stream::iter(parts)))
}

impl Passage {
    /// The verdict about a call that belongs to a moment; `None` when it is not held.
    async fn judge(&self, moment: Moment) -> Option<Verdict> {
        let armed = {
            let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
            armed.take_if(|armed| armed.moment == moment)?
        };
        // A test that failed meanwhile is not interested any more.
        let _ = armed.reached.send(());
        Some(armed.verdict.await.unwrap_or(Verdict::Lose))
    }

    /// Passes a call on; holds it before it arrives, or its answer.
    async fn pass<T>(
        &self,
        (before, after): (Option<Moment>, Option<Moment>),
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Status> {
        if let Some(moment) = before
            && let Some(Verdict::Lose) = self.judge(moment).await
        {
            return Err(lost());
        }
        let answer = call.await?;
        if let Some(moment) = after
            && self.judge(moment).await.is_some()
        {
            return Err(lost());
        }
        Ok(answer)
    }
}

/// The names of steps, as moments name them.
fn known(name: &str) -> &'static str {
    const STEPS: [&str; 10] = [
        "preflight",
        "snapshot",
        "transfer",
        "seal",
        "publish",
        "retention",
        "remove-snapshot",
        "create-vm",
        "finish",
        "start",
    ];
    STEPS.into_iter().find(|step| *step == name).unwrap_or_default()
}

#[tonic::async_trait]
impl WorkService for Passage {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        self.controller.clone().register(again(request)).await
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        self.controller.clone().sync(again(request)).await
    }

    async fn report_progress(
        &self,
        request: Request<ReportProgressRequest>,
    ) -> Result<Response<ReportProgressResponse>, Status> {
        self.controller.clone().report_progress(again(request)).await
    }

    async fn transition(&self, request: Request<TransitionRequest>) -> Result<Response<TransitionResponse>, Status> {
        let moments = match &request.get_ref().step {
            Some(step) if step.state() == step::State::Running => (None, Some(Moment::Begun(known(&step.name)))),
            Some(step) if step.state() == step::State::Done => (Some(Moment::Done(known(&step.name))), None),
            _ => (None, None),
        };
        self.pass(moments, self.controller.clone().transition(again(request))).await
    }

    async fn request_commit(
        &self,
        request: Request<RequestCommitRequest>,
    ) -> Result<Response<RequestCommitResponse>, Status> {
        self.pass((None, Some(Moment::Granted)), self.controller.clone().request_commit(again(request))).await
    }

    async fn plan_retention(
        &self,
        request: Request<PlanRetentionRequest>,
    ) -> Result<Response<PlanRetentionResponse>, Status> {
        self.controller.clone().plan_retention(again(request)).await
    }

    async fn report_deleted(
        &self,
        request: Request<ReportDeletedRequest>,
    ) -> Result<Response<ReportDeletedResponse>, Status> {
        self.controller.clone().report_deleted(again(request)).await
    }

    async fn complete(&self, request: Request<CompleteRequest>) -> Result<Response<CompleteResponse>, Status> {
        let moments = (Some(Moment::Completing), Some(Moment::Completed));
        self.pass(moments, self.controller.clone().complete(again(request))).await
    }

    async fn report_inventory(
        &self,
        request: Request<Streaming<ReportInventoryRequest>>,
    ) -> Result<Response<ReportInventoryResponse>, Status> {
        self.controller.clone().report_inventory(gathered(request).await?).await
    }

    async fn report_catalogue(
        &self,
        request: Request<Streaming<ReportCatalogueRequest>>,
    ) -> Result<Response<ReportCatalogueResponse>, Status> {
        self.controller.clone().report_catalogue(gathered(request).await?).await
    }
}
