//! The hosts of the pool and the certificates they must show: some given by the operator, the others learnt from XAPI
//! over a connection that was itself pinned.

use std::sync::{PoisonError, RwLock};

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

#[derive(Debug)]
pub(crate) struct Hosts {
    given: Vec<(Endpoint, Fingerprint)>,
    learnt: RwLock<Vec<KnownHost>>,
    pins: Pins,
}

impl Hosts {
    pub(crate) fn new(given: Vec<(Endpoint, Fingerprint)>) -> Self {
        Self { given, learnt: RwLock::default(), pins: Pins::default() }
    }

    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    pub(crate) fn learn(&self, hosts: Vec<KnownHost>) {
        *self.learnt.write().unwrap_or_else(PoisonError::into_inner) = hosts;
    }

    pub(crate) fn learnt(&self) -> Vec<KnownHost> {
        self.learnt.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The certificates that this host may show. What was given outranks what was learnt; a learnt certificate holds for
    /// every port of its host's address.
    pub(crate) fn accepted(&self, host: &Endpoint) -> Result<Vec<Fingerprint>, Error> {
        if let Some((_, fingerprint)) = self.given.iter().find(|(known, _)| known == host) {
            return Ok(vec![*fingerprint]);
        }
        let learnt = self.learnt.read().unwrap_or_else(PoisonError::into_inner);
        let mut accepted: Vec<Fingerprint> = learnt
            .iter()
            .filter(|known| known.endpoint.host() == host.host())
            .filter_map(|known| known.fingerprint)
            .collect();
        accepted.sort_unstable();
        accepted.dedup();
        if accepted.is_empty() { Err(Error::UnknownHost { host: host.clone() }) } else { Ok(accepted) }
    }

    /// Whether the certificate of a host was given, not learnt.
    pub(crate) fn is_given(&self, host: &Endpoint) -> bool {
        self.given.iter().any(|(known, _)| known == host)
    }

    /// Every endpoint that may be asked for the coordinator, the given ones first.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = self.given.iter().map(|(endpoint, _)| endpoint.clone()).collect();
        for host in self.learnt.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if host.fingerprint.is_some() && !endpoints.contains(&host.endpoint) {
                endpoints.push(host.endpoint.clone());
            }
        }
        endpoints
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
    fn a_given_fingerprint_outranks_a_learnt_one_and_a_stranger_has_none() {
        let [given, learnt] = [b"given", b"learn"].map(|der| Fingerprint::of_der(der));
        let hosts = Hosts::new(vec![(Endpoint::parse("10.0.0.1").unwrap(), given)]);
        hosts.learn(vec![known("10.0.0.1", Some(learnt)), known("10.0.0.2", Some(learnt)), known("10.0.0.3", None)]);
        let accepted = |address| hosts.accepted(&Endpoint::parse(address).unwrap());
        assert_eq!(accepted("10.0.0.1").unwrap(), [given]);
        assert_eq!(accepted("10.0.0.2:8443").unwrap(), [learnt]);
        for stranger in ["10.0.0.3", "10.0.0.9"] {
            assert!(matches!(accepted(stranger), Err(Error::UnknownHost { .. })), "{stranger}");
        }
        assert_eq!(hosts.endpoints().len(), 2);
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
