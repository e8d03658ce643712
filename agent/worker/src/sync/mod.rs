//! The exchange with the controllers: says what is held, holds what the answer says. Owns the workers of tasks, from
//! their start to their end, and the promise that a silent agent stops. Never decides what work there is.

mod link;
mod plan;
pub(crate) mod reports;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use coffer_model::TaskName;
use coffer_model::names::Named;
use coffer_proto::v1::{
    Assignment, HeldTask, RegisterRequest, RegisterResponse, ReportProgressRequest, SyncRequest, SyncResponse,
};
use coffer_runtime::boottime::{BootInstant, sleep_until};
use coffer_runtime::retry::{Delays, Policy};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::authority::Terms;
use crate::journal::Journal;
use crate::places::{ConfiguredPlaces, Surroundings};
use crate::progress::TaskProgress;
use crate::task::{Places, Task, run};
pub(crate) use link::Link;
use plan::{Action, HeldEpoch, TaskEpoch, reconcile};

/// Between attempts to reach a controller: authority lasts for seconds only.
const BETWEEN_ATTEMPTS: Policy = Policy { max: Duration::from_secs(1), ..Policy::RECONNECT };
/// Between attempts with a token that no controller knows: a person has to correct something.
const BETWEEN_REFUSALS: Policy = Policy { initial: Duration::from_secs(1), ..Policy::RECONNECT };
/// Two calls of Sync have at least this between them.
const GAP: Duration = Duration::from_millis(50);
/// While tasks are held, their progress is told so often.
const PROGRESS: Duration = Duration::from_secs(1);
/// While the agent stops, so often.
const DRAINING: Duration = Duration::from_millis(250);
/// How long tasks may take to undo what they did when the agent stops.
const DRAIN: Duration = Duration::from_secs(20);
/// How long an answer may take that is not held back.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);
/// How long the last word of an agent may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// A task whose worker runs.
struct Held {
    epoch: u64,
    cancelling: bool,
    cancel: CancellationToken,
    progress: TaskProgress,
    worker: AbortHandle,
}

/// A session as it was granted.
#[derive(Clone)]
struct Session {
    id: String,
    interval: Duration,
    terms: Terms,
    site: String,
}

impl From<RegisterResponse> for Session {
    fn from(response: RegisterResponse) -> Self {
        let duration = |given: Option<prost_types::Duration>| {
            given.and_then(|given| Duration::try_from(given).ok()).unwrap_or_default()
        };
        Self {
            id: response.session,
            interval: duration(response.sync_interval),
            terms: Terms { authority: duration(response.authority), hard_stop: duration(response.hard_stop) },
            site: response.site,
        }
    }
}

/// The agent's side of the exchange.
pub(crate) struct Sync {
    identity: RegisterRequest,
    around: Surroundings,
    places: Arc<ConfiguredPlaces>,
    session: Option<Session>,
    held: BTreeMap<String, Held>,
    workers: JoinSet<()>,
    /// Tasks that ended since the last question was sent.
    ended: BTreeSet<TaskEpoch>,
    /// Version of the reports that controllers know.
    told: u64,
    config_revision: u64,
    /// When all work has to stop unless another Sync is answered.
    hard_stop: Option<BootInstant>,
    stopping: CancellationToken,
    delays: Delays,
    refusals: Delays,
    /// What was last said about controllers that do not answer.
    complaint: Option<String>,
}

impl Sync {
    /// Begins with nothing held.
    pub(crate) fn new(identity: RegisterRequest, around: Surroundings, places: Arc<ConfiguredPlaces>) -> Self {
        Self {
            identity,
            around,
            places,
            session: None,
            held: BTreeMap::new(),
            workers: JoinSet::new(),
            ended: BTreeSet::new(),
            told: 0,
            config_revision: 0,
            hard_stop: None,
            stopping: CancellationToken::new(),
            delays: BETWEEN_ATTEMPTS.delays(rand::random()),
            refusals: BETWEEN_REFUSALS.delays(rand::random()),
            complaint: None,
        }
    }

