//! x
use std::collections::HashSet;
use std::sync::Arc;
use crate::*;
use crate::objects::BlobKey;
use crate::repository::Inner;
/// p
#[derive(Debug, Clone)]
pub struct PrunePlan {}
/// r
#[derive(Debug, Clone)]
pub struct PruneReport {}
pub(crate) async fn revive(_: &Arc<Inner>, _: &HashSet<BlobKey>) -> Result<(), Error> { Ok(()) }
