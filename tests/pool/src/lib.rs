//! A simulated pool of XCP-ng hosts, over the true wire protocols.

pub mod control;

mod builder;
mod config;
mod error;

pub use builder::{Builder, SimPool};
pub use config::{Config, NbdMode, Profile};
pub use error::Error;
