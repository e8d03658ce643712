//! Several controllers on one etcd cluster, several agents: whatever dies or stops, runs go on where they were.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coffer_proto::order::{InOrder, Seen};
use coffer_proto::v1::remote_service_client::RemoteServiceClient;
use coffer_proto::v1::{
    CreateRemoteRequest, GetRemoteRequest, Job, ListTasksRequest, LocalLocation, Remote, Run, RunJobRequest, Task,
    UpdateJobRequest, remote, run, task,
};
use coffer_scenarios::{Api, Site, SiteOptions, Token, Vm, eventually, until};
use rustix::process::Signal;
use simpool::control::{Fault, FaultId};
use tokio::io::{AsyncBufReadExt, BufReader};
use tonic::service::interceptor::InterceptedService;

const MIB: u64 = 1 << 20;
/// Bytes of the disk of each machine, a part of which is empty.
const DISK: u64 = 32 * MIB;

/// Three controllers on three members of etcd.
async fn cluster(agents: usize) -> Result<Site> {
    Site::start_with(SiteOptions { controllers: 3, agents, ..Default::default() }).await
}

/// Machines with a job that backs all of them up at once.
async fn machines(site: &Site, count: usize) -> Result<(Vec<Vm>, String)> {
    let mut vms = Vec::new();
    for number in 0..count {
        vms.push(site.create_vm(&format!("vm-{number}"), &[DISK]).await?);
    }
    let job = site.create_job("nightly", &vms.iter().collect::<Vec<_>>()).await?;
    let job = Job { name: job.clone(), concurrency: u32::try_from(count)?, ..Default::default() };
    let mask = prost_types::FieldMask { paths: vec!["concurrency".to_owned()] };
    let request = UpdateJobRequest { job: Some(job.clone()), update_mask: Some(mask) };
    site.api.jobs.clone().update_job(request).await?;
    Ok((vms, job.name))
}

/// Lets every export come to a stand after its first bytes.
async fn stall(site: &Site) -> Result<FaultId> {
    let fault =
        Fault::StallStream { path: "nbd".into(), subject: String::new(), after_bytes: 4 * MIB, nth: 0, times: 0 };
    Ok(site.hosts.fault(fault).await?)
}

async fn tasks_at(api: &Api, run: &str) -> Result<Vec<Task>> {
    let request = ListTasksRequest { parent: run.to_owned(), page_size: 1000, ..Default::default() };
    Ok(api.runs.clone().list_tasks(request).await?.into_inner().tasks)
}

/// Waits until every export has come to a stand, as a controller shows it: bytes were read, and no more come.
async fn all_stalled(site: &Site, api: &Api, run: &Run, count: usize) -> Result<()> {
    eventually("every task to be in the middle of its disk", async || {
        let tasks = tasks_at(api, &run.name).await?;
        let read =
            |task: &Task| task.disks.iter().any(|disk| disk.transfer.is_some_and(|so_far| so_far.read_bytes > 0));
        Ok(tasks.len() == count && tasks.iter().all(read))
    })
    .await?;
    // What was sent is on its way for a moment.
    let mut before = sent(site).await?;
    eventually("the exports to stand still", async || {
        let now = sent(site).await?;
        Ok(std::mem::replace(&mut before, now) == now)
    })
    .await
}

/// Bytes that the pool's hosts have sent of disks.
async fn sent(site: &Site) -> Result<u64> {
    Ok(site.hosts.counters().await?.nbd_read.values().sum())
}

/// The run has succeeded, each task at its first attempt, and nothing was sent twice.
async fn assert_undisturbed(site: &Site, api: &Api, run: &Run, count: usize) -> Result<()> {
    let run = api.ended(&run.name).await?;
    let tasks = api.succeeded(&run).await?;
    assert_eq!(tasks.len(), count);
    assert!(tasks.iter().all(|task| task.attempt == 1), "{tasks:#?}");
    let read: u64 = tasks.iter().filter_map(|task| task.transfer).map(|transfer| transfer.read_bytes).sum();
    let sent = sent(site).await?;
    assert!(read > 0 && sent == read, "hosts sent {sent} bytes, of which {read} were needed");
    assert_eq!(site.leftovers().await?, Vec::<String>::new());
    Ok(())
}

