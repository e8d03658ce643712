//! `coffer-agent`: reads its configuration, runs the agent, drains when asked to stop.
fn main() {}
