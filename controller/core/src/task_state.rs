//! The life of a task: one enum with data per state, one total transition function.
//!
//! It says which moves exist; what each of them writes besides is decided by the modules of [`crate::decide`].

use coffer_model::AgentId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The right of one agent to work on a task, for as long as its session lives and a little longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The agent.
    pub agent: AgentId,
    /// Its session.
    pub session: String,
    /// The start of its process: the same one may come back with another session, another one may not.
    pub instance: String,
    /// What the delivery is for.
    pub purpose: Purpose,
}

/// What a delivery is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To do the work.
    Work,
    /// To do the work, after an agent was lost with it: what it left is settled first.
    Recover,
    /// Only to undo what is open. The task has been given up, with this verdict.
    Cleanup {
        /// How the task will end.
        verdict: Verdict,
    },
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Well.
    Succeeded,
    /// Badly.
    Failed,
    /// On request.
    Cancelled,
    /// Its agent was lost too often.
    Interrupted,
    /// Nothing was done, on purpose.
    Skipped,
}

/// Where a task stands. What a crash of an agent or a controller means is said beside each state; whoever cleans up is
/// named there too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Nobody holds it, no slot is taken, the virtual machine is free. A crash means nothing: the dispatcher of any
    /// controller leases it later.
    Waiting {
        /// Not leased before this instant (a retry).
        not_before: Option<Timestamp>,
    },
    /// An agent should hold it; it may not know yet. If the agent crashes, nothing was done: its session ends and the
    /// session watcher goes on.
    Leased {
        /// Whose it is.
        lease: Lease,
    },
    /// The agent has recorded an operation. If it crashes, intents say what may be left in the pool; the session
    /// watcher makes the task `Disconnected`.
    Running {
        /// Whose it is.
        lease: Lease,
    },
    /// The agent may be publishing. If it crashes, only the commit record on the remote says whether it did; the next
    /// delivery reads it before anything else.
    Committing {
        /// Whose it is.
        lease: Lease,
    },
    /// The session is over, but the agent may still be at work until its hard stop: slots, virtual machine and epoch
    /// stay. The session watcher of any controller waits that out from when it saw this; a controller that restarts
    /// waits anew.
    Disconnected {
        /// Whose it was.
        lease: Lease,
        /// It was `Committing`.
        committing: bool,
    },
    /// The old agent cannot be at work any more and its epoch is refused everywhere. Slots and virtual machine stay
    /// with the task. A crash means nothing: the dispatcher of any controller delivers it.
    Recovering {
        /// What the next delivery is for.
        purpose: Purpose,
    },
    /// Over. Slots and virtual machine were freed in the same transaction.
    Ended {
        /// How.
        verdict: Verdict,
    },
}

/// What happens to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is given to an agent.
    Leased(Lease),
    /// The agent recorded an operation.
    Worked,
    /// The agent may publish.
    Granted,
    /// The agent's session is over.
    SessionLost,
    /// The same process of the agent is back, with this session.
    SessionBack {
        /// The new session.
        session: String,
    },
    /// The agent is gone for good, or what it did has to be undone by a further delivery.
    TakenOver(Purpose),
    /// This attempt failed; there will be another one.
    Retry {
        /// Not before.
        not_before: Timestamp,
    },
    /// It is over.
    Ended(Verdict),
}

/// A move that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {state} cannot be {event}")]
pub struct IllegalMove {
    state: &'static str,
    event: &'static str,
}

impl TaskState {
    /// The state after `event`.
    ///
    /// # Errors
    /// [`IllegalMove`] when there is no such move from this state.
    pub fn after(self, event: Event) -> Result<Self, IllegalMove> {
        use TaskState::{Committing, Disconnected, Ended, Leased, Recovering, Running, Waiting};
        let refused = IllegalMove { state: self.word(), event: event.word() };
        match (self, event) {
            (Waiting { .. } | Recovering { .. }, Event::Leased(lease)) => Ok(Leased { lease }),

            (Leased { lease } | Running { lease }, Event::Worked) => Ok(Running { lease }),
            (Committing { lease }, Event::Worked) => Ok(Committing { lease }),

            (Leased { lease } | Running { lease } | Committing { lease }, Event::Granted) => Ok(Committing { lease }),

            (Leased { lease } | Running { lease }, Event::SessionLost) => Ok(Disconnected { lease, committing: false }),
            (Committing { lease }, Event::SessionLost) => Ok(Disconnected { lease, committing: true }),

            (Leased { lease }, Event::SessionBack { session }) => Ok(Leased { lease: Lease { session, ..lease } }),
            (Running { lease } | Disconnected { lease, committing: false }, Event::SessionBack { session }) => {
                Ok(Running { lease: Lease { session, ..lease } })
            }
            (Committing { lease } | Disconnected { lease, committing: true }, Event::SessionBack { session }) => {
                Ok(Committing { lease: Lease { session, ..lease } })
            }

            (
                Leased { .. } | Running { .. } | Committing { .. } | Disconnected { .. } | Recovering { .. },
                Event::TakenOver(purpose),
            ) => Ok(Recovering { purpose }),

            (Leased { .. } | Running { .. } | Committing { .. }, Event::Retry { not_before }) => {
                Ok(Waiting { not_before: Some(not_before) })
            }

            (
                Waiting { .. }
                | Leased { .. }
                | Running { .. }
                | Committing { .. }
                | Disconnected { .. }
                | Recovering { .. },
                Event::Ended(verdict),
            ) => Ok(Ended { verdict }),

            (Waiting { .. }, Event::Worked | Event::Granted | Event::SessionLost | Event::SessionBack { .. })
            | (Waiting { .. }, Event::TakenOver(_) | Event::Retry { .. })
            | (Leased { .. } | Running { .. } | Committing { .. }, Event::Leased(_))
            | (Disconnected { .. }, Event::Leased(_) | Event::Worked | Event::Granted | Event::SessionLost)
            | (Disconnected { .. } | Recovering { .. }, Event::Retry { .. })
            | (Recovering { .. }, Event::Worked | Event::Granted | Event::SessionLost | Event::SessionBack { .. })
            | (Ended { .. }, _) => Err(refused),
        }
    }

    /// The lease, while an agent holds it or may still act on it.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Leased { lease }
            | Self::Running { lease }
            | Self::Committing { lease }
            | Self::Disconnected { lease, .. } => Some(lease),
            Self::Waiting { .. } | Self::Recovering { .. } | Self::Ended { .. } => None,
        }
    }

    /// The lease, while the agent's session is believed to live.
    #[must_use]
    pub fn live_lease(&self) -> Option<&Lease> {
        match self {
            Self::Disconnected { .. } => None,
            _ => self.lease(),
        }
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Ended { verdict } => Some(*verdict),
            _ => None,
        }
    }

    /// True when slots and the virtual machine are held.
    #[must_use]
    pub fn holds(&self) -> bool {
        !matches!(self, Self::Waiting { .. } | Self::Ended { .. })
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Leased { .. } => "leased",
            Self::Running { .. } => "running",
            Self::Committing { .. } => "committing",
            Self::Disconnected { .. } => "disconnected",
            Self::Recovering { .. } => "recovering",
            Self::Ended { .. } => "ended",
        }
    }
}

impl Event {
    fn word(&self) -> &'static str {
        match self {
            Self::Leased(_) => "leased",
            Self::Worked => "worked on",
            Self::Granted => "granted a publication",
            Self::SessionLost => "disconnected",
            Self::SessionBack { .. } => "reconnected",
            Self::TakenOver(_) => "taken over",
            Self::Retry { .. } => "tried again",
            Self::Ended(_) => "ended",
        }
    }
}
