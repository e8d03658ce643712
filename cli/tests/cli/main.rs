//! The command line from the outside: what it says about itself, and what it does against servers.

mod agent;
mod completion;
mod follow;
mod help;
mod support;
mod whole;
