//! The hosts of the pool and the certificate that each must show. A person confirmed one, that of the first host; the
//! others are learnt from XAPI over a connection that was itself pinned.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::Value;
use uuid::Uuid;

use crate::records::Host;
use crate::transport::Pins;
use crate::{Endpoint, Error, Fingerprint, Ref};

/// A host of the pool, as learnt from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHost {
    /// Its reference.
    pub reference: Ref<Host>,
    /// Its identity.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Where it listens; the port is that of the coordinator unless its address says otherwise.
    pub endpoint: Endpoint,
    /// Its certificate, where the pool could tell.
    pub fingerprint: Option<Fingerprint>,
}

/// What is known besides what was given.
#[derive(Debug, Default)]
struct Learnt {
    /// As the pool lists them.
    hosts: Vec<KnownHost>,
    /// From an earlier session, or from a trusted host that only named its coordinator; until the pool has been asked.
    vouched: Vec<(Endpoint, Fingerprint)>,
}

impl Learnt {
    fn all(&self) -> impl Iterator<Item = (&Endpoint, Fingerprint)> {
        let listed = self.hosts.iter().filter_map(|host| Some((&host.endpoint, host.fingerprint?)));
        listed.chain(self.vouched.iter().map(|(endpoint, fingerprint)| (endpoint, *fingerprint)))
    }
}

#[derive(Debug)]
pub(crate) struct Hosts {
    /// The first is the one whose certificate is `confirmed`.
    given: Vec<Endpoint>,
    confirmed: Fingerprint,
    learnt: RwLock<Learnt>,
    pins: Pins,
}

impl Hosts {
    pub(crate) fn new(given: Vec<Endpoint>, confirmed: Fingerprint, vouched: Vec<(Endpoint, Fingerprint)>) -> Self {
        let learnt = Learnt { hosts: Vec::new(), vouched };
        Self { given, confirmed, learnt: RwLock::new(learnt), pins: Pins::default() }
    }

    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Takes in what the pool says of all its hosts, in place of what was known before.
    pub(crate) fn learn(&self, hosts: Vec<KnownHost>) {
        *self.write() = Learnt { hosts, vouched: Vec::new() };
    }

    /// Takes in what a host with the right certificate says of its coordinator's.
    pub(crate) fn vouch(&self, coordinator: Endpoint, fingerprint: Fingerprint) {
        let mut learnt = self.write();
        learnt.hosts.retain(|known| known.endpoint != coordinator);
        learnt.vouched.retain(|(known, _)| *known != coordinator);
        learnt.vouched.push((coordinator, fingerprint));
    }

    pub(crate) fn learnt(&self) -> Vec<KnownHost> {
        self.read().hosts.clone()
    }

    /// The certificates that this host may show. Of the first host it is the confirmed one, whatever the pool says: a
    /// person is asked when it changes. A learnt certificate holds for every port of its host's address, and for the
    /// other given addresses, which may be names of a host that the pool knows by a number.
    pub(crate) fn accepted(&self, host: &Endpoint) -> Result<Vec<Fingerprint>, Error> {
        if self.is_confirmed(host) {
            return Ok(vec![self.confirmed]);
        }
        let learnt = self.read();
        let of_address = learnt.all().filter(|(known, _)| known.host() == host.host());
        let mut accepted: Vec<Fingerprint> = of_address.map(|(_, fingerprint)| fingerprint).collect();
        if accepted.is_empty() && self.given.contains(host) {
            accepted = learnt.all().map(|(_, fingerprint)| fingerprint).chain([self.confirmed]).collect();
        }
        accepted.sort_unstable();
        accepted.dedup();
        if accepted.is_empty() { Err(Error::UnknownHost { host: host.clone() }) } else { Ok(accepted) }
    }

    /// The host whose certificate a person confirmed.
    pub(crate) fn confirmed(&self) -> Option<&Endpoint> {
        self.given.first()
    }

    /// Whether a person confirmed the certificate of a host, so that nobody else may say another.
    pub(crate) fn is_confirmed(&self, host: &Endpoint) -> bool {
        self.confirmed() == Some(host)
    }

