//! What becomes of pools and remotes when their configuration is wrong, late, or changes under the agent.

use coffer_proto::v1::{AgentConfig, PoolAccess, RemoteAccess};

use crate::controller::{Served, Stage, TOKEN};

fn remote(name: &str, path: &std::path::Path, password: &str) -> RemoteAccess {
    RemoteAccess {
        remote: format!("remotes/{name}"),
        local_path: path.display().to_string(),
        password: password.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_folder_that_is_not_mounted_yet_is_told_as_missing_and_used_once_it_is_there() {
    let mut stage = Stage::without_agent().await;
    let path = stage.folder.path().join("late");
    stage.reconfigure(AgentConfig { pools: vec![], remotes: vec![remote("late", &path, "p")] });
    stage.enter(TOKEN, None, &[]);
    let controller = &stage.controller;
    controller
        .until("the folder to be told as missing", |script| {
            script.remotes.iter().any(|remote| {
                remote.problem.as_ref().is_some_and(|problem| {
                    problem.reason == "REMOTE_FOLDER_MISSING"
                        && problem.message.contains("late")
                        && !problem.advice.is_empty()
                })
            })
        })
        .await;
    assert!(!path.exists(), "a folder that may be a missing mount was made");
    std::fs::create_dir(&path).unwrap();
    controller.until("it to be used", |script| script.remotes.iter().any(|remote| remote.ready)).await;
}

#[tokio::test]
async fn a_configuration_with_nonsense_in_it_works_for_the_rest() {
    let mut stage = Stage::without_agent().await;
    let good = stage.folder.path().join("good");
    std::fs::create_dir(&good).unwrap();
    let pool = |name: &str, hosts: &[&str], fingerprint: &str| PoolAccess {
        pool: name.into(),
        hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        username: "root".into(),
        password: "p".into(),
        fingerprint: fingerprint.into(),
        ..Default::default()
    };
    stage.reconfigure(AgentConfig {
        pools: vec![
            pool("nonsense", &["192.0.2.1"], ""),
            pool("pools/hostless", &[], ""),
            pool("pools/plain", &["http://192.0.2.1"], ""),
            pool("pools/unpinned", &["192.0.2.1"], "not a fingerprint"),
        ],
        remotes: vec![remote("../..", &good, "p"), remote("good", &good, "p")],
    });
    stage.enter(TOKEN, None, &[]);
    let controller = &stage.controller;
    controller
        .until("the good remote to be ready", |script| {
            script.remotes.iter().any(|report| report.remote == "remotes/good" && report.ready)
        })
        .await;
    for pool in ["pools/hostless", "pools/plain", "pools/unpinned"] {
        controller
            .until(&format!("{pool} to be told as misconfigured"), |script| {
                script.pools.iter().any(|report| {
                    report.pool == pool
                        && !report.connected
                        && report.problem.as_ref().is_some_and(|problem| problem.reason == "POOL_MISCONFIGURED")
                })
            })
            .await;
    }
    assert_eq!(controller.script().remotes.len(), 1, "only what has a name is told of");
}

#[tokio::test]
async fn a_remote_that_is_set_anew_is_opened_anew_and_tasks_wait_for_that() {
    let stage = Stage::set().await;
    let controller = &stage.controller;
    let first = controller.script().remotes[0].repository_id.clone();
    let moved = stage.folder.path().join("moved");
    std::fs::create_dir(&moved).unwrap();
    // The task arrives together with the new configuration: it must not meet the old place, or none.
    stage.reconfigure(AgentConfig { pools: vec![], remotes: vec![remote("vault", &moved, "other")] });
    let task = controller.assign(1, 1);
    controller.until("the task to end well", |script| script.completed(&task) == [1]).await;
    controller
        .until("the other repository to be told of", |script| {
            script.remotes.iter().any(|report| report.ready && report.repository_id != first)
        })
        .await;
    assert!(moved.join("repository").exists());
}

#[tokio::test]
async fn a_remote_that_is_not_configured_any_more_fails_its_task_in_words() {
    let stage = Stage::set().await;
    let controller = &stage.controller;
    stage.reconfigure(AgentConfig::default());
    controller.exchanges(2).await;
    controller.assign(1, 1);
    controller
        .until("the task to fail for that", |script| {
            script.failures.iter().any(|problem| problem.reason == "NOT_CONFIGURED" && problem.retryable)
        })
        .await;
}

#[tokio::test]
async fn a_controller_that_forgot_everything_is_told_everything_again() {
    let mut stage = Stage::set().await;
    let controller = stage.controller.clone();
    let address = stage.served.take().unwrap().stop().await;
    {
        let mut script = controller.script();
        script.session += 1;
        script.remotes.clear();
    }
    stage.served = Some(Served::at(&controller, address).await);
    controller
        .until("the remote to be told of again", |script| {
            script.registrations() == 2 && script.remotes.iter().any(|remote| remote.ready)
        })
        .await;
}
