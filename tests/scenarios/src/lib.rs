//! The stage on which end-to-end scenarios play: the real programs as processes of their own, on loopback, each with
//! its folder, and the calls that tests make of them. Knows nothing of how the programs work inside.

mod api;
mod etcd;
mod gate;
mod process;
mod site;
mod wait;

pub use api::{Api, Token};
pub use etcd::Etcd;
pub use gate::{Gate, Held, Moment};
pub use process::{Process, program};
pub use site::{Site, SiteOptions, Vm};
pub use wait::{eventually, until};
