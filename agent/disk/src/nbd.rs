//! NBD: a disk of a pool read over the network.
//!
//! [`NbdDisk`] holds a few connections to one export and reads through all of them, many requests at a time;
//! [`NbdSource`] reads the ranges of a [`ReadPlan`] in order. Real hosts speak the smallest dialect (STARTTLS,
//! EXPORT_NAME, simple replies); what a server has beyond that (GO, structured replies, `base:allocation`) is used.
//!
//! This module never writes, and never repeats the session that stands in an export name.

mod connection;
mod disk;
mod negotiation;
mod plan;
mod queue;
mod source;
mod target;
mod tls;
mod wire;
mod worker;

pub use connection::read_replies;
pub use disk::NbdDisk;
pub use negotiation::{Export, negotiate};
pub use plan::{ReadPlan, Rest};
pub use source::NbdSource;
pub use target::{ClientCertificate, ExportName, NbdOptions, NbdTarget, NbdTls, Retry};
