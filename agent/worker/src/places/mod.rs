//! The pools and remotes that controllers tell this agent to work with: one keeper for each, which connects, reports
//! what it sees, and begins anew when something breaks. Owns what tasks find by id; never starts work in a pool.

mod inventory;
mod pools;
mod remotes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coffer_extent::BufferPool;
use coffer_model::names::Named;
use coffer_model::{PoolId, RemoteId};
use coffer_proto::v1::task_spec::Kind;
use coffer_proto::v1::{AgentConfig, PoolAccess, RemoteAccess, TaskSpec};
use coffer_runtime::retry::Policy;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::halt::Trouble;
use crate::hypervisor::Hypervisor;
use crate::sync::Link;
use crate::sync::reports::Reports;
use crate::task::{OpenRemote, Places};

/// Between attempts at a pool or a remote that cannot be used.
const BETWEEN_ATTEMPTS: Policy = Policy { max: Duration::from_secs(10), ..Policy::RECONNECT };
/// Longest wait for a first attempt at a place that has just been configured.
const FIRST_LOOK: Duration = Duration::from_secs(30);
/// How long keepers may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(3);

/// How a place stands.
#[derive(Debug, Clone)]
enum Standing<T> {
    /// The first attempt is under way.
    Unknown,
    Usable(T),
    Unusable(Trouble),
}

/// A place that is configured, and who keeps it.
struct Place<A, T> {
    access: A,
    standing: watch::Receiver<Standing<T>>,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

impl<A, T> Drop for Place<A, T> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

type Pools = BTreeMap<PoolId, Place<PoolAccess, Arc<dyn Hypervisor>>>;
type Remotes = BTreeMap<RemoteId, Place<RemoteAccess, OpenRemote>>;

/// What every keeper works with.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) link: Link,
    pub(crate) reports: Reports,
    pub(crate) authority: Authority,
    pub(crate) buffers: BufferPool,
}

/// The places of the configuration in force.
pub(crate) struct ConfiguredPlaces {
    surroundings: Surroundings,
    pools: Mutex<Pools>,
    remotes: Mutex<Remotes>,
}

impl ConfiguredPlaces {
    /// None yet.
    pub(crate) fn new(surroundings: Surroundings) -> Self {
        Self { surroundings, pools: Mutex::default(), remotes: Mutex::default() }
    }

    /// Puts a configuration into force. Places whose access did not change are left alone. To be called inside a
    /// runtime.
    pub(crate) fn configure(&self, config: AgentConfig) {
        let reports = &self.surroundings.reports;
        let pools = by_id::<PoolId, _>(config.pools, |access| &access.pool);
        let remotes = by_id::<RemoteId, _>(config.remotes, |access| &access.remote);
        reconfigure(
            &mut self.pools(),
            pools,
            |wanted, place| same_pool(wanted, &place.access),
            |id| reports.forget_pool(&id.name()),
            |id, access, standing, stop| {
                tokio::spawn(pools::keep(id, access, self.surroundings.clone(), standing, stop))
            },
        );
        reconfigure(
            &mut self.remotes(),
            remotes,
            same_remote,
            |id| reports.forget_remote(&id.name()),
            |id, access, standing, stop| tokio::spawn(remotes::keep(id, access, reports.clone(), standing, stop)),
        );
    }

    /// Returns once each place that a task names has been tried, so that a task that arrives together with the
    /// configuration does not fail for that.
    pub(crate) async fn looked_at(&self, spec: &TaskSpec) {
        let (pools, remotes) = named(spec);
        let pools: Vec<_> = {
            let known = self.pools();
            pools.iter().filter_map(|id| Some(known.get(id)?.standing.clone())).collect()
        };
        let remotes: Vec<_> = {
            let known = self.remotes();
            remotes.iter().filter_map(|id| Some(known.get(id)?.standing.clone())).collect()
        };
        let all = async {
            // A keeper that is gone has been replaced: then the task finds out.
            for mut pool in pools {
                let _ = pool.wait_for(|standing| !matches!(standing, Standing::Unknown)).await;
            }
            for mut remote in remotes {
                let _ = remote.wait_for(|standing| !matches!(standing, Standing::Unknown)).await;
            }
        };
        let _ = tokio::time::timeout(FIRST_LOOK, all).await;
    }

    /// Ends every keeper and the sessions in pools.
    pub(crate) async fn close(&self) {
        let pools = std::mem::take(&mut *self.pools());
        let remotes = std::mem::take(&mut *self.remotes());
        let all = async {
            for place in pools.into_values() {
                place.ended().await;
            }
            for place in remotes.into_values() {
                place.ended().await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE, all).await;
    }

    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remotes(&self) -> MutexGuard<'_, Remotes> {
        self.remotes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A, T> Place<A, T> {
    async fn ended(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.keeper).await {
            tracing::error!(%error, "what kept a pool or a remote has failed inside");
        }
    }
}

impl<A, T: Clone> Place<A, T> {
    /// What tasks work with. `what` names the place.
    fn get(&self, what: &str) -> Result<T, Trouble> {
        match &*self.standing.borrow() {
            Standing::Usable(place) => Ok(place.clone()),
            Standing::Unusable(trouble) => Err(trouble.clone().during(format_args!("{what} cannot be used"))),
            Standing::Unknown => Err(Trouble::new(
                "NOT_CONNECTED",
                format!("{what} has not answered yet"),
                "look whether it can be reached from the agent's machine",
            )
            .passing()),
        }
    }
}

impl Places for ConfiguredPlaces {
    fn pool(&self, pool: &PoolId) -> Result<Arc<dyn Hypervisor>, Trouble> {
        let what = format!("pool {pool}");
        self.pools().get(pool).ok_or_else(|| not_configured(&what))?.get(&what)
    }

