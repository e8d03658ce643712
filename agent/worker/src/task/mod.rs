//! One task under one lease: what it works with, and how its steps are carried out.

pub(crate) mod run;

use std::future::Future;
use std::sync::Arc;

use coffer_model::{PoolId, RemoteId, TaskName};
use coffer_proto::v1::Intent;
use coffer_remote::Remote;
use coffer_repository::Repository;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::halt::{Halt, Outcome, Trouble};
use crate::hypervisor::Hypervisor;
use crate::journal::{Done, Journal};
use crate::progress::TaskProgress;

/// A remote whose repository is open.
#[derive(Debug, Clone)]
pub(crate) struct OpenRemote {
    pub(crate) id: RemoteId,
    pub(crate) remote: Arc<dyn Remote>,
    pub(crate) repository: Repository,
}

/// Where pools and remotes are found, as they stand at that moment.
pub(crate) trait Places: Send + Sync {
    /// A pool that is logged in to.
    fn pool(&self, pool: &PoolId) -> Result<Arc<dyn Hypervisor>, Trouble>;
    /// A remote whose repository is open.
    fn remote(&self, remote: &RemoteId) -> Result<OpenRemote, Trouble>;
}

/// A task and what it works with.
pub(crate) struct Task {
    pub(crate) name: TaskName,
    pub(crate) epoch: u64,
    pub(crate) attempt: u32,
    /// Of this installation; part of every stamp.
    pub(crate) site: String,
    pub(crate) journal: Journal,
    pub(crate) progress: TaskProgress,
    pub(crate) authority: Authority,
    /// Cancelled when the task is to stop and undo.
    pub(crate) cancel: CancellationToken,
    /// Cancelled, and `cancel` with it, when the agent stops: somebody else is to make another attempt.
    pub(crate) stopping: CancellationToken,
    pub(crate) places: Arc<dyn Places>,
}

impl Task {
    /// Carries out a step between its records: begun with `intents`, then done, or failed with the reason.
    ///
    /// Neither the step nor its records are interrupted by cancelling: a step that can take long looks at
    /// [`Task::cancel`] itself. Once cancelling was asked for, no further step begins.
    pub(crate) async fn step<T>(
        &self,
        name: &'static str,
        intents: Vec<Intent>,
        work: impl Future<Output = Outcome<(T, Done)>>,
    ) -> Outcome<T> {
        self.not_cancelled()?;
        self.journal.begin(name, intents).await?;
        self.not_cancelled()?;
        match work.await {
            Ok((result, done)) => {
                self.journal.done(name, done).await?;
                Ok(result)
            }
            Err(Halt::Fenced) => Err(Halt::Fenced),
            Err(halt) => {
                self.journal.failed(name, &halt).await?;
                Err(halt)
            }
        }
    }

    /// An error once cancelling was asked for.
    pub(crate) fn not_cancelled(&self) -> Outcome<()> {
        if self.cancel.is_cancelled() { Err(Halt::Cancelled) } else { Ok(()) }
    }

    /// The id of a new intent.
    pub(crate) fn new_intent(&self, kind: &str, pool: &str, target: &str, detail: &serde_json::Value) -> Intent {
        Intent {
            id: uuid::Uuid::new_v4().to_string(),
            kind: kind.to_owned(),
            pool: pool.to_owned(),
            target: target.to_owned(),
            detail: detail.to_string(),
            closed: false,
        }
    }
}

/// An intent of which nothing is left to do.
pub(crate) fn settled(intent: &Intent) -> Intent {
    Intent { closed: true, ..intent.clone() }
}
