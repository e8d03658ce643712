//! What only a remote in a folder can get wrong: durability, leftovers, limits of the file system.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use coffer_remote::{Error, LocalRemote, MAX_WHOLE_READ, ObjectName, Remote};

/// Folder in which the child of [`a_writer_killed_in_the_middle_leaves_nothing_listed`] writes without end.
const CHILD: &str = "COFFER_TEST_WRITE_IN";
const OBJECT_BYTES: usize = 8 << 20;

fn name(name: &str) -> ObjectName {
    ObjectName::new(name).unwrap()
}

/// Temporary files. Their folder is made with the first of them: whoever was killed before left none.
fn temporary(root: &Path) -> Vec<std::path::PathBuf> {
    match std::fs::read_dir(root.join("coffer/tmp")) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_killed_in_the_middle_leaves_nothing_listed() {
    if let Some(root) = std::env::var_os(CHILD) {
        write_without_end(Path::new(&root)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut caught_in_the_middle = 0;
    for round in 0..200 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_writer_killed_in_the_middle_leaves_nothing_listed", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("writing")), "the child did not begin");
        // The more rounds, the more instants of an object's life are hit.
        tokio::time::sleep(Duration::from_millis(round % 12)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let left = temporary(folder.path()).len();
        caught_in_the_middle += usize::from(left > 0);

        let remote = LocalRemote::open(folder.path()).await.unwrap();
        for info in remote.list(&name("objects")).await.unwrap() {
            assert_eq!(info.size, OBJECT_BYTES as u64, "a half-written object is listed");
            let bytes = remote.read(&info.name).await.unwrap();
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            remote.delete(&info.name).await.unwrap();
        }
        let swept = remote.sweep_temporary(Duration::from_secs(3600)).await.unwrap();
        assert_eq!(
            (swept.files, swept.kept),
            (left as u64, 0),
            "leftovers of a process that is gone are garbage at once"
        );
        if caught_in_the_middle >= 5 {
            return;
        }
    }
    panic!("no child was killed in the middle of a create");
}

async fn write_without_end(root: &Path) -> ! {
    let remote = LocalRemote::open(root).await.unwrap();
    for number in 0_u64.. {
        let body = Bytes::from(vec![number.to_le_bytes()[0]; OBJECT_BYTES]);
        if number == 0 {
            let mut parent = std::io::stdout();
            parent.write_all(b"writing\n").unwrap();
        }
        remote.create(&name(&format!("objects/{}-{number}", std::process::id())), vec![body]).await.unwrap();
    }
    unreachable!("numbers do not end")
}

#[tokio::test]
async fn only_what_nobody_will_finish_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let remote = LocalRemote::open(folder.path()).await.unwrap();
    std::fs::create_dir_all(folder.path().join("coffer/tmp")).unwrap();
    let elsewhere = folder.path().join("coffer/tmp/another-machine.1.00ff");
    std::fs::write(&elsewhere, "half").unwrap();
    let swept = remote.sweep_temporary(Duration::from_secs(3600)).await.unwrap();
    assert_eq!((swept.files, swept.kept), (0, 1));
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    std::fs::File::options().write(true).open(&elsewhere).unwrap().set_modified(old).unwrap();
    let swept = remote.sweep_temporary(Duration::from_secs(3600)).await.unwrap();
    assert_eq!((swept.files, swept.bytes, swept.kept), (1, 4, 0));
}

#[tokio::test]
async fn a_missing_folder_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("not-mounted");
    assert!(LocalRemote::open(&missing).await.is_err());
    assert!(!missing.exists());
    std::fs::write(&missing, "a file").unwrap();
    assert!(LocalRemote::open(&missing).await.is_err());
}

/// Every operation, each of which must say why it does nothing.
async fn refusals(remote: &LocalRemote) -> Vec<Error> {
    vec![
        remote.create(&name("a/two"), vec![Bytes::from_static(b"2")]).await.unwrap_err(),
        remote.read(&name("a/one")).await.unwrap_err(),
        remote.read_range(&name("a/one"), 0..1).await.unwrap_err(),
        remote.stat(&name("a/one")).await.unwrap_err(),
        remote.list(&name("a")).await.unwrap_err(),
        remote.delete(&name("a/one")).await.unwrap_err(),
        remote.space().await.unwrap_err(),
        remote.sweep_temporary(Duration::ZERO).await.unwrap_err(),
    ]
}

#[tokio::test]
async fn another_folder_in_the_place_of_the_remote_is_not_touched_and_nothing_is_said_to_be_absent() {
    let folder = tempfile::tempdir().unwrap();
    let (root, away) = (folder.path().join("remote"), folder.path().join("away"));
    std::fs::create_dir(&root).unwrap();
    let remote = LocalRemote::open(&root).await.unwrap();
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "opening writes nothing");
    remote.create(&name("a/one"), vec![Bytes::from_static(b"1")]).await.unwrap();
    std::fs::rename(&root, &away).unwrap();
    for error in refusals(&remote).await {
        assert!(matches!(error, Error::FolderMissing { .. }) && error.is_retryable(), "{error:?}");
        assert!(error.advice().contains("mounted"));
    }
    std::fs::create_dir(&root).unwrap();
    for error in refusals(&remote).await {
        assert!(matches!(error, Error::FolderReplaced { .. }) && error.is_retryable(), "{error:?}");
    }
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "something was written into the wrong folder");
    std::fs::remove_dir(&root).unwrap();
    std::fs::rename(&away, &root).unwrap();
    assert_eq!(remote.read(&name("a/one")).await.unwrap(), "1");
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let remote = LocalRemote::open(folder.path()).await.unwrap();
    let sparse = std::fs::File::create(folder.path().join("huge")).unwrap();
    sparse.set_len(MAX_WHOLE_READ + 1).unwrap();
    assert!(matches!(remote.read(&name("huge")).await, Err(Error::TooLarge { .. })));
    assert_eq!(remote.read_range(&name("huge"), MAX_WHOLE_READ..MAX_WHOLE_READ + 1).await.unwrap(), &[0][..]);
}

#[tokio::test]
async fn strange_files_links_and_temporary_files_are_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let remote = LocalRemote::open(folder.path()).await.unwrap();
    remote.create(&name("coffer/x"), Vec::new()).await.unwrap();
    for strange in [".hidden", "with space", "tmp/half", "ends."] {
        std::fs::write(folder.path().join("coffer").join(strange), "x").unwrap();
    }
    std::os::unix::fs::symlink("/", folder.path().join("coffer/link")).unwrap();
    let listed = remote.list(&name("coffer")).await.unwrap();
    assert_eq!(listed.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["coffer/x"]);
    assert!(matches!(remote.read(&name("coffer")).await, Err(Error::NotFound { .. })), "a folder is no object");
}

#[tokio::test]
async fn published_files_belong_to_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let remote = LocalRemote::open(folder.path()).await.unwrap();
    remote.create(&name("a/b/c"), vec![Bytes::from_static(b"x")]).await.unwrap();
    let mode = std::fs::metadata(folder.path().join("a/b/c")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_folder_that_was_removed_meanwhile_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let remote = LocalRemote::open(folder.path()).await.unwrap();
    remote.create(&name("a/one"), Vec::new()).await.unwrap();
    std::fs::remove_dir_all(folder.path().join("a")).unwrap();
    std::fs::remove_dir_all(folder.path().join("coffer")).unwrap();
    remote.create(&name("a/two"), Vec::new()).await.unwrap();
    assert_eq!(remote.list(&name("a")).await.unwrap().len(), 1);
}
