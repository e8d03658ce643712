//! The pool and its hosts.

use std::collections::BTreeMap;

use serde::Deserialize;
use uuid::Uuid;

use super::decode::{integer, nullable, references};
use super::{Pbd, Sr, Vm, class};
use crate::Ref;

class!(
    /// Class `pool`: exactly one.
    Pool, "pool", PoolRecord
);
class!(
    /// Class `host`.
    Host, "host", HostRecord
);
class!(
    /// Class `host_metrics`.
    HostMetrics, "host_metrics", HostMetricsRecord
);

/// What is read of a `pool`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PoolRecord {
    /// Identity.
    pub uuid: Uuid,
    /// Name; empty unless somebody gave one.
    pub name_label: String,
    /// The coordinator.
    #[serde(deserialize_with = "nullable")]
    pub master: Option<Ref<Host>>,
    /// Where disks go when nobody says.
    #[serde(rename = "default_SR", deserialize_with = "nullable")]
    pub default_sr: Option<Ref<Sr>>,
    /// Free for clients.
    pub other_config: BTreeMap<String, String>,
    /// Feature → `"true"` when the licence forbids it.
    pub restrictions: BTreeMap<String, String>,
}

/// What is read of a `host`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HostRecord {
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name_label: String,
    /// Management address.
    pub address: String,
    /// Not in maintenance.
    pub enabled: bool,
    /// Whether it lives.
    #[serde(deserialize_with = "nullable")]
    pub metrics: Option<Ref<HostMetrics>>,
    /// Its connections to storage.
    #[serde(rename = "PBDs", deserialize_with = "references")]
    pub pbds: Vec<Ref<Pbd>>,
    /// Its control domain.
    #[serde(deserialize_with = "nullable")]
    pub control_domain: Option<Ref<Vm>>,
    /// `product_brand`, `product_version`, …
    pub software_version: BTreeMap<String, String>,
    /// Version of the API.
    #[serde(rename = "API_version_major", deserialize_with = "integer")]
    pub api_version_major: i64,
    /// Version of the API.
    #[serde(rename = "API_version_minor", deserialize_with = "integer")]
    pub api_version_minor: i64,
}

/// What is read of `host_metrics`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HostMetricsRecord {
    /// Identity.
    pub uuid: Uuid,
    /// Whether the pool hears it.
    pub live: bool,
}
