//! Bytes to and from one host: pinned TLS, HTTP/1.1 connections, requests within XAPI's limits.

mod connection;
mod request;
mod tls;

pub(crate) use connection::{Connection, dial, transport, within};
pub(crate) use request::{Body, Method, RequestHead, coordinator_certificate, empty_body, full_body, percent_encoded};
pub(crate) use tls::Pins;

pub use tls::probe;
