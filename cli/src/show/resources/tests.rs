//! Every table and page of words, held against a file, so that a review shows what people will read. After a change on
//! purpose: `COFFER_BLESS=1 cargo test -p coffer-cli --lib`.

use std::path::Path;

use super::*;
use crate::show::runs;
use crate::show::runs::tests::{at, run, view};

fn pool_sample() -> v1::Pool {
    v1::Pool {
        name: "pools/lab".to_owned(),
        hosts: vec!["xcp1.example.org".to_owned(), "xcp2.example.org".to_owned()],
        username: "root".to_owned(),
        password: "never shown".to_owned(),
        fingerprint: "5E:0A".to_owned(),
        seen_fingerprint: "5E:0A".to_owned(),
        state: v1::pool::State::Connected.into(),
        state_time: at(0),
        uuid: "55555555-5555-4555-8555-555555555555".to_owned(),
        name_label: "Lab".to_owned(),
        product: "XCP-ng 8.3.0".to_owned(),
        vm_count: 12,
        members: vec![
            v1::PoolHost {
                address: "192.0.2.10".to_owned(),
                name_label: "xcp1".to_owned(),
                coordinator: true,
                fingerprint: "5E:0A".to_owned(),
                ..Default::default()
            },
            v1::PoolHost { address: "192.0.2.11".to_owned(), name_label: "xcp2".to_owned(), ..Default::default() },
        ],
        ..Default::default()
    }
}

fn lost_pool() -> v1::Pool {
    v1::Pool {
        name: "pools/far".to_owned(),
        hosts: vec!["192.0.2.10".to_owned()],
        state: v1::pool::State::Unreachable.into(),
        state_message: "192.0.2.10 does not answer on port 443;\ncheck the address".to_owned(),
        seen_fingerprint: "AA:BB".to_owned(),
        state_time: at(60),
        ..Default::default()
    }
}

fn vm_sample() -> v1::VirtualMachine {
    let disk = |device: &str, excluded| v1::VirtualDisk {
        device: device.to_owned(),
        size_bytes: 8 << 30,
        excluded,
        ..Default::default()
    };
    v1::VirtualMachine {
        uuid: "11111111-1111-4111-8111-111111111111".to_owned(),
        name_label: "web".to_owned(),
        power_state: "Running".to_owned(),
        tags: vec!["prod".to_owned(), "web".to_owned()],
        disks: vec![disk("xvda", false), disk("xvdb", false), disk("xvdc", true)],
        ..Default::default()
    }
}

fn sr_sample() -> v1::StorageRepository {
    v1::StorageRepository {
        uuid: "33333333-3333-4333-8333-333333333333".to_owned(),
        name_label: "Local storage".to_owned(),
        r#type: "ext".to_owned(),
        size_bytes: 500 << 30,
        used_bytes: 100 << 30,
        ..Default::default()
    }
}

fn remote_sample() -> v1::Remote {
    v1::Remote {
        name: "remotes/nas".to_owned(),
        location: Some(v1::remote::Location::Local(v1::LocalLocation { path: "/backups".to_owned() })),
        state: v1::remote::State::Ready.into(),
        state_time: at(0),
        size_bytes: 10 << 40,
        free_bytes: 4 << 40,
        chunk_size_bytes: 1 << 20,
        repository_id: "cdcdcdcd".to_owned(),
        max_concurrent_tasks: 4,
        ..Default::default()
    }
}

fn job_sample() -> v1::Job {
    v1::Job {
        name: "jobs/nightly".to_owned(),
        display_name: "Every night".to_owned(),
        selection: Some(v1::Selection {
            vms: vec!["pools/far/vms/22222222-2222-4222-8222-222222222222".to_owned()],
            pools: vec!["pools/lab".to_owned()],
            tags: vec!["prod".to_owned(), "web".to_owned()],
            exclude_tags: vec!["scratch".to_owned()],
            power_state: "Running".to_owned(),
        }),
        remotes: vec!["remotes/nas".to_owned()],
        concurrency: 2,
        manual_retention: 7,
        max_attempts: 3,
        create_time: at(0),
        ..Default::default()
    }
}