    fn remote(&self, remote: &RemoteId) -> Result<OpenRemote, Trouble> {
        let what = format!("remote {remote}");
        self.remotes().get(remote).ok_or_else(|| not_configured(&what))?.get(&what)
    }
}

fn not_configured(what: &str) -> Trouble {
    Trouble::new("NOT_CONFIGURED", format!("{what} is not configured"), "look whether it has been deleted").passing()
}

/// The pools and remotes that a task works with.
fn named(spec: &TaskSpec) -> (Vec<PoolId>, Vec<RemoteId>) {
    let (pool, remotes): (&str, Vec<&str>) = match &spec.kind {
        Some(Kind::Backup(spec)) => (&spec.pool, spec.remotes.iter().map(String::as_str).collect()),
        Some(Kind::Restore(spec)) => (&spec.pool, spec.point.iter().map(|point| point.remote.as_str()).collect()),
        Some(Kind::Export(spec)) => ("", spec.point.iter().map(|point| point.remote.as_str()).collect()),
        Some(Kind::Verify(point) | Kind::Delete(point)) => ("", vec![&point.remote]),
        Some(Kind::Scan(spec)) => ("", vec![&spec.remote]),
        Some(Kind::Prune(spec)) => ("", vec![&spec.remote]),
        None => ("", Vec::new()),
    };
    let pools = PoolId::from_name(pool).into_iter().collect();
    (pools, remotes.into_iter().filter_map(|remote| RemoteId::from_name(remote).ok()).collect())
}

fn by_id<I: Named + Ord, A>(accesses: Vec<A>, name: impl Fn(&A) -> &str) -> BTreeMap<I, A> {
    let mut known = BTreeMap::new();
    for access in accesses {
        match I::from_name(name(&access)) {
            Ok(id) => drop(known.insert(id, access)),
            Err(error) => tracing::warn!("the configuration is left out of account: {}", error.explain()),
        }
    }
    known
}

/// Whether a pool is to be entered as before. What another agent learnt of its hosts meanwhile, this one learns itself.
fn same_pool(one: &PoolAccess, other: &PoolAccess) -> bool {
    let without = |access: &PoolAccess| PoolAccess { members: Vec::new(), ..access.clone() };
    without(one) == without(other)
}

/// Whether a remote is to be kept as before. What the controllers have learnt from this agent, it knows.
fn same_remote(wanted: &RemoteAccess, place: &Place<RemoteAccess, OpenRemote>) -> bool {
    let open = match &*place.standing.borrow() {
        Standing::Usable(open) => open.repository.id().to_string(),
        Standing::Unknown | Standing::Unusable(_) => String::new(),
    };
    let is_learnt = place.access.repository_id.is_empty() && open == wanted.repository_id;
    let known = if is_learnt { &wanted.repository_id } else { &place.access.repository_id };
    *wanted == RemoteAccess { repository_id: known.clone(), ..place.access.clone() }
}

/// Ends what is not wanted any more or wanted differently, and begins what is new.
fn reconfigure<I: Ord + Clone, A: Clone, T>(
    places: &mut BTreeMap<I, Place<A, T>>,
    wanted: BTreeMap<I, A>,
    same: impl Fn(&A, &Place<A, T>) -> bool,
    forget: impl Fn(&I),
    keep: impl Fn(I, A, watch::Sender<Standing<T>>, CancellationToken) -> JoinHandle<()>,
) {
    places.retain(|id, place| {
        let stays = wanted.get(id).is_some_and(|wanted| same(wanted, place));
        if !stays {
            place.stop.cancel();
            forget(id);
        }
        stays
    });
    for (id, access) in wanted {
        places.entry(id.clone()).or_insert_with(|| {
            let (sender, standing) = watch::channel(Standing::Unknown);
            let stop = CancellationToken::new();
            let keeper = keep(id, access.clone(), sender, stop.clone());
            Place { access, standing, stop, keeper }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remotes(paths: &[(&str, &str)]) -> BTreeMap<String, String> {
        paths.iter().map(|&(id, path)| (id.to_owned(), path.to_owned())).collect()
    }

    #[test]
    fn a_pool_is_not_left_and_entered_again_for_what_was_learnt_of_its_hosts() {
        let access = |fingerprint: &str, members| PoolAccess {
            pool: "pools/lab".into(),
            fingerprint: fingerprint.into(),
            members,
            ..PoolAccess::default()
        };
        let learnt = vec![coffer_proto::v1::PoolHost { address: "192.0.2.11".into(), ..Default::default() }];
        assert!(same_pool(&access("AA", Vec::new()), &access("AA", learnt.clone())));
        assert!(!same_pool(&access("AA", learnt.clone()), &access("BB", learnt)));
    }

    #[tokio::test]
    async fn only_places_whose_access_changed_are_begun_anew() {
        let begun = Mutex::new(Vec::new());
        let forgotten = Mutex::new(Vec::new());
        let mut places: BTreeMap<String, Place<String, ()>> = BTreeMap::new();
        let mut apply = |wanted| {
            reconfigure(
                &mut places,
                wanted,
                |wanted, place| *wanted == place.access,
                |id: &String| forgotten.lock().unwrap().push(id.clone()),
                |id, _, _, stop| {
                    begun.lock().unwrap().push(id);
                    tokio::spawn(async move { stop.cancelled().await })
                },
            );
        };
        apply(remotes(&[("a", "/a"), ("b", "/b"), ("c", "/c")]));
        apply(remotes(&[("a", "/a"), ("b", "/other")]));
        assert_eq!(*begun.lock().unwrap(), ["a", "b", "c", "b"]);
        assert_eq!(*forgotten.lock().unwrap(), ["b", "c"]);
        assert_eq!(places.keys().collect::<Vec<_>>(), ["a", "b"]);
    }
}
