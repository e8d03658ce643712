//! Just enough of HTTP/1 to be as particular as the hosts' own server: limits, close rules, early answers.

mod message;
mod server;

pub(crate) use message::{Request, Status, read_body, read_head, respond};
pub(crate) use server::{Stream, listen, serve};
