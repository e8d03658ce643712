//! The etcd store on real members of etcd: the conformance suite, lost answers, dead and paused members,
//! certificates.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod access;
mod certificates;
mod conformance;
mod eventually;
mod failover;
mod leases;
mod lost_answers;
mod members;
mod proxy;
mod watches;
