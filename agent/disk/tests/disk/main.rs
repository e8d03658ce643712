//! The codecs and clients of this crate against programs that nobody here wrote, and against bad input.

mod files;
mod nbd_host;
mod nbd_servers;
mod support;
mod vhd;
