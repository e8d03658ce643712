//! Where a host listens: a name or an address, and a port. Always HTTPS.

use std::fmt;

use crate::Error;

const HTTPS: u16 = 443;

/// A host's HTTPS endpoint.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// Reads `host`, `host:port`, `[v6]:port`, a bare IPv6 address, or one of these after `https://`. The port is 443
    /// unless given.
    ///
    /// # Errors
    /// [`Error::Address`] when it is none of these; `http://` is refused, a session never travels in the clear.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::parse_with_port(text, HTTPS)
    }

    /// As [`Endpoint::parse`], with another port for an address that gives none.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn parse_with_port(text: &str, default_port: u16) -> Result<Self, Error> {
        let wrong = |reason| Error::Address { given: printable(text), reason };
        let bare = text.trim();
        if bare.starts_with("http://") {
            return Err(wrong("plain HTTP is never used: write https:// or only the address"));
        }
        let bare = bare.strip_prefix("https://").unwrap_or(bare);
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        let (host, port) = if let Some(rest) = bare.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(|| wrong("'[' without ']'"))?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(wrong("something other than a port follows ']'")),
            }
        } else if bare.matches(':').count() > 1 {
            (bare, None)
        } else {
            match bare.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (bare, None),
            }
        };
        let port = match port {
            None => default_port,
            Some(digits) => match digits.parse() {
                Ok(0) | Err(_) => return Err(wrong("the port is not a number between 1 and 65535")),
                Ok(port) => port,
            },
        };
        if host.is_empty() || host.len() > 255 {
            return Err(wrong("the host is empty or longer than 255 characters"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if !host.chars().all(allowed) {
            return Err(wrong("a host has only letters, digits, '.', '-', '_' and ':'"));
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }

    /// The name or address, IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of the `Host` header, also the authority of a URL.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == HTTPS { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a remote or a person wrote, cut and without control characters, fit for an error message.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_and_xapi_write_them() {
        for (given, shown, port) in [
            ("10.0.0.1", "10.0.0.1", 443),
            ("https://Pool.example/", "pool.example", 443),
            ("10.0.0.1:8443", "10.0.0.1:8443", 8443),
            ("2001:db8::1", "[2001:db8::1]", 443),
            ("[2001:db8::1]:444", "[2001:db8::1]:444", 444),
        ] {
            let endpoint = Endpoint::parse(given).unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(endpoint.port(), port);
        }
    }

    #[test]
    fn what_could_smuggle_a_header_or_leave_tls_is_refused() {
        for given in ["http://10.0.0.1", "", ":443", "a b", "a\r\nX: y", "h:0", "h:99999", "[::1", "[::1]x", "user@h"] {
            assert!(matches!(Endpoint::parse(given), Err(Error::Address { .. })), "{given:?} was accepted");
        }
    }
}
