//! How an etcd cluster is reached: endpoints, prefix, certificates, times.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use zeroize::Zeroizing;

use crate::error::Error;

/// The prefix that is used when none is given.
pub const DEFAULT_PREFIX: &str = "/coffer/default";
/// Longest prefix, in bytes: transactions have room for so much more with each key.
pub const MAX_PREFIX_BYTES: usize = 128;
/// How often the connection is tested while a watch is open. etcd closes connections that ask more often than every
/// 5 s, so this is not for the operator to choose.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// How long the answer to such a test may take.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// What [`EtcdStore::connect`](crate::EtcdStore::connect) needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdOptions {
    /// The members of the cluster, as `https://10.0.0.1:2379`: all of them, so that one can stand in for another.
    pub endpoints: Vec<String>,
    /// Every key lies below this; installations that share a cluster have one each. Begins with `/`, does not end with
    /// one, and may not lie below another installation's.
    pub prefix: String,
    /// Certificates, when the endpoints are `https`.
    pub tls: Option<EtcdTls>,
    /// How long things may take.
    pub timeouts: EtcdTimeouts,
}

/// The files that connections are secured with, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Certificates of the authorities that may have signed the members' certificates.
    pub ca: PathBuf,
    /// What this program shows to the members, when they ask for it.
    pub identity: Option<EtcdIdentity>,
}

/// A client certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdIdentity {
    /// The certificate, followed by those between it and the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How long things may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTimeouts {
    /// Until a connection to an endpoint stands.
    pub connect: Duration,
    /// Until an endpoint has answered a request; then another one is tried. Longer than an election of the cluster
    /// takes.
    pub request: Duration,
    /// Until a call is given up, whatever was tried for it. A change is begun within its first half, so that there is
    /// time to learn what became of it.
    pub call: Duration,
}

impl Default for EtcdTimeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), request: Duration::from_secs(3), call: Duration::from_secs(15) }
    }
}

impl EtcdOptions {
    /// The defaults for these endpoints: [`DEFAULT_PREFIX`], no certificates, the usual times.
    pub fn new<Endpoint: Into<String>>(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: DEFAULT_PREFIX.to_owned(),
            tls: None,
            timeouts: EtcdTimeouts::default(),
        }
    }

    /// Checks everything that can be told without a connection or a file.
    ///
    /// # Errors
    /// [`Error::Invalid`], which says what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        self.problem().map_or(Ok(()), |reason| Err(Error::Invalid { reason }))
    }

    fn problem(&self) -> Option<String> {
        if self.endpoints.is_empty() {
            return Some("no etcd endpoint is given".to_owned());
        }
        for (number, endpoint) in self.endpoints.iter().enumerate() {
            if endpoint.contains('@') {
                // Not shown: what stands before it may be a password.
                return Some(
                    "an etcd endpoint holds a name or password; a client certificate takes their place".to_owned(),
                );
            }
            if let Some(problem) = self.endpoint_problem(endpoint) {
                return Some(format!("the etcd endpoint {endpoint:?} {problem}"));
            }
            if self.endpoints[..number].contains(endpoint) {
                return Some(format!("the etcd endpoint {endpoint:?} is given twice"));
            }
        }
        let prefix = &self.prefix;
        if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains("//") || prefix.contains('\0') {
            return Some(format!(
                "the prefix {prefix:?} has to begin with a slash, go on with names between single slashes, and not end \
                 with one, as {DEFAULT_PREFIX:?}"
            ));
        }
        if prefix.len() > MAX_PREFIX_BYTES {
            return Some(format!("the prefix has {} bytes; at most {MAX_PREFIX_BYTES} are possible", prefix.len()));
        }
        let EtcdTimeouts { connect, request, call } = self.timeouts;
        if connect.is_zero() || request < connect || call < request * 3 {
            return Some(format!(
                "the times contradict each other: to connect {connect:?}, not shorter for a request {request:?}, three \
                 times that or longer for a call {call:?}"
            ));
        }
        None
    }

    fn endpoint_problem(&self, endpoint: &str) -> Option<String> {
        let address = match (endpoint.strip_prefix("https://"), endpoint.strip_prefix("http://"), &self.tls) {
            (Some(address), _, Some(_)) | (_, Some(address), None) => address,
            (Some(_), _, None) => {
                return Some("is https, and no certificate of its authority is given to check it with".to_owned());
            }
            (_, Some(_), Some(_)) => {
                return Some("is http, and certificates are given; say https, or leave them out".to_owned());
            }
            (None, None, _) => return Some("has to begin with http:// or https://".to_owned()),
        };
        let port = address.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if port.is_none() || address.contains(['/', '?', '#', ' ', ',']) {
            return Some("has to be a scheme, a host and a port, as https://10.0.0.1:2379".to_owned());
        }
        None
    }

    /// What the client library is told, with the content of the certificate files.
    pub(crate) fn client(&self) -> Result<ConnectOptions, Error> {
        let options = ConnectOptions::new()
            .with_connect_timeout(self.timeouts.connect)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        let Some(tls) = &self.tls else { return Ok(options) };
        let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
        if let Some(EtcdIdentity { cert, key }) = &tls.identity {
            config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(options.with_tls(config))
    }
}