fn schedule_sample() -> v1::Schedule {
    v1::Schedule {
        name: "jobs/nightly/schedules/daily".to_owned(),
        cron: "0 3 * * *".to_owned(),
        time_zone: "Europe/Paris".to_owned(),
        retention: 14,
        next_time: at(86_400),
        last_time: at(0),
        ..Default::default()
    }
}

fn point_sample() -> v1::RestorePoint {
    v1::RestorePoint {
        name: "restorePoints/01890a5d-ac96-774b-bcce-b302099a8057.nas".to_owned(),
        remote: "remotes/nas".to_owned(),
        vm_uuid: "11111111-1111-4111-8111-111111111111".to_owned(),
        vm_label: "web".to_owned(),
        pool: "pools/lab".to_owned(),
        time: at(3),
        job: "jobs/nightly".to_owned(),
        schedule: "jobs/nightly/schedules/daily".to_owned(),
        run: run().name,
        disks: vec![v1::RestorePointDisk {
            device: "xvda".to_owned(),
            label: "root".to_owned(),
            size_bytes: 8 << 30,
            path: "disks/xvda-66666666-6666-4666-8666-666666666666.raw".to_owned(),
            ..Default::default()
        }],
        disk_bytes: 8 << 30,
        added_bytes: 120 << 20,
        snapshot_id: "abababab".to_owned(),
        ..Default::default()
    }
}

fn agent_sample() -> v1::Agent {
    v1::Agent {
        name: "agents/rack-1".to_owned(),
        state: v1::agent::State::Online.into(),
        version: "0.1.0".to_owned(),
        hostname: "rack".to_owned(),
        start_time: at(0),
        seen_time: at(590),
        tasks: 2,
        capacity: 8,
    }
}

#[test]
fn every_table_is_what_was_reviewed() {
    let view = view();
    let paused = v1::Schedule {
        name: "jobs/nightly/schedules/monthly".to_owned(),
        cron: "0 1 1 * *".to_owned(),
        paused: true,
        retention: 12,
        ..Default::default()
    };
    let by_hand =
        v1::RestorePoint { schedule: String::new(), damage: "2 chunks are missing".to_owned(), ..point_sample() };
    let shown = [
        ("pool list", pools(&[lost_pool(), pool_sample()], &view)),
        ("pool list", pools(&[], &view)),
        ("pool show lab", pool(&pool_sample(), &view)),
        ("pool show far", pool(&lost_pool(), &view)),
        ("pool vms lab", vms(&[vm_sample()], &view)),
        ("pool srs lab", srs(&[sr_sample()], &view)),
        ("remote list", remotes(&[remote_sample()], &view)),
        ("remote show nas", remote(&remote_sample(), &view)),
        ("job list", jobs(&[job_sample()], &[schedule_sample(), paused.clone()], &view)),
        ("job show nightly", job(&job_sample(), &[schedule_sample(), paused], &view)),
        ("job show nightly", job(&v1::Job { selection: None, paused: true, ..job_sample() }, &[], &view)),
        ("run list", runs::list(&[run()], "", &view)),
        ("backup list", points(&[point_sample(), by_hand.clone()], &view)),
        ("backup show", point(&point_sample(), &view)),
        ("backup show", point(&by_hand, &view)),
        ("agent list", agents(&[agent_sample()], &view)),
        ("agent list", agents(&[], &view)),
    ];
    let all: String = shown.iter().map(|(command, text)| format!("$ coffer {command}\n{text}\n\n")).collect();
    assert!(!all.contains("never shown"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tables.txt");
    if std::env::var_os("COFFER_BLESS").is_some() {
        std::fs::write(&path, &all).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (number, (found, expected)) in all.lines().zip(golden.lines()).enumerate() {
        assert_eq!(found, expected, "line {} of {}", number + 1, path.display());
    }
    assert_eq!(all.lines().count(), golden.lines().count());
}
