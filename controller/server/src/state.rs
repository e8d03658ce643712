//! Where the controller's state is: in a file of its own, or in an etcd cluster.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use coffer_store::{EmbeddedStore, EtcdIdentity, EtcdOptions, EtcdStore, EtcdTls, StateStore};

/// The options that name a cluster.
#[derive(Debug, Args)]
pub(crate) struct EtcdArgs {
    /// Members of an etcd cluster that keeps the state, instead of a file in the state folder; separated by commas
    #[arg(long, value_name = "URL,…", env = "COFFER_ETCD", value_delimiter = ',')]
    etcd: Vec<String>,
    /// What every key in etcd begins with [default: /coffer/default]
    #[arg(long, value_name = "PREFIX", env = "COFFER_ETCD_PREFIX", requires = "etcd")]
    etcd_prefix: Option<String>,
    /// Certificates of the authority of etcd's members, in PEM
    #[arg(long, value_name = "FILE", env = "COFFER_ETCD_CA", requires = "etcd")]
    etcd_ca: Option<std::path::PathBuf>,
    /// The controller's certificate for etcd, in PEM
    #[arg(long, value_name = "FILE", env = "COFFER_ETCD_CERT", requires_all = ["etcd_ca", "etcd_key"])]
    etcd_cert: Option<std::path::PathBuf>,
    /// Its key, in PEM
    #[arg(long, value_name = "FILE", env = "COFFER_ETCD_KEY", requires = "etcd_cert")]
    etcd_key: Option<std::path::PathBuf>,
}

impl EtcdArgs {
    fn options(&self) -> Option<EtcdOptions> {
        if self.etcd.is_empty() {
            return None;
        }
        let mut options = EtcdOptions::new(self.etcd.iter().cloned());
        if let Some(prefix) = &self.etcd_prefix {
            options.prefix.clone_from(prefix);
        }
        let identity = self.etcd_cert.clone().zip(self.etcd_key.clone());
        let identity = identity.map(|(cert, key)| EtcdIdentity { cert, key });
        options.tls = self.etcd_ca.clone().map(|ca| EtcdTls { ca, identity });
        Some(options)
    }
}

/// The store that was opened.
pub(crate) enum Opened {
    File(EmbeddedStore),
    Etcd(EtcdStore),
}

impl Opened {
    /// Opens the cluster that is named, or the file in the state folder.
    pub(crate) async fn open(folder: &Path, etcd: &EtcdArgs) -> anyhow::Result<Self> {
        let path = folder.join("store.redb");
        if let Some(options) = etcd.options() {
            let store = EtcdStore::connect(options).await.context("cannot use the state store in etcd")?;
            if path.exists() {
                tracing::warn!(path = %path.display(), "the state is in etcd; what is in this file is not used");
            }
            return Ok(Self::Etcd(store));
        }
        let store = EmbeddedStore::open(&path).await;
        let store = store.with_context(|| format!("cannot open the state store {}", path.display()))?;
        Ok(Self::File(store))
    }

    /// The store, as the controller uses it.
    pub(crate) fn store(&self) -> Arc<dyn StateStore> {
        match self {
            Self::File(store) => Arc::new(store.clone()),
            Self::Etcd(store) => Arc::new(store.clone()),
        }
    }

    /// Lets the file go.
    pub(crate) async fn close(self) {
        if let Self::File(store) = self {
            store.close().await;
        }
    }
}
