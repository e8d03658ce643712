//! Prune.
/// What a prune would do. Display it before executing.
#[derive(Debug, Clone)]
pub struct PrunePlan {}
/// What a prune did.
#[derive(Debug, Clone)]
pub struct PruneReport {}