    /// Works until `shutdown`; then takes no more tasks, has those under way undone, and says goodbye.
    pub(crate) async fn run(mut self, shutdown: &CancellationToken) {
        let working = async {
            loop {
                self.round().await;
            }
        };
        shutdown.run_until_cancelled(working).await;
        self.stopping.cancel();
        if !self.held.is_empty() {
            tracing::info!(tasks = self.held.len(), "stopping: tasks are undone");
        }
        let draining = async {
            while !self.held.is_empty() {
                self.round().await;
            }
        };
        if tokio::time::timeout(DRAIN, draining).await.is_err() {
            tracing::warn!(tasks = self.held.len(), "tasks did not end in time; the next agent undoes them");
        }
        self.drop_all();
        self.workers.shutdown().await;
        if let Some(session) = self.session.clone() {
            let last_word = self.around.link.sync(self.question(&session, Duration::ZERO), GOODBYE);
            // Whether it arrives or not: the session ends by itself.
            let _ = tokio::time::timeout(GOODBYE, last_word).await;
        }
    }

    /// Registers, or exchanges once.
    async fn round(&mut self) {
        let in_use = self.around.link.session();
        match self.session.clone().filter(|session| in_use.as_ref() == Some(&session.id)) {
            Some(session) => self.exchange(session).await,
            None => self.register().await,
        }
    }

    async fn register(&mut self) {
        let link = self.around.link.clone();
        let identity = self.identity.clone();
        match self.attend(async move { link.register(identity).await }).await {
            Ok(response) => {
                let session = Session::from(response);
                tracing::info!(session = session.id, "session begun");
                self.told = 0;
                self.around.link.begin_session(session.id.clone());
                self.session = Some(session);
                self.answered();
            }
            Err(status) => self.pause("no controller gives a session", &status).await,
        }
    }

    async fn exchange(&mut self, session: Session) {
        let hold = match (self.stopping.is_cancelled(), self.held.is_empty()) {
            (true, _) => session.interval.min(DRAINING),
            (false, false) => session.interval.min(PROGRESS),
            (false, true) => session.interval,
        };
        // A controller that hangs must be left in time to ask others before authority ends.
        let patience = (session.terms.authority / 4).min(LONGEST_ANSWER);
        let news = self.around.reports.since(self.told).version;
        let request = self.question(&session, hold);
        if !request.held.is_empty() {
            let progress = ReportProgressRequest { session: session.id.clone(), held: request.held.clone() };
            self.around.link.tell_others(&progress);
        }
        self.ended.clear();
        let around = self.around.clone();
        let sent = BootInstant::now();
        let asking = async move {
            tokio::select! {
                answer = around.link.sync(request, hold + patience) => Some(answer),
                () = around.reports.changed() => None,
                () = around.link.session_lost() => None,
            }
        };
        match self.attend(asking).await {
            Some(Ok(answer)) => {
                self.told = news;
                self.answered();
                let hard_stop = sent + session.terms.hard_stop;
                if BootInstant::now() < hard_stop {
                    self.around.authority.renew(session.terms, sent);
                    self.hard_stop = Some(hard_stop);
                    self.accept(answer, &session.site);
                } else {
                    // The tasks that it names may be somebody else's by now.
                    tracing::info!("an answer came too late to count");
                }
            }
            Some(Err(status)) if self.around.link.session().is_some() => {
                self.pause("a controller did not answer", &status).await;
                return;
            }
            Some(Err(_)) => tracing::info!("the session is over"),
            None => {}
        }
        self.attend(tokio::time::sleep(GAP)).await;
    }

    fn question(&self, session: &Session, hold: Duration) -> SyncRequest {
        let held = self.held.iter().map(|(task, held)| {
            let (step, disks) = held.progress.report();
            HeldTask { task: task.clone(), epoch: held.epoch, step: step.to_owned(), disks }
        });
        let news = self.around.reports.since(self.told);
        SyncRequest {
            session: session.id.clone(),
            held: held.collect(),
            pools: news.pools,
            remotes: news.remotes,
            config_revision: self.config_revision,
            hold: prost_types::Duration::try_from(hold).ok(),
            draining: self.stopping.is_cancelled(),
        }
    }

