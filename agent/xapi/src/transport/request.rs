//! Requests small enough for XAPI, which takes at most 1024 bytes of request line and headers.

use std::convert::Infallible;
use std::fmt::Write;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::Request;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};

pub(crate) use hyper::Method;

use crate::{Endpoint, Error, Fingerprint};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

const HEAD_LIMIT: usize = 1024;
const AGENT: &str = concat!("coffer/", env!("CARGO_PKG_VERSION"));

/// The header that asks for the coordinator's certificate, and the one that answers.
const ASKED: HeaderName = HeaderName::from_static("x-xenapi-request-host-certificate-thumbprint");
const ANSWERED: &str = "x-xenapi-response-host-certificate-thumbprint";

/// What an answer says of the coordinator's certificate. What is no fingerprint is not taken for one.
pub(crate) fn coordinator_certificate(headers: &HeaderMap) -> Option<Fingerprint> {
    headers.get(ANSWERED)?.to_str().ok()?.parse().ok()
}

pub(crate) fn empty_body() -> Body {
    Empty::new().boxed_unsync()
}

pub(crate) fn full_body(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

/// Everything of a request but its body. The path and query may hold a session: they are never shown.
pub(crate) struct RequestHead<'a> {
    pub(crate) method: Method,
    pub(crate) path_and_query: &'a str,
    pub(crate) content_type: Option<&'static str>,
    /// Absent where there is no body at all.
    pub(crate) content_length: Option<u64>,
    pub(crate) keep_alive: bool,
    /// Asks a host that is not the coordinator which certificate the coordinator has.
    pub(crate) asks_for_coordinator: bool,
    /// What error messages call it.
    pub(crate) what: &'a str,
}

impl RequestHead<'_> {
    pub(crate) fn with(self, host: &Endpoint, body: Body) -> Result<Request<Body>, Error> {
        let authority = host.authority();
        let mut request = Request::new(body);
        let mut bytes = self.method.as_str().len() + 1 + self.path_and_query.len() + " HTTP/1.1\r\n\r\n".len();
        *request.method_mut() = self.method;
        *request.uri_mut() = self.path_and_query.parse().map_err(|_| Error::Redirect {
            host: host.clone(),
            what: self.what.to_owned(),
            reason: "the path is not one of HTTP",
        })?;
        let headers = request.headers_mut();
        headers.insert(
            HOST,
            HeaderValue::try_from(authority).expect("an endpoint has only characters that a header may have"),
        );
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(CONNECTION, HeaderValue::from_static(if self.keep_alive { "keep-alive" } else { "close" }));
        if self.asks_for_coordinator {
            headers.insert(ASKED, HeaderValue::from_static("sha-256:master"));
        }
        if let Some(content_type) = self.content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if let Some(length) = self.content_length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        bytes += headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum::<usize>();
        if bytes >= HEAD_LIMIT {
            return Err(Error::RequestTooLarge { what: self.what.to_owned(), bytes, limit: HEAD_LIMIT });
        }
        Ok(request)
    }
}

/// A value fit for a query.
pub(crate) fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len() + 8);
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path_and_query: &str) -> Result<Request<Body>, Error> {
        let head = RequestHead {
            method: Method::GET,
            path_and_query,
            content_type: None,
            content_length: None,
            keep_alive: false,
            asks_for_coordinator: false,
            what: "GET /x",
        };
        head.with(&Endpoint::parse("10.0.0.1").unwrap(), empty_body())
    }

    #[test]
    fn a_request_that_xapi_would_refuse_for_its_size_is_never_sent() {
        assert!(head(&format!("/{}", "x".repeat(900))).is_ok());
        let error = head(&format!("/{}", "x".repeat(1000))).unwrap_err();
        assert!(matches!(error, Error::RequestTooLarge { bytes: 1024.., limit: 1024, .. }), "{error}");
    }

    #[test]
    fn values_of_a_query_are_encoded() {
        assert_eq!(percent_encoded("OpaqueRef:1&x=ü"), "OpaqueRef%3A1%26x%3D%C3%BC");
    }
}
