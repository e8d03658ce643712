//! Pools and controllers that cannot be entered.

use anyhow::Result;
use coffer_proto::v1::{Pool, pool};
use coffer_scenarios::{Site, SiteOptions};

use crate::pool_ends_up;

#[tokio::test]
async fn a_wrong_password_is_reported_as_such_and_never_shown() -> Result<()> {
    let site = Site::start_with(SiteOptions { registered: false, ..Default::default() }).await?;
    let hosts = site.hosts.pool().await?;
    let pool = Pool {
        hosts: vec![hosts.url.trim_start_matches("https://").to_owned()],
        username: hosts.user,
        password: "canary-c0ffee".into(),
        fingerprint: hosts.fingerprint,
        ..Default::default()
    };

    let seen = pool_ends_up(&site, pool, pool::State::Unreachable).await?;

    assert!(seen.state_message.contains("password"), "{}", seen.state_message);
    assert!(seen.password.is_empty());
    assert!(!site.logs()?.contains("canary-c0ffee"), "a log shows the password");
    Ok(())
}

#[tokio::test]
async fn an_unreachable_host_is_named_with_what_to_look_at() -> Result<()> {
    let site = Site::start_with(SiteOptions { registered: false, ..Default::default() }).await?;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = nobody.local_addr()?.to_string();
    drop(nobody);
    let pool = Pool {
        hosts: vec![address.clone()],
        username: "root".into(),
        password: "canary-c0ffee".into(),
        ..Default::default()
    };
    let seen = pool_ends_up(&site, pool, pool::State::Unreachable).await?;
    assert!(seen.state_message.contains(&address), "{}", seen.state_message);
    assert!(seen.state_message.contains("firewall"), "{}", seen.state_message);
    assert!(!site.logs()?.contains("canary-c0ffee"), "a log shows the password");
    Ok(())
}

#[tokio::test]
async fn a_pool_that_is_registered_a_second_time_is_refused_and_the_first_is_named() -> Result<()> {
    let site = Site::start().await?;
    let hosts = site.hosts.pool().await?;
    let pool = Pool {
        hosts: vec![hosts.url.trim_start_matches("https://").to_owned()],
        username: hosts.user,
        password: hosts.password,
        fingerprint: hosts.fingerprint,
        ..Default::default()
    };
    let refused = pool_ends_up(&site, pool, pool::State::Unreachable).await?;
    assert!(refused.state_message.contains(Site::POOL), "{}", refused.state_message);
    assert!(refused.state_message.contains("remove this one"), "{}", refused.state_message);
    site.pool_connected().await?;
    Ok(())
}
