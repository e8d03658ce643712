//! The targets: each parser of what comes from hosts, remotes, agents or clients, with good input to spoil.

mod clients;
mod disks;
mod fakes;
mod hosts;
mod peer;
mod points;
mod remotes;

use std::rc::Rc;

use anyhow::Result;
use serde_json::Value;

pub(crate) use fakes::fakes;

/// A parser and what it usually reads.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Inputs that the parser accepts.
    pub(crate) good: Vec<Vec<u8>>,
    /// More inputs to begin with, which it may refuse.
    pub(crate) odd: Vec<Vec<u8>>,
    /// Returns whether the input was accepted.
    pub(crate) feed: Box<dyn Fn(&[u8]) -> bool>,
}

impl Target {
    fn new(name: &'static str, good: Vec<Vec<u8>>, feed: impl Fn(&[u8]) -> bool + 'static) -> Self {
        Self { name, good, odd: Vec::new(), feed: Box::new(feed) }
    }

    /// A parser of text; what is not text is replaced.
    fn text(name: &'static str, good: &[&str], feed: impl Fn(&str) -> bool + 'static) -> Self {
        let good = good.iter().map(|text| text.as_bytes().to_vec()).collect();
        Self::new(name, good, move |input| feed(&String::from_utf8_lossy(input)))
    }

    /// A parser of a value of JSON.
    fn json(name: &'static str, good: &[&str], feed: impl Fn(Value) -> bool + 'static) -> Self {
        let good = good.iter().map(|text| text.as_bytes().to_vec()).collect();
        Self::new(name, good, move |input| serde_json::from_slice(input).is_ok_and(&feed))
    }

    fn and_odd(mut self, odd: Vec<Vec<u8>>) -> Self {
        self.odd = odd;
        self
    }
}

/// Every target.
pub(crate) fn all() -> Result<Vec<Target>> {
    let runtime = Rc::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
    let mut targets = disks::targets(&runtime)?;
    targets.extend(hosts::targets(&runtime));
    targets.extend(remotes::targets());
    targets.extend(points::targets(&runtime)?);
    targets.extend(clients::targets());
    Ok(targets)
}
