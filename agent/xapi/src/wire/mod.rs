//! What comes off the wire, read without any connection: the entry points of everything that parses remote bytes.

mod batch;
mod jsonrpc;
mod value;

pub use batch::{Batch, Event, Operation, decode_batch};
pub use jsonrpc::{Answer, decode_answer};
pub use value::{XmlValue, parse_result};

pub(crate) use jsonrpc::encode_call;

/// Bytes of a remote that are not what the protocol promises.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Not JSON.
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    /// JSON of another shape.
    #[error("{0}")]
    Shape(&'static str),
    /// A record that cannot be read.
    #[error("a record of class {class} cannot be read")]
    Record {
        /// The class of the object.
        class: &'static str,
        /// Which field, and why.
        #[source]
        source: serde_json::Error,
    },
    /// The result of a task is not the XML of a value.
    #[error("the result of a task is not a value: {0}")]
    Xml(&'static str),
}
