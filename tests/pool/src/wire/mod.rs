//! The two encodings of calls and answers. Pure: bytes to values and back, no sockets.

pub(crate) mod jsonrpc;
pub(crate) mod xmlrpc;

use serde_json::Value as Json;

/// A call as it came, before its parameters are checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RawCall {
    pub(crate) method: String,
    pub(crate) params: Vec<Json>,
}
