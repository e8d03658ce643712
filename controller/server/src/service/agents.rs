//! `AgentService`.

use std::sync::Arc;

use coffer_core::record::AgentRecord;
use coffer_core::{State, Versioned};
use coffer_model::AgentId;
use coffer_model::names::Named;
use coffer_proto::v1;
use tonic::{Request, Response, Status};

use super::missing;
use crate::convert::{name_in, time_out};
use crate::page::{Order, page};
use crate::plane::Plane;

#[derive(Debug, Clone)]
pub(crate) struct Agents(pub(crate) Arc<Plane>);

fn agent_out(plane: &Plane, state: &State, id: &AgentId, agent: &Versioned<AgentRecord>) -> v1::Agent {
    use v1::agent::State as Out;
    let online = state.sessions.contains_key(&(id.clone(),));
    let tasks =
        state.open_tasks().filter(|(_, task)| task.record.state.lease().is_some_and(|lease| lease.agent == *id));
    let seen = plane.heard.last(id).unwrap_or(agent.record.session_start);
    v1::Agent {
        name: id.name(),
        state: if online { Out::Online } else { Out::Offline }.into(),
        version: agent.record.version.clone(),
        hostname: agent.record.hostname.clone(),
        start_time: Some(time_out(agent.record.session_start)),
        seen_time: Some(time_out(seen)),
        tasks: u32::try_from(tasks.count()).unwrap_or(u32::MAX),
        capacity: agent.record.capacity,
    }
}

#[tonic::async_trait]
impl v1::agent_service_server::AgentService for Agents {
    async fn get_agent(&self, request: Request<v1::GetAgentRequest>) -> Result<Response<v1::Agent>, Status> {
        let id: AgentId = name_in("name", &request.into_inner().name)?;
        let found =
            self.0.read(|state| state.agents.get(&(id.clone(),)).map(|agent| agent_out(&self.0, state, &id, agent)));
        Ok(Response::new(found.ok_or_else(|| missing(id.name()))?))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let all = self.0.read(|state| {
            let agents = state.agents.iter();
            agents.map(|((id,), agent)| (id.to_string(), agent_out(&self.0, state, id, agent))).collect()
        });
        let (agents, next_page_token) = page(all, Order::Rising, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListAgentsResponse { agents, next_page_token }))
    }
}
