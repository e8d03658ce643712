//! What is wrong from outside gives a clear error and loses nothing.

mod certificates;
mod failures;
mod garbage;
mod token;
mod unreachable;

use anyhow::{Context, Result};
use coffer_proto::v1::{CreatePoolRequest, GetPoolRequest, Pool, Problem, pool, run, task};
use coffer_scenarios::{Site, Vm, until};

const MIB: u64 = 1 << 20;

/// A pool as it is known now.
async fn pool_named(site: &Site, name: &str) -> Result<Pool> {
    Ok(site.api.pools.clone().get_pool(GetPoolRequest { name: name.to_owned() }).await?.into_inner())
}

/// Registers another pool and waits until it is in a state; what the state says.
async fn pool_ends_up(site: &Site, pool: Pool, state: pool::State) -> Result<Pool> {
    let request = CreatePoolRequest { pool_id: "other".into(), pool: Some(pool), ..Default::default() };
    let name = site.api.pools.clone().create_pool(request).await?.into_inner().name;
    until(&format!("{name} to be {state:?}"), async || {
        let pool = pool_named(site, &name).await?;
        Ok((pool.state() == state).then_some(pool))
    })
    .await
}

/// Runs a job that must fail; the problem of its only task.
async fn problem_of(site: &Site, job: &str) -> Result<Problem> {
    let run = site.api.run_job(job).await?;
    assert_eq!(run.state(), run::State::Failed, "{}", run.message);
    let task = site.api.tasks(&run.name).await?.pop().context("one task")?;
    assert_eq!(task.state(), task::State::Failed);
    let problem = task.error.context("a failed task says why")?;
    assert!(!problem.message.is_empty() && !problem.advice.is_empty(), "{problem:?}");
    Ok(problem)
}

async fn next_run_succeeds_and_nothing_is_left(site: &Site, job: &str, vm: &Vm) -> Result<()> {
    site.api.back_up(job).await?;
    let newest = site.api.restore_points(&vm.uuid).await?.into_iter().next().context("a restore point")?;
    let restored = site.api.restore(&newest.name, &site.sr("Shared NFS").await?).await?;
    assert_eq!(site.digests(&restored).await?, site.digests(&vm.uuid).await?);
    assert_eq!(site.leftovers().await?, Vec::<String>::new());
    Ok(())
}
