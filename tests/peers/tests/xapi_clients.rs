//! XAPI clients that others wrote drive the simulated pool unmodified.

use anyhow::Result;
use coffer_peers::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_client_snapshots_exports_and_cleans_up() -> Result<()> {
    Stage::start().await?.python("xenapi.py", &[]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_client_mirrors_the_pool_by_events_and_watches_tasks() -> Result<()> {
    Stage::start().await?.node("xen-api.mjs", &[]).await?;
    Ok(())
}
