//! The codecs and clients of this crate against programs that nobody here wrote, and against bad input.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod files;
mod nbd_host;
mod nbd_servers;
mod support;
mod vhd;