    fn accept(&mut self, answer: SyncResponse, site: &str) {
        if let Some(config) = answer.config {
            tracing::info!(
                revision = answer.config_revision,
                pools = config.pools.len(),
                remotes = config.remotes.len(),
                "configuration received"
            );
            self.places.configure(config);
            self.config_revision = answer.config_revision;
            // What was said of places before does not count for the new configuration, even of those that stay as they
            // are.
            self.told = 0;
        }
        let held = self.held.iter();
        let held = held
            .map(|(task, held)| {
                let (epoch, cancelling, over) = (held.epoch, held.cancelling, held.progress.is_over());
                (task.clone(), HeldEpoch { epoch, cancelling, over })
            })
            .collect();
        for action in reconcile(&held, &self.ended, answer.tasks) {
            match action {
                Action::Drop(task) => {
                    if let Some(held) = self.held.remove(&task) {
                        tracing::warn!(task, epoch = held.epoch, "the task is not ours any more");
                        held.worker.abort();
                    }
                }
                Action::Cancel(task) => {
                    if let Some(held) = self.held.get_mut(&task) {
                        tracing::info!(task, "cancelling");
                        held.cancelling = true;
                        held.cancel.cancel();
                    }
                }
                Action::Start(assignment) => self.start(*assignment, site),
            }
        }
    }

    fn start(&mut self, assignment: Assignment, site: &str) {
        if self.stopping.is_cancelled() {
            return;
        }
        let Assignment { task, epoch, attempt, cancel: cancelled, cleanup_only, spec, intents, op_seq } = assignment;
        let (name, spec) = match (TaskName::from_name(&task), spec) {
            (Ok(name), Some(spec)) => (name, spec),
            (Err(error), _) => {
                tracing::error!("a task is left out of account: {}", error.explain());
                return;
            }
            (_, None) => return,
        };
        tracing::info!(task, epoch, attempt, cleanup_only, "task begun");
        let cancel = self.stopping.child_token();
        if cancelled {
            cancel.cancel();
        }
        let progress = TaskProgress::default();
        let controllers = Arc::new(self.around.link.clone());
        let numbers = (epoch, attempt, op_seq);
        let journal = Journal::new(controllers, name.clone(), numbers, intents, progress.clone(), cancel.clone());
        let work = Task {
            name,
            epoch,
            attempt,
            site: site.to_owned(),
            journal,
            progress: progress.clone(),
            authority: self.around.authority.clone(),
            cancel: cancel.clone(),
            stopping: self.stopping.clone(),
            places: Arc::clone(&self.places) as Arc<dyn Places>,
        };
        let places = Arc::clone(&self.places);
        let worker = self.workers.spawn(async move {
            places.looked_at(&spec).await;
            run::carry_out(&work, &spec, cleanup_only).await;
        });
        let cancelling = cancelled || cleanup_only;
        self.held.insert(task, Held { epoch, cancelling, cancel, progress, worker });
    }

    /// Waits for something while looking after the workers: notes which have ended, and stops all in time.
    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            let deadline = self.hard_stop;
            let out_of_time = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(ended) = self.workers.join_next_with_id() => {
                    let worker = match &ended {
                        Ok((worker, ())) => *worker,
                        Err(error) => error.id(),
                    };
                    self.note_end(worker);
                }
                () = out_of_time, if !self.held.is_empty() => {
                    tracing::warn!(tasks = self.held.len(), "no controller has answered for too long: all work stops");
                    self.drop_all();
                }
                result = &mut work => return result,
            }
        }
    }

    fn note_end(&mut self, worker: tokio::task::Id) {
        // A worker of a dropped task is not held any more.
        let task = self.held.iter().find(|(_, held)| held.worker.id() == worker).map(|(task, _)| task.clone());
        if let Some((task, held)) = task.and_then(|task| self.held.remove_entry(&task)) {
            self.ended.insert((task, held.epoch));
        }
    }

    fn drop_all(&mut self) {
        for held in std::mem::take(&mut self.held).into_values() {
            held.worker.abort();
        }
    }

    fn answered(&mut self) {
        self.delays.reset();
        self.refusals.reset();
        if self.complaint.take().is_some() {
            tracing::info!("a controller answers again");
        }
    }

    async fn pause(&mut self, what: &str, status: &Status) {
        let refused = Link::is_stranger(status);
        // It is tried again for ever: what was said once is not said at every attempt. Of tokens the link has told.
        let complaint = format!("{what}: {}", status.message());
        if !refused && self.complaint.as_ref() != Some(&complaint) {
            tracing::warn!(code = ?status.code(), "{complaint}");
            self.complaint = Some(complaint);
        }
        // Whoever holds tasks has no time to lose.
        let wait = if refused && self.held.is_empty() { self.refusals.next() } else { self.delays.next() };
        let wait = wait.unwrap_or(BETWEEN_ATTEMPTS.max);
        self.attend(tokio::time::sleep(wait)).await;
    }
}
