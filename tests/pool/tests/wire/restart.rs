//! The program's own restarts: what was answered is there, what was not leaves nothing.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use simpool::Builder;
use simpool::control::{Client, PoolInfo, Write};

use crate::support::{Api, MIB, vm};

#[tokio::test]
async fn a_stopped_pool_comes_back_with_everything_but_sessions_and_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let start = || async { Builder::new().hosts(2).state(folder.path()).start().await.unwrap() };
    let pool = start().await;
    let api = Api::login(&pool).await;
    let info = vm(pool.control(), "Local storage 2", 1).await;
    let disk = &info.disks[0].vdi;
    api.call("VDI.enable_cbt", &[json!(disk.reference)]).await.unwrap();
    let (_, first) = api.snapshot(&info.vm.reference).await;
    pool.control().write(&disk.uuid, Write::Percent { percent: 10.0, seed: 2 }).await.unwrap();
    let digest = pool.control().digest(&disk.uuid).await.unwrap();
    let task = api.task().await;
    let before = pool.info().clone();
    pool.shutdown().await;
    let pool = start().await;
    let ports = |info: &PoolInfo| (info.url.clone(), info.fingerprint.clone(), info.control.clone());
    assert_eq!(ports(pool.info()), ports(&before), "addresses and certificates stay");
    assert_eq!(api.call("pool.get_all", &[]).await.unwrap_err()[0], "SESSION_INVALID");
    let api = Api::login(&pool).await;
    assert_eq!(api.call("task.get_record", &[json!(task)]).await.unwrap_err()[0], "HANDLE_INVALID");
    assert_eq!(api.get("VM.get_power_state", &info.vm.reference).await, "Running");
    assert_eq!(pool.control().digest(&disk.uuid).await.unwrap(), digest);
    let (_, second) = api.snapshot(&info.vm.reference).await;
    api.call("VDI.list_changed_blocks", &[json!(first[0]), json!(second[0])]).await.unwrap();
}

struct Program {
    child: Child,
    info: PoolInfo,
}

impl Program {
    fn start(state: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_simpool"))
            .args(["serve", "--state"])
            .arg(state)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, info: serde_json::from_str(&line).unwrap() }
    }

    fn control(&self) -> Client {
        Client::new(&self.info.control)
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_killed_program_kept_what_it_answered_and_no_half_made_disk() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path());
    let info = vm(&program.control(), "", 0).await;
    let disk = info.disks[0].vdi.uuid.clone();
    program.control().write(&disk, Write::Random { offset: MIB, length: MIB, seed: 5 }).await.unwrap();
    let digest = program.control().digest(&disk).await.unwrap();
    let before = program.control().object_counts().await.unwrap();
    let adding = {
        let (control, vm) = (program.control(), info.vm.uuid.clone());
        tokio::spawn(async move {
            let mut added = Vec::new();
            loop {
                let disk = simpool::control::DiskSpec { size: 4 * MIB, ..Default::default() };
                match control.add_disk(&vm, disk).await {
                    Ok(disk) => added.push(disk.vdi.uuid),
                    Err(_) => return added,
                }
            }
        })
    };
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    program.kill();
    let added = adding.await.unwrap();
    assert!(!added.is_empty());
    let program = Program::start(folder.path());
    assert_eq!(program.control().digest(&disk).await.unwrap(), digest);
    let vdis = program.control().records("VDI").await.unwrap();
    let uuids: Vec<&str> = vdis.values().filter_map(|v| v["uuid"].as_str()).collect();
    assert!(added.iter().all(|uuid| uuids.contains(&uuid.as_str())), "what was answered is there");
    let surplus = vdis.len() - usize::try_from(before["VDI"]).unwrap() - added.len();
    assert!(surplus <= 1, "at most the one that was being answered");
    program.kill();
}
