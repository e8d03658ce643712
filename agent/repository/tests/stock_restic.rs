//! The stock `restic` program and this crate work on one repository.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use bytes::Bytes;
use coffer_remote::LocalRemote;
use coffer_repository::{BackupOptions, CheckLevel, PruneOptions, Repository, RepositoryOptions};
use secrecy::ExposeSecret;
use support::*;

/// Runs restic on the repository of a remote; it must succeed.
fn restic(remote: &Path, args: &[&str]) -> Output {
    let output = Command::new("restic")
        .args(["--no-cache", "--repo"])
        .arg(remote.join("repository"))
        .args(args)
        .env("RESTIC_PASSWORD", password().expose_secret())
        .env("HOME", remote)
        .output()
        .expect("restic must be installed (Debian package `restic`)");
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
    assert!(output.status.success(), "restic {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_restic_lists_dumps_and_checks_what_we_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Arc::new(LocalRemote::open(folder.path()).await.unwrap());
    let repository = init(remote.clone()).await;

    // Noise, text that shrinks, zeros, and a last chunk that is short.
    let mut first = noise(1, 30 * CHUNK);
    first.extend(b"the same words again and again ".repeat(40_000));
    first.extend(vec![0; 50 * CHUNK]);
    first.extend(noise(2, 5 * CHUNK + 777));
    let mut second = first.clone();
    second[3 * CHUNK..4 * CHUNK].copy_from_slice(&noise(3, CHUNK));
    second[20 * CHUNK..22 * CHUNK].fill(0);

    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    let closed = write_disk(&session, "disks/xvda.raw", first.len(), extents(&first, CHUNK), None).await.unwrap();
    session.file("vm.json", Bytes::from_static(b"{\"n\":1}")).await.unwrap();
    let one = session.seal(meta(1, None)).await.unwrap();
    one.publish().await.unwrap();

    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    let changes = delta(&first, &second, CHUNK);
    let closed = write_disk(&session, "disks/xvda.raw", second.len(), changes, Some(closed.content)).await.unwrap();
    assert_eq!(closed.stats.new_chunks, 1);
    write_disk(&session, "disks/xvdb.raw", 0, Vec::new(), None).await.unwrap();
    let two = session.seal(meta(2, Some(one.snapshot_id()))).await.unwrap();
    two.publish().await.unwrap();

    let listed = stdout(&restic(folder.path(), &["snapshots", "--json"]));
    assert!(
        listed.contains(&one.snapshot_id().to_string()) && listed.contains(&two.snapshot_id().to_string()),
        "{listed}"
    );
    assert!(listed.contains("vm=00000000-0000-0000-0000-000000000007") && listed.contains("web 1"), "{listed}");
    let files = stdout(&restic(folder.path(), &["ls", &two.snapshot_id().to_string()]));
    assert!(files.contains("/disks/xvda.raw") && files.contains("/disks/xvdb.raw"), "{files}");
    for (point, disk) in [(&one, &first), (&two, &second)] {
        let dumped = restic(folder.path(), &["dump", &point.snapshot_id().to_string(), "/disks/xvda.raw"]);
        assert!(dumped.stdout == *disk, "the dumped disk differs");
    }
    assert_eq!(stdout(&restic(folder.path(), &["dump", &one.snapshot_id().to_string(), "/vm.json"])), "{\"n\":1}");
    restic(folder.path(), &["check", "--read-data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_restic_is_content_after_many_backups_deletions_and_prunes() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Arc::new(LocalRemote::open(folder.path()).await.unwrap());
    let repository = init(remote.clone()).await;
    let mut disk = noise(1, 60 * CHUNK);
    let mut points = Vec::new();
    for second in 0..8_u64 {
        for chunk in 0..10 {
            let start = usize::try_from(second * 7 + chunk * 3).unwrap() % 60 * CHUNK;
            disk[start..start + CHUNK].copy_from_slice(&noise(second * 100 + chunk, CHUNK));
        }
        points.push((backup(&repository, i64::try_from(second).unwrap(), &disk).await.unwrap(), disk.clone()));
    }
    for gone in [0, 2, 2, 3] {
        repository.forget(points.remove(gone).0).await.unwrap();
        let options = PruneOptions { grace: std::time::Duration::ZERO, repack_waste: 0.1, ..PruneOptions::default() };
        let plan = repository.plan_prune(options).await.unwrap();
        repository.prune(plan).await.unwrap();
        restic(folder.path(), &["check", "--read-data"]);
    }
    for (id, disk) in &points {
        let dumped = restic(folder.path(), &["dump", &id.to_string(), "/disks/xvda.raw"]);
        assert!(dumped.stdout == *disk, "the dumped disk differs");
    }
    assert!(repository.check(CheckLevel::ReadData).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_backups_into_our_repository_are_neither_listed_nor_harmed() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Arc::new(LocalRemote::open(folder.path()).await.unwrap());
    let repository = init(remote.clone()).await;
    let disk = noise(1, 20 * CHUNK);
    let gone = backup(&repository, 1, &noise(2, 20 * CHUNK)).await.unwrap();
    let ours = backup(&repository, 2, &disk).await.unwrap();
    let source = tempfile::tempdir().unwrap();
    let foreign = noise(3, 3_000_000);
    std::fs::write(source.path().join("a \\ \"strange\" näme"), &foreign).unwrap();
    restic(folder.path(), &["backup", source.path().to_str().unwrap()]);

    assert_eq!(
        repository.points().await.unwrap().iter().map(|point| point.id).collect::<Vec<_>>(),
        [ours, gone].into_iter().rev().collect::<Vec<_>>()
    );
    repository.forget(gone).await.unwrap();
    for _ in 0..2 {
        let options = PruneOptions { grace: std::time::Duration::ZERO, ..PruneOptions::default() };
        let plan = repository.plan_prune(options).await.unwrap();
        repository.prune(plan).await.unwrap();
    }
    restic(folder.path(), &["check", "--read-data"]);
    let dumped = restic(
        folder.path(),
        &[
            "restore",
            "latest",
            "--path",
            source.path().to_str().unwrap(),
            "--target",
            folder.path().join("out").to_str().unwrap(),
        ],
    );
    assert!(dumped.status.success());
    let restored =
        folder.path().join("out").join(source.path().strip_prefix("/").unwrap()).join("a \\ \"strange\" näme");
    assert!(std::fs::read(restored).unwrap() == foreign);

    // And the other way: restic removes, we go on.
    restic(folder.path(), &["forget", "--prune", "--keep-last", "1"]);
    let repository = open(remote).await;
    assert!(repository.check(CheckLevel::ReadData).await.unwrap().is_clean());
    assert!(read_extents(&repository.point(ours).await.unwrap(), "disks/xvda.raw").await.unwrap() == disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_made_by_stock_restic_is_read_with_its_own_chunk_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    let mut disk = noise(1, 20_000_000);
    disk.extend(b"text ".repeat(500_000));
    disk.extend(vec![0; 5_000_000]);
    std::fs::create_dir(source.path().join("deep")).unwrap();
    std::fs::write(source.path().join("deep/disk.raw"), &disk).unwrap();
    std::fs::write(source.path().join("empty"), "").unwrap();
    restic(folder.path(), &["init"]);
    restic(folder.path(), &["backup", source.path().to_str().unwrap()]);

    let remote = Arc::new(LocalRemote::open(folder.path()).await.unwrap());
    let repository = Repository::open(remote.clone(), &password(), RepositoryOptions::default()).await.unwrap();
    assert!(repository.check(CheckLevel::ReadData).await.unwrap().is_clean());
    assert!(repository.points().await.unwrap().is_empty(), "a foreign snapshot is not ours");
    let snapshot = std::fs::read_dir(folder.path().join("repository/snapshots")).unwrap().next().unwrap().unwrap();
    let point = repository.point(snapshot.file_name().to_str().unwrap().parse().unwrap()).await.unwrap();
    let prefix = source.path().strip_prefix("/").unwrap().to_str().unwrap();
    let path = format!("{prefix}/deep/disk.raw");
    assert_eq!(point.files().len(), 2, "{:?}", point.files());
    assert!(read_extents(&point, &path).await.unwrap() == disk);
    assert!(read_blocks(&point, &path).await == disk);
    assert_eq!(point.read_file(&format!("{prefix}/empty"), 0).await.unwrap(), "");

    // Its disk can be the parent of one of ours, although its chunks stand elsewhere.
    let mut after = disk.clone();
    after[5_000_000..5_000_010].fill(7);
    let session = repository.begin_backup(BackupOptions::default()).await.unwrap();
    let changes = delta(&disk, &after, 1 << 20);
    write_disk(&session, "disks/xvda.raw", after.len(), changes, Some(point.content(&path).unwrap())).await.unwrap();
    let sealed = session.seal(meta(1, None)).await.unwrap();
    sealed.publish().await.unwrap();
    let dumped = restic(folder.path(), &["dump", &sealed.snapshot_id().to_string(), "/disks/xvda.raw"]);
    assert!(dumped.stdout == after, "the dumped disk differs");
    restic(folder.path(), &["check", "--read-data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_a_stock_program_holds_its_lock() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Arc::new(LocalRemote::open(folder.path()).await.unwrap());
    let repository = init(remote.clone()).await;
    let gone = backup(&repository, 1, &noise(2, 20 * CHUNK)).await.unwrap();
    repository.forget(gone).await.unwrap();
    let at_once = || PruneOptions { grace: std::time::Duration::ZERO, ..PruneOptions::default() };
    repository.prune(repository.plan_prune(at_once()).await.unwrap()).await.unwrap();

    // A backup of a pipe that nobody writes to stays at work until the pipe is closed.
    let mut child = Command::new("restic")
        .args(["--no-cache", "--repo"])
        .arg(folder.path().join("repository"))
        .args(["backup", "--stdin"])
        .env("RESTIC_PASSWORD", password().expose_secret())
        .env("HOME", folder.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("restic must be installed (Debian package `restic`)");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let locks = folder.path().join("repository/locks");
    while std::fs::read_dir(&locks).map_or(0, Iterator::count) == 0 {
        assert!(std::time::Instant::now() < deadline, "restic took no lock");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let report = repository.prune(repository.plan_prune(at_once()).await.unwrap()).await.unwrap();
    assert!(report.postponed && report.deleted_packs == 0, "{report}");
    let mut pipe = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut pipe, b"said at last").unwrap();
    drop(pipe);
    assert!(child.wait().unwrap().success());
    let report = repository.prune(repository.plan_prune(at_once()).await.unwrap()).await.unwrap();
    assert!(!report.postponed && report.deleted_packs > 0, "{report}");
    restic(folder.path(), &["check", "--read-data"]);
}
