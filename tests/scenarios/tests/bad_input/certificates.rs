//! Whom a password and a session may be given to: hosts with a certificate that a person, or the pool itself, vouched
//! for.

use anyhow::{Context, Result, ensure};
use coffer_proto::v1::{Pool, UpdatePoolRequest, pool};
use coffer_scenarios::{Site, SiteOptions, until};
use simpool::control::{Content, DiskSpec, HostInfo, PoolInfo, VmSpec};

use crate::{MIB, pool_ends_up, pool_named};

#[tokio::test]
async fn a_pool_is_not_given_its_password_before_its_certificate_is_confirmed() -> Result<()> {
    let site = Site::start_with(SiteOptions { registered: false, ..Default::default() }).await?;
    let hosts = site.hosts.pool().await?;
    let address = hosts.url.trim_start_matches("https://").to_owned();
    let pool = Pool { hosts: vec![address], username: hosts.user, password: hosts.password, ..Default::default() };

    let seen = pool_ends_up(&site, pool, pool::State::Untrusted).await?;

    assert_eq!(seen.seen_fingerprint, hosts.fingerprint);
    assert_eq!(site.hosts.counters().await?.calls.get("session.login_with_password"), None);
    Ok(())
}

#[tokio::test]
async fn a_changed_certificate_stops_all_talk_until_it_is_confirmed() -> Result<()> {
    let site = Site::start().await?;
    let renewed = site.hosts.renew_certificate(0).await?;
    let pool = until("the changed certificate to be noticed", async || {
        let pool = pool_named(&site, Site::POOL).await?;
        Ok((pool.state() == pool::State::Unreachable).then_some(pool))
    })
    .await?;
    assert!(pool.state_message.contains("certificate"), "{}", pool.state_message);
    assert_eq!(pool.seen_fingerprint, renewed.fingerprint);

    confirm(&site, &pool, &renewed.fingerprint).await?;
    until("the pool to be connected again", async || {
        Ok((pool_named(&site, Site::POOL).await?.state() == pool::State::Connected).then_some(()))
    })
    .await
}

fn address(host: &HostInfo) -> String {
    format!("{}:{}", host.address, host.port)
}

/// The pool, entered at one of its hosts, whose certificate was confirmed.
fn entered_at(info: &PoolInfo, host: &HostInfo) -> Pool {
    Pool {
        hosts: vec![address(host)],
        username: info.user.clone(),
        password: info.password.clone(),
        fingerprint: host.fingerprint.clone(),
        ..Default::default()
    }
}

/// Waits until exactly these hosts are known with these certificates; the pool.
async fn members_are_known(site: &Site, name: &str, hosts: &[HostInfo]) -> Result<Pool> {
    let mut expected: Vec<_> = hosts.iter().map(|host| (address(host), host.fingerprint.clone())).collect();
    expected.sort();
    until("every host of the pool to be known with its certificate", async || {
        let pool = pool_named(site, name).await?;
        let mut known: Vec<_> =
            pool.members.iter().map(|host| (host.address.clone(), host.fingerprint.clone())).collect();
        known.sort();
        Ok((known == expected).then_some(pool))
    })
    .await
}

async fn disk_on(site: &Site, sr: &str, host: usize) -> Result<coffer_scenarios::Vm> {
    let disk = DiskSpec {
        name: "system".into(),
        sr: sr.into(),
        size: 12 * MIB,
        content: Content::Seeded { seed: 5, percent: 60.0 },
        ..Default::default()
    };
    let spec = VmSpec { name: "far".into(), running: true, host, disks: vec![disk], ..Default::default() };
    site.create_vm_like(&spec).await
}

