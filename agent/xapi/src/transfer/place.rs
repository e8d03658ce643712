//! Which host a transfer goes to: one that sees the disk, of these the one with the least to do for us.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::IndexedRandom;

use crate::events::Tables;
use crate::inventory::is_live;
use crate::records::{Host, HostMetrics, Pbd, Sr};
use crate::{Class, Client, Endpoint, Error, Ref};

/// Transfers under way by host.
#[derive(Debug, Default, Clone)]
pub(crate) struct Load(Arc<Mutex<HashMap<Endpoint, usize>>>);

impl Load {
    /// Counts a transfer until the guard is dropped.
    pub(crate) fn begin(&self, host: &Endpoint) -> LoadGuard {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(host.clone()).or_default() += 1;
        LoadGuard { load: self.clone(), host: host.clone() }
    }

    /// The hosts with the fewest transfers.
    fn least<'a>(&self, hosts: &'a [Endpoint]) -> Vec<&'a Endpoint> {
        let loads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let load = |host: &Endpoint| loads.get(host).copied().unwrap_or(0);
        let least = hosts.iter().map(load).min().unwrap_or(0);
        hosts.iter().filter(|host| load(host) == least).collect()
    }
}

#[derive(Debug)]
pub(crate) struct LoadGuard {
    load: Load,
    host: Endpoint,
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let mut loads = self.load.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = loads.get_mut(&self.host) {
            *load = load.saturating_sub(1);
            if *load == 0 {
                loads.remove(&self.host);
            }
        }
    }
}

/// The hosts that can serve a storage repository: attached, living, not in maintenance.
fn hosts_of(tables: &Tables, sr: &Ref<Sr>) -> Vec<Ref<Host>> {
    tables
        .pbds
        .iter()
        .filter(|(_, pbd)| pbd.currently_attached && pbd.sr.as_ref() == Some(sr))
        .filter_map(|(_, pbd)| pbd.host.clone())
        .filter(|host| tables.hosts.get(host).is_some_and(|record| record.enabled) && is_live(tables, host))
        .collect()
}

impl Client {
    /// The host to send a transfer to. Without a storage repository, the coordinator: it redirects.
    pub(super) async fn host_for(&self, sr: Option<&Ref<Sr>>) -> Result<Endpoint, Error> {
        let session = self.session().await?;
        let Some(sr) = sr else { return Ok(session.coordinator.clone()) };
        let hosts = hosts_of(&self.storage_tables().await?, sr);
        if hosts.is_empty() {
            return Err(Error::NoHostForSr { sr: sr.to_string() });
        }
        let mut endpoints = self.endpoints_of(&hosts);
        if endpoints.is_empty() {
            // Hosts that joined since.
            self.learn_hosts().await?;
            endpoints = self.endpoints_of(&hosts);
        }
        let least = self.load().least(&endpoints);
        Ok(least.choose(&mut rand::rng()).map_or_else(|| session.coordinator.clone(), |host| (*host).clone()))
    }

    fn endpoints_of(&self, hosts: &[Ref<Host>]) -> Vec<Endpoint> {
        let known = self.known_hosts().into_iter();
        known
            .filter(|host| hosts.contains(&host.reference) && self.hosts().accepted(&host.endpoint).is_ok())
            .map(|host| host.endpoint)
            .collect()
    }

    /// What is needed to choose, from live events or by asking.
    async fn storage_tables(&self) -> Result<Tables, Error> {
        if let Some(events) = self.events().filter(|events| events.health().is_live() && events.is_followed()) {
            return Ok(events.tables());
        }
        let mut tables = Tables::default();
        for (class, name) in [("pbd", Pbd::NAME), ("host", Host::NAME), ("host_metrics", HostMetrics::NAME)] {
            let method = format!("{name}.get_all_records");
            tables.replace(class, self.call_as(&method, Vec::new(), crate::Repeat::Safe).await?);
        }
        Ok(tables)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_living_host_with_the_storage_attached_serves_it() {
        let mut tables = Tables::default();
        let record = |value: serde_json::Value| value.as_object().unwrap().clone();
        let host = |metrics: &str, enabled: bool| json!({"metrics": metrics, "enabled": enabled});
        tables.replace(
            "host",
            record(json!({"h1": host("m1", true), "h2": host("m2", true), "h3": host("m1", false), "h4": host("m1", true)})),
        );
        tables.replace("host_metrics", record(json!({"m1": {"live": true}, "m2": {"live": false}})));
        let pbd = |host: &str, attached: bool| json!({"SR": "s", "host": host, "currently_attached": attached});
        tables.replace(
            "pbd",
            record(
                json!({"p1": pbd("h1", true), "p2": pbd("h2", true), "p3": pbd("h3", true), "p4": pbd("h4", false)}),
            ),
        );
        assert_eq!(hosts_of(&tables, &Ref::new("s").unwrap()), [Ref::new("h1").unwrap()]);
        assert!(hosts_of(&tables, &Ref::new("other").unwrap()).is_empty());
    }

    #[test]
    fn transfers_spread_over_the_hosts() {
        let load = Load::default();
        let hosts = ["10.0.0.1", "10.0.0.2"].map(|host| Endpoint::parse(host).unwrap());
        let first = load.begin(&hosts[0]);
        assert_eq!(load.least(&hosts), [&hosts[1]]);
        let _second = load.begin(&hosts[1]);
        assert_eq!(load.least(&hosts).len(), 2);
        drop(first);
        assert_eq!(load.least(&hosts), [&hosts[0]]);
    }
}
