//! What to connect to and how.

use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::time::Duration;

/// One way to reach an export: an address of a host, as `VDI.get_nbd_info` gives it.
#[derive(Debug, Clone)]
pub struct NbdTarget {
    /// IPv4 or IPv6 address, or host name.
    pub address: String,
    /// TCP port; 10809 on real hosts.
    pub port: u16,
    /// What to open there.
    pub export: ExportName,
    /// TLS, unless the network is an insecure one.
    pub tls: Option<NbdTls>,
}

impl NbdTarget {
    /// Address and port, with brackets around an IPv6 address.
    pub(super) fn endpoint(&self) -> String {
        if self.address.contains(':') && !self.address.starts_with('[') {
            format!("[{}]:{}", self.address, self.port)
        } else {
            format!("{}:{}", self.address, self.port)
        }
    }
}

/// Export and address, without the session.
impl fmt::Display for NbdTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}", self.export.shown, self.endpoint())
    }
}

/// The name of an export. Hosts put the session into its query, which is as good as a password: only what stands before
/// the `?` is ever shown.
#[derive(Clone)]
pub struct ExportName {
    full: SecretString,
    shown: String,
}

impl ExportName {
    /// The name to send.
    pub fn new(name: impl Into<String>) -> ExportName {
        let full: String = name.into();
        let shown = full.split('?').next().unwrap_or_default().to_owned();
        ExportName { full: full.into(), shown }
    }

    pub(super) fn expose(&self) -> &str {
        self.full.expose_secret()
    }
}

impl fmt::Debug for ExportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExportName({:?})", self.shown)
    }
}

/// TLS to a server that is known by its certificate.
#[derive(Debug, Clone)]
pub struct NbdTls {
    /// PEM of the server's certificate; exactly this one is trusted (any of them, if there are several), whatever its
    /// names, dates and issuer.
    pub certificate_pem: String,
    /// The name sent to the server; the address if it has none.
    pub server_name: Option<String>,
    /// For servers that ask for one; hosts do not.
    pub client: Option<ClientCertificate>,
}

/// A client certificate with its key.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// PEM of the certificate and its intermediate ones.
    pub certificate_pem: String,
    /// PEM of the private key.
    pub key_pem: SecretString,
}

/// How to read.
#[derive(Debug, Clone)]
pub struct NbdOptions {
    /// Most connections for the disk. They are opened when there is work for them; a host serves 16 in all, and each
    /// costs it an attachment of the disk.
    pub connections: usize,
    /// Requests in flight per connection.
    pub depth: usize,
    /// For the TCP connection.
    pub connect_timeout: Duration,
    /// For everything until the export is open; hosts attach the disk meanwhile, which takes seconds.
    pub open_timeout: Duration,
    /// For the next reply, while any is due.
    pub reply_timeout: Duration,
    /// For connections and for each read.
    pub retry: Retry,
}

impl Default for NbdOptions {
    fn default() -> NbdOptions {
        NbdOptions {
            connections: 4,
            depth: 4,
            connect_timeout: Duration::from_secs(20),
            open_timeout: Duration::from_secs(90),
            reply_timeout: Duration::from_secs(60),
            retry: Retry::default(),
        }
    }
}

/// When to try again: after `first`, then twice as long each time, `longest` at most; `attempts` tries in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Tries in all, the first included.
    pub attempts: u32,
    /// Wait before the second try.
    pub first: Duration,
    /// Longest wait.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { attempts: 6, first: Duration::from_millis(500), longest: Duration::from_secs(10) }
    }
}

impl Retry {
    /// How long to wait when `failed` tries have failed; `None`: give up.
    pub fn delay(&self, failed: u32) -> Option<Duration> {
        if failed >= self.attempts {
            return None;
        }
        let doublings = failed.saturating_sub(1).min(31);
        Some(self.first.saturating_mul(1 << doublings).min(self.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_in_an_export_name_is_never_shown() {
        let export = ExportName::new("/5f7a?session_id=OpaqueRef:secret");
        let target = NbdTarget { address: "fe80::1".into(), port: 10809, export, tls: None };
        let shown = format!("{target} {target:?}");
        assert!(shown.contains("/5f7a") && shown.contains("[fe80::1]:10809") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end() {
        let retry = Retry { attempts: 5, first: Duration::from_secs(1), longest: Duration::from_secs(5) };
        let waits: Vec<_> = (1..=5).map(|failed| retry.delay(failed).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(1), Some(2), Some(4), Some(5), None]);
    }
}
