//! The stock `restic` program and this crate work on one repository.

mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use bytes::Bytes;
use coffer_remote::LocalRemote;
use coffer_repository::BackupOptions;
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