/// Reads a disk from a host that nobody confirmed and writes it to another one.
async fn moves_disks_through_members(nbd: &'static str) -> Result<()> {
    let site = Site::start_with(SiteOptions { hosts: 3, nbd, ..Default::default() }).await?;
    let hosts = site.hosts.pool().await?.hosts;
    ensure!(hosts[0].fingerprint != hosts[1].fingerprint && hosts[1].fingerprint != hosts[2].fingerprint);
    let pool = members_are_known(&site, Site::POOL, &hosts).await?;
    let coordinators: Vec<_> = pool.members.iter().filter(|host| host.coordinator).map(|host| &host.uuid).collect();
    assert_eq!(coordinators, [&hosts[0].uuid]);

    let vm = disk_on(&site, "Local storage 2", 1).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    let task = site.api.back_up(&job).await?.pop().context("one task")?;
    assert_eq!(task.disks[0].source, if nbd == "off" { "vhd-full" } else { "nbd" });
    let point = site.api.restore_points(&vm.uuid).await?.pop().context("a restore point")?;
    let restored = site.api.restore(&point.name, &site.sr("Local storage 3").await?).await?;
    assert_eq!(site.digests(&restored).await?, site.digests(&vm.uuid).await?);
    assert_eq!(site.leftovers().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn one_confirmed_certificate_is_enough_to_read_and_write_at_every_host_over_nbd() -> Result<()> {
    moves_disks_through_members("tls").await
}

#[tokio::test]
async fn one_confirmed_certificate_is_enough_to_read_and_write_at_every_host_over_https() -> Result<()> {
    moves_disks_through_members("off").await
}

#[tokio::test]
async fn a_new_agent_finds_the_pool_though_its_confirmed_host_is_away() -> Result<()> {
    let mut site = Site::start_with(SiteOptions { hosts: 2, ..Default::default() }).await?;
    let vm = disk_on(&site, "Shared NFS", 1).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    members_are_known(&site, Site::POOL, &site.hosts.pool().await?.hosts).await?;

    site.hosts.designate_coordinator(1).await?;
    site.hosts.stop_host(0).await?;
    // All that this agent had learnt is gone with it.
    site.crash_agent().await?;
    site.api.back_up(&job).await?;
    Ok(())
}

#[tokio::test]
async fn a_confirmed_host_that_is_not_the_coordinator_vouches_for_it() -> Result<()> {
    let site = Site::start_with(SiteOptions { hosts: 2, registered: false, ..Default::default() }).await?;
    let info = site.hosts.pool().await?;
    let pool = pool_ends_up(&site, entered_at(&info, &info.hosts[1]), pool::State::Connected).await?;
    members_are_known(&site, &pool.name, &info.hosts).await?;
    Ok(())
}

#[tokio::test]
async fn of_an_old_pool_the_coordinator_must_be_confirmed_and_the_error_names_it() -> Result<()> {
    let options = SiteOptions { hosts: 2, registered: false, profile: "8.2", ..Default::default() };
    let site = Site::start_with(options).await?;
    let info = site.hosts.pool().await?;
    let pool = pool_ends_up(&site, entered_at(&info, &info.hosts[1]), pool::State::Unreachable).await?;
    let coordinator = address(&info.hosts[0]);
    assert!(pool.state_message.contains(&coordinator), "{}", pool.state_message);
    assert!(pool.state_message.contains("confirm its certificate"), "{}", pool.state_message);
    assert_eq!(site.hosts.counters().await?.calls.get("host.get_all_records"), None, "nobody was to be logged in");
    Ok(())
}

#[tokio::test]
async fn a_members_renewed_certificate_is_believed_when_the_pool_lists_it() -> Result<()> {
    let site = Site::start_with(SiteOptions { hosts: 2, nbd: "off", ..Default::default() }).await?;
    let vm = disk_on(&site, "Local storage 2", 1).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    site.hosts.renew_certificate(1).await?;
    site.api.back_up(&job).await?;
    members_are_known(&site, Site::POOL, &site.hosts.pool().await?.hosts).await?;
    Ok(())
}

#[tokio::test]
async fn a_changed_certificate_of_the_confirmed_host_is_told_though_the_pool_goes_on_elsewhere() -> Result<()> {
    let site = Site::start_with(SiteOptions { hosts: 2, ..Default::default() }).await?;
    let vm = disk_on(&site, "Shared NFS", 1).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    members_are_known(&site, Site::POOL, &site.hosts.pool().await?.hosts).await?;
    site.hosts.designate_coordinator(1).await?;
    site.api.back_up(&job).await?;

    let renewed = site.hosts.renew_certificate(0).await?;
    let pool = until("the changed certificate to be noticed", async || {
        let pool = pool_named(&site, Site::POOL).await?;
        Ok((pool.seen_fingerprint == renewed.fingerprint).then_some(pool))
    })
    .await?;
    assert_eq!(pool.state(), pool::State::Connected, "{}", pool.state_message);
    assert!(pool.state_message.contains(&address(&renewed)), "{}", pool.state_message);
    assert!(pool.state_message.contains("certificate"), "{}", pool.state_message);

    confirm(&site, &pool, &renewed.fingerprint).await?;
    until("nothing more to be said", async || {
        let pool = pool_named(&site, Site::POOL).await?;
        Ok((pool.state() == pool::State::Connected && pool.state_message.is_empty()).then_some(()))
    })
    .await
}

/// As an operator does, who compared it.
async fn confirm(site: &Site, pool: &Pool, fingerprint: &str) -> Result<()> {
    let pool = Pool { fingerprint: fingerprint.to_owned(), ..pool.clone() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["fingerprint".into()] });
    site.api.pools.clone().update_pool(UpdatePoolRequest { pool: Some(pool), update_mask }).await?;
    Ok(())
}