    /// Every endpoint that may be asked for the coordinator, the given ones first.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints = self.given.clone();
        for (endpoint, _) in self.read().all() {
            if !endpoints.contains(endpoint) {
                endpoints.push(endpoint.clone());
            }
        }
        endpoints
    }

    fn read(&self) -> RwLockReadGuard<'_, Learnt> {
        self.learnt.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Learnt> {
        self.learnt.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fingerprint of a host's server certificate in the answer to `Certificate.get_all_records`.
pub(crate) fn certificate_of(certificates: &Value, host: &Ref<Host>) -> Option<Fingerprint> {
    certificates
        .as_object()?
        .values()
        .find(|record| record["type"] == "host" && record["host"] == host.as_str())
        .and_then(|record| {
            ["fingerprint_sha256", "fingerprint"].iter().find_map(|field| record[*field].as_str()?.parse().ok())
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(address: &str) -> Endpoint {
        Endpoint::parse(address).unwrap()
    }

    fn known(address: &str, fingerprint: Option<Fingerprint>) -> KnownHost {
        KnownHost {
            reference: Ref::new(address).unwrap(),
            uuid: Uuid::nil(),
            name: address.to_owned(),
            endpoint: Endpoint::parse(address).unwrap(),
            fingerprint,
        }
    }

    #[test]
    fn the_confirmed_certificate_outranks_a_learnt_one_and_a_stranger_has_none() {
        let [given, learnt] = [b"given", b"learn"].map(|der| Fingerprint::of_der(der));
        let hosts = Hosts::new(vec![endpoint("10.0.0.1")], given, Vec::new());
        hosts.learn(vec![known("10.0.0.1", Some(learnt)), known("10.0.0.2", Some(learnt)), known("10.0.0.3", None)]);
        let accepted = |address| hosts.accepted(&endpoint(address));
        assert_eq!(accepted("10.0.0.1").unwrap(), [given]);
        assert_eq!(accepted("10.0.0.2:8443").unwrap(), [learnt]);
        for stranger in ["10.0.0.3", "10.0.0.9"] {
            assert!(matches!(accepted(stranger), Err(Error::UnknownHost { .. })), "{stranger}");
        }
        assert_eq!(hosts.endpoints().len(), 2);
    }

    #[test]
    fn another_given_address_may_be_a_name_of_any_host_that_the_pool_knows() {
        let [given, learnt, other] = [b"given", b"learn", b"other"].map(|der| Fingerprint::of_der(der));
        let hosts = Hosts::new(vec![endpoint("one.example"), endpoint("two.example")], given, Vec::new());
        assert_eq!(hosts.accepted(&endpoint("two.example")).unwrap(), [given]);
        hosts.learn(vec![known("10.0.0.1", Some(given)), known("10.0.0.2", Some(learnt))]);
        let accepted = hosts.accepted(&endpoint("two.example")).unwrap();
        assert!(accepted.contains(&given) && accepted.contains(&learnt) && !accepted.contains(&other));
        assert_eq!(hosts.accepted(&endpoint("one.example")).unwrap(), [given]);
    }

    #[test]
    fn what_the_pool_says_replaces_what_an_earlier_session_or_a_supporter_said() {
        let [given, old, new] = [b"given", b"older", b"newer"].map(|der| Fingerprint::of_der(der));
        let hosts = Hosts::new(vec![endpoint("10.0.0.1")], given, vec![(endpoint("10.0.0.2"), old)]);
        assert_eq!(hosts.accepted(&endpoint("10.0.0.2")).unwrap(), [old]);
        hosts.vouch(endpoint("10.0.0.2"), new);
        assert_eq!(hosts.accepted(&endpoint("10.0.0.2")).unwrap(), [new]);
        hosts.learn(vec![known("10.0.0.3", Some(new))]);
        assert!(hosts.accepted(&endpoint("10.0.0.2")).is_err());
    }

    #[test]
    fn the_certificate_of_a_host_is_its_server_certificate_by_sha_256() {
        let [mine, other] = [b"a", b"b"].map(|der| Fingerprint::of_der(der));
        let certificates = json!({
            "OpaqueRef:c1": {"type": "host_internal", "host": "OpaqueRef:h", "fingerprint": other},
            "OpaqueRef:c2": {"type": "host", "host": "OpaqueRef:h2", "fingerprint": other},
            "OpaqueRef:c3": {"type": "host", "host": "OpaqueRef:h", "fingerprint_sha256": "", "fingerprint": mine},
        });
        assert_eq!(certificate_of(&certificates, &Ref::new("OpaqueRef:h").unwrap()), Some(mine));
        assert_eq!(certificate_of(&certificates, &Ref::new("OpaqueRef:h3").unwrap()), None);
    }
}
