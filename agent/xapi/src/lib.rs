//! A client of XAPI, the interface of XCP-ng and XenServer pools: sessions, calls, events, tasks, and the HTTP
//! transfers.
//!
//! It owns the wire: TLS with pinned certificates, JSON-RPC, the cache fed by `event.from`, tasks as the only truth of
//! a transfer. It never knows what the bytes of a transfer mean: extents, disks and repositories are other crates'.
//!
//! ```no_run
//! # async fn example() -> Result<(), coffer_xapi::Error> {
//! use coffer_xapi::{Client, ClientOptions, Endpoint, Events};
//!
//! let host = Endpoint::parse("192.0.2.10")?;
//! let seen = coffer_xapi::probe(&host, Default::default()).await?; // shown to a person, who says whether it is right
//! let client = Client::connect(ClientOptions::new(host, seen, "root", "secret".into())).await?;
//! let events = Events::start(&client).await?;
//! for vm in events.inventory().vms {
//!     let _ = (vm.uuid, vm.name, vm.disks.len());
//! }
//! # Ok(()) }
//! ```

mod calls;
mod client;
mod endpoint;
mod error;
mod events;
mod failure;
mod fingerprint;
mod hosts;
mod inventory;
mod link;
mod refs;
mod retry;
mod task;
mod transfer;
mod transport;

pub mod chains;
#[doc(hidden)]
pub mod fuzz;
pub mod records;
pub mod wire;

pub use calls::{NbdExport, NewVbd, NewVdi, NewVif, PowerOn};
pub use client::{Client, ClientOptions};
pub use endpoint::Endpoint;
pub use error::Error;
pub use events::{EventHealth, Events, ObjectState, ObjectWatch, Table, Tables, Watched};
pub use failure::{Failure, FailureClass};
pub use fingerprint::Fingerprint;
pub use hosts::KnownHost;
pub use inventory::{DiskView, HostView, Inventory, NetworkView, SrView, VmView};
pub use link::{Repeat, Timeouts};
pub use refs::{Class, Ref};
pub use retry::{BUSY, when_free};
pub use task::Outcome;
pub use transfer::imported_vms;
pub use transfer::{Compression, DiskFormat, Download, Upload, VdiExport, VdiImport, VmExport, VmImport};
pub use transport::probe;
