//! The agent as a controller sees it: over loopback, against a controller that answers late, twice, wrongly or not at
//! all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod controller;
mod places;
mod tasks;
mod token;
