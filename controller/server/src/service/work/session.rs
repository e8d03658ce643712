//! Sessions: `Register`.

use coffer_core::decide::session;
use coffer_core::record::{AgentRecord, SessionRecord};
use coffer_model::AgentId;
use coffer_proto::v1;
use uuid::Uuid;

use crate::convert::{cut, duration_out, id_in};
use crate::fault::Fault;
use crate::plane::Plane;

/// Most tasks that an agent may take.
const CAPACITY: u32 = 1000;

pub(super) async fn register(plane: &Plane, request: v1::RegisterRequest) -> Result<v1::RegisterResponse, Fault> {
    let agent: AgentId = id_in("agent_id", &request.agent_id)?;
    for (field, value) in [("instance", &request.instance), ("boot_id", &request.boot_id)] {
        if value.is_empty() || value.len() > 200 {
            return Err(Fault::invalid(field, "must have 1 to 200 bytes"));
        }
    }
    if request.capacity == 0 || request.capacity > CAPACITY {
        return Err(Fault::invalid("capacity", format!("must be 1 to {CAPACITY}")));
    }
    let lease = plane.store.grant(plane.timings.session_ttl).await.map_err(Fault::Store)?;
    let record = SessionRecord {
        session: format!("{agent}/{}", Uuid::now_v7()),
        instance: request.instance,
        boot_id: request.boot_id,
        lease: lease.id.0,
    };
    let facts = AgentRecord {
        version: cut(request.version, 100),
        hostname: cut(request.hostname, 255),
        capacity: request.capacity,
        session_start: plane.now(),
    };
    let registered =
        plane.mutate(|state, _| Ok((session::register(state, &agent, facts.clone(), record.clone()), ()))).await;
    if let Err(fault) = registered {
        // The lease would end by itself; this is only tidier.
        drop(plane.store.revoke(lease.id).await);
        return Err(fault);
    }
    plane.heard.note(&agent, &record.session, plane.now());
    tracing::info!(%agent, session = record.session, "an agent has registered");
    let site = plane.read(|state| state.sites.get(&()).map(|site| site.record.site.clone()));
    Ok(v1::RegisterResponse {
        session: record.session,
        sync_interval: Some(duration_out(plane.timings.sync_interval)),
        authority: Some(duration_out(plane.timings.authority)),
        hard_stop: Some(duration_out(plane.timings.hard_stop)),
        site: site.unwrap_or_default(),
    })
}

/// Checks that a session lives, by the store itself, and lets it live on.
pub(super) async fn renew(plane: &Plane, session: &str) -> Result<AgentId, Fault> {
    use coffer_core::decide::work::{Refusal, session_of};
    let (agent, lease, created) = plane.read(|state| {
        session_of(state, session).map(|(agent, found)| (agent.clone(), found.record.lease, found.created))
    })?;
    match plane.store.keep_alive(coffer_store::LeaseId(lease)).await {
        Ok(_) => {}
        Err(coffer_store::Error::LeaseNotFound { .. }) => return Err(Refusal::UnknownSession.into()),
        Err(error) => return Err(Fault::Store(error)),
    }
    // A good keep-alive is not enough: what counts is that the key is still there.
    let key = coffer_core::Key::Session(agent.clone()).path();
    let found = plane.store.get(&key).await.map_err(Fault::Store)?;
    if found.is_none_or(|found| found.create_revision.0 != created || found.lease.is_none_or(|of| of.0 != lease)) {
        return Err(Refusal::UnknownSession.into());
    }
    plane.heard.note(&agent, session, plane.now());
    Ok(agent)
}