/// The content of a file in PEM.
pub(super) fn read(path: &std::path::Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let content = std::fs::read(path).map(Zeroizing::new);
    let content = content.map_err(|error| Error::Credential { path: path.to_owned(), reason: error.to_string() })?;
    if !content.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err(Error::Credential { path: path.to_owned(), reason: "it holds nothing in PEM".to_owned() });
    }
    Ok(content)
}

impl fmt::Display for EtcdOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} below {}", self.endpoints.join(", "), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls() -> Option<EtcdTls> {
        Some(EtcdTls { ca: "ca.pem".into(), identity: None })
    }

    fn check(options: &EtcdOptions, problem: &str) {
        match (options.problem(), problem) {
            (None, "") => {}
            (Some(said), problem) if !problem.is_empty() && said.contains(problem) => {}
            (said, problem) => panic!("{problem:?} should be said, not {said:?}, of {options:?}"),
        }
    }

    #[test]
    fn endpoints_that_cannot_be_meant_are_refused_by_name() {
        for (endpoints, tls, problem) in [
            (vec!["http://10.0.0.1:2379"], None, ""),
            (vec!["https://a.example:2379", "https://b.example:2379", "https://[::1]:2379"], tls(), ""),
            (vec![], None, "no etcd endpoint"),
            (vec!["10.0.0.1:2379"], None, "\"10.0.0.1:2379\" has to begin with"),
            (vec!["https://a:2379"], None, "no certificate of its authority"),
            (vec!["https://a:2379", "http://b:2379"], tls(), "\"http://b:2379\" is http"),
            (vec!["http://a"], None, "a host and a port"),
            (vec!["http://:2379"], None, "a host and a port"),
            (vec!["http://a:2379/"], None, "a host and a port"),
            (vec!["http://a:99999"], None, "a host and a port"),
            (vec!["http://user:secret@a:2379"], None, "holds a name or password"),
            (vec!["http://a:2379", "http://a:2379"], None, "given twice"),
        ] {
            check(&EtcdOptions { tls, ..EtcdOptions::new(endpoints) }, problem);
        }
    }

    #[test]
    fn prefixes_and_times_that_cannot_be_meant_are_refused() {
        let usual = EtcdOptions::new(["http://a:2379"]);
        for (prefix, problem) in [
            ("/coffer/berlin", ""),
            ("coffer", "begin with a slash"),
            ("/coffer/", "not end"),
            ("/", "not end"),
            ("", "begin with a slash"),
            ("/a//b", "single slashes"),
        ] {
            check(&EtcdOptions { prefix: prefix.to_owned(), ..usual.clone() }, problem);
        }
        check(&EtcdOptions { prefix: format!("/{}", "x".repeat(128)), ..usual.clone() }, "129 bytes");
        let seconds = |connect, request, call| EtcdTimeouts {
            connect: Duration::from_secs(connect),
            request: Duration::from_secs(request),
            call: Duration::from_secs(call),
        };
        for (timeouts, problem) in [
            (seconds(1, 1, 3), ""),
            (seconds(0, 1, 3), "contradict"),
            (seconds(2, 1, 4), "contradict"),
            (seconds(1, 2, 5), "contradict"),
        ] {
            check(&EtcdOptions { timeouts, ..usual.clone() }, problem);
        }
    }
}