async fn assert_restorable(site: &Site, vm: &Vm) -> Result<()> {
    let newest = site.api.restore_points(&vm.uuid).await?.into_iter().next().context("a restore point")?;
    let restored = site.api.restore(&newest.name, &site.sr("Shared NFS").await?).await?;
    assert_eq!(site.digests(&restored).await?, site.digests(&vm.uuid).await?);
    Ok(())
}

#[tokio::test]
async fn a_controller_killed_during_exports_costs_no_task_and_no_byte() -> Result<()> {
    let mut site = cluster(1).await?;
    let (vms, job) = machines(&site, 4).await?;
    let fault = stall(&site).await?;
    site.hosts.reset_counters().await?;
    let run = site.api.start_job(&job).await?;
    let others = site.api_of(1)?;
    // Seen at a controller that the agent does not exchange with.
    all_stalled(&site, &others, &run, 4).await?;

    site.kill_controller(0).await?;
    site.hosts.clear_fault(fault).await?;
    assert_undisturbed(&site, &others, &run, 4).await?;
    assert_restorable(&site, &vms[0]).await
}

#[tokio::test]
async fn a_controller_that_was_paused_changes_nothing_when_it_goes_on() -> Result<()> {
    let site = cluster(1).await?;
    let (_, job) = machines(&site, 2).await?;
    let fault = stall(&site).await?;
    site.hosts.reset_counters().await?;
    let run = site.api.start_job(&job).await?;
    let others = site.api_of(1)?;
    all_stalled(&site, &others, &run, 2).await?;

    site.controller(0)?.signal(Signal::STOP)?;
    site.hosts.clear_fault(fault).await?;
    assert_undisturbed(&site, &others, &run, 2).await?;
    site.controller(0)?.signal(Signal::CONT)?;
    // It comes to the same end, and goes on serving.
    let seen = site.api.ended(&run.name).await?;
    assert_eq!(seen.state(), run::State::Succeeded);
    site.api.back_up(&job).await?;
    assert_eq!(tasks_at(&others, &run.name).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_killed_is_replaced_by_another_one() -> Result<()> {
    let mut site = cluster(2).await?;
    let (vms, job) = machines(&site, 1).await?;
    let fault = stall(&site).await?;
    let run = site.api.start_job(&job).await?;
    all_stalled(&site, &site.api, &run, 1).await?;
    let agents = until("the agents to be known", async || {
        let agents = site.api.agents.clone().list_agents(coffer_proto::v1::ListAgentsRequest::default()).await?;
        Ok(Some(agents.into_inner().agents).filter(|agents| agents.len() == 2))
    })
    .await?;
    let holder = tasks_at(&site.api, &run.name).await?.pop().context("a task")?.agent;
    ensure!(agents.iter().any(|agent| agent.name == holder), "{holder} is not among {agents:?}");
    let number =
        (0..2).find(|number| site.agent_name(*number).is_ok_and(|name| name == holder)).context("which one")?;

    site.kill_agent(number).await?;
    site.hosts.clear_fault(fault).await?;
    let ended = site.api.ended(&run.name).await?;
    let task = site.api.succeeded(&ended).await?.pop().context("a task")?;
    assert!(task.attempt == 2 && task.agent != holder, "{task:#?}");
    assert_eq!(site.leftovers().await?, Vec::<String>::new());
    assert_restorable(&site, &vms[0]).await
}

#[tokio::test]
async fn a_member_of_etcd_that_dies_or_stops_delays_and_breaks_nothing() -> Result<()> {
    let mut site = cluster(1).await?;
    let (_, job) = machines(&site, 2).await?;
    let fault = stall(&site).await?;
    site.hosts.reset_counters().await?;
    let run = site.api.start_job(&job).await?;
    all_stalled(&site, &site.api, &run, 2).await?;
    let etcd = site.etcd.as_mut().context("a cluster")?;
    etcd.kill(0).await?;
    site.hosts.clear_fault(fault).await?;
    assert_undisturbed(&site, &site.api, &run, 2).await?;

    // Without a majority nothing can be done, and nothing is lost.
    let etcd = site.etcd.as_ref().context("a cluster")?;
    etcd.pause(1, true)?;
    // Whether a call that was not answered took place is not known: its request id makes a repetition harmless.
    let request_id = uuid::Uuid::new_v4().to_string();
    let start = async || {
        let request = RunJobRequest { name: job.clone(), request_id: request_id.clone(), ..Default::default() };
        site.api.jobs.clone().run_job(request).await.map(tonic::Response::into_inner)
    };
    let refused = start().await;
    assert!(refused.is_err(), "{refused:?}");
    etcd.pause(1, false)?;
    let again = until("the controllers to answer again", async || Ok(start().await.ok())).await?;
    site.api.succeeded(&site.api.ended(&again.name).await?).await?;
    Ok(())
}

#[tokio::test]
async fn a_run_is_followed_on_when_the_controller_that_served_it_dies() -> Result<()> {
    let mut site = cluster(1).await?;
    let (_, job) = machines(&site, 1).await?;
    let fault = stall(&site).await?;
    let run = site.api.start_job(&job).await?;
    let others = site.api_of(2)?;
    all_stalled(&site, &others, &run, 1).await?;
    let id = run.name.rsplit('/').next().context("an id")?.to_owned();
    // The first address is that of the controller that will die.
    let mut command = site.coffer_command(&["run", "follow", &id])?;
    let mut following = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(following.stdout.take().context("standard output is piped")?).lines();
    lines.next_line().await?.context("the follower says how the run stands")?;
    site.kill_controller(0).await?;
    site.hosts.clear_fault(fault).await?;
    let mut said = String::new();
    while let Some(line) = lines.next_line().await? {
        said = line;
    }
    assert!(following.wait().await?.success() && said.contains("SUCCEEDED"), "{said}");
    Ok(())
}

#[tokio::test]
async fn what_was_made_at_one_controller_is_there_at_the_next() -> Result<()> {
    let site = cluster(1).await?;
    let seen = Seen::default();
    let client = |number: usize| -> Result<_> {
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{}", site.address_of(number)))?.connect_lazy();
        let token = Token::new(&std::fs::read_to_string(site.token_file())?)?;
        Ok(RemoteServiceClient::new(InOrder::new(InterceptedService::new(channel, token), seen.clone())))
    };
    let mut clients = (0..3).map(client).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    for round in 0..30_usize {
        let path = site.folder().join(format!("remote-{round}"));
        let remote = Remote {
            password: "a password of a remote".into(),
            location: Some(remote::Location::Local(LocalLocation { path: path.display().to_string() })),
            ..Default::default()
        };
        let remote_id = format!("r{round}");
        let request = CreateRemoteRequest { remote_id, remote: Some(remote), ..Default::default() };
        let made = clients[round % 3].create_remote(request).await?.into_inner();
        for other in [round + 1, round + 2] {
            let found = clients[other % 3].get_remote(GetRemoteRequest { name: made.name.clone() }).await;
            assert_eq!(found?.into_inner().name, made.name);
        }
    }
    assert!(began.elapsed() < Duration::from_secs(30), "nobody waits long for it");
    Ok(())
}

#[tokio::test]
async fn no_more_tasks_run_than_the_job_allows_whoever_gives_them_out() -> Result<()> {
    let site = cluster(2).await?;
    let (_, job) = machines(&site, 6).await?;
    let limit = Job { name: job.clone(), concurrency: 2, ..Default::default() };
    let mask = prost_types::FieldMask { paths: vec!["concurrency".to_owned()] };
    let request = UpdateJobRequest { job: Some(limit), update_mask: Some(mask) };
    site.api.jobs.clone().update_job(request).await?;
    let run = site.api.start_job(&job).await?;
    let (mut most, ended) = (0, site.api_of(1)?);
    until("the end of the run", async || {
        // Counted at the pool: snapshots of ours that exist at one time.
        let vms = site.hosts.records("VM").await?;
        let ours = |vm: &&serde_json::Value| vm["name_label"].as_str().is_some_and(|name| name.starts_with("coffer:"));
        most = most.max(vms.values().filter(ours).count());
        let run = ended.run(&run.name).await?;
        Ok(run.end_time.is_some().then_some(()))
    })
    .await?;
    let tasks = site.api.succeeded(&site.api.run(&run.name).await?).await?;
    assert!(tasks.iter().all(|task| task.state() == task::State::Succeeded));
    assert!((1..=2).contains(&most), "{most} at one time");
    Ok(())
}
