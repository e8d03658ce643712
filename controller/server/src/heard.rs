//! What this controller remembers of agents' calls: when it heard of them, and what it told them last. May be lost.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use coffer_model::AgentId;
use jiff::Timestamp;

/// Bounded by the agents that have registered.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    agents: Mutex<BTreeMap<AgentId, Agent>>,
}

#[derive(Debug)]
struct Agent {
    last: Timestamp,
    session: String,
    told: Option<u64>,
}

impl Heard {
    fn agents(&self) -> MutexGuard<'_, BTreeMap<AgentId, Agent>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent called.
    pub(crate) fn note(&self, agent: &AgentId, session: &str, now: Timestamp) {
        let mut agents = self.agents();
        let told = agents.get(agent).filter(|known| known.session == session).and_then(|known| known.told);
        agents.insert(agent.clone(), Agent { last: now, session: session.to_owned(), told });
    }

    /// When the agent called last.
    pub(crate) fn last(&self, agent: &AgentId) -> Option<Timestamp> {
        self.agents().get(agent).map(|known| known.last)
    }

    /// True when the session was told exactly this last.
    pub(crate) fn was_told(&self, agent: &AgentId, session: &str, digest: u64) -> bool {
        self.agents().get(agent).is_some_and(|known| known.session == session && known.told == Some(digest))
    }

    /// The session is told this.
    pub(crate) fn tell(&self, agent: &AgentId, session: &str, digest: u64) {
        if let Some(known) = self.agents().get_mut(agent)
            && known.session == session
        {
            known.told = Some(digest);
        }
    }
}
