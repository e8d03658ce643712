//! No acknowledged transaction is lost when the process is killed at any moment (invariant I8).
//!
//! The program runs itself as a child that writes transactions and says each one that was acknowledged; the child is
//! killed with SIGKILL at a random moment, the store is opened and compared with what was said. Many rounds on one
//! file.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coffer_store::{EmbeddedStore, PutLease, StateStore, Txn, list};

const ROUNDS: u32 = 40;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, path] = arguments.as_slice()
        && role == "child"
    {
        runtime().block_on(write_until_killed(Path::new(path)));
    } else {
        runtime().block_on(acknowledged_transactions_survive_kills());
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime should start")
}

/// Each transaction moves a counter and writes a key of its own; `previous` is compared, so that none can be skipped.
async fn write_until_killed(path: &Path) {
    let store = EmbeddedStore::open(path).await.expect("the store should open");
    let lease = store.grant(Duration::from_secs(3600)).await.expect("a lease should be granted");
    let mut previous = store.get("counter").await.expect("reading should work").map(|entry| {
        (entry.mod_revision, String::from_utf8_lossy(&entry.value).parse::<u64>().expect("a number was written"))
    });
    loop {
        let (revision, number) = previous.unwrap_or_default();
        let number = number + 1;
        let mut txn = Txn::new().if_mod("counter", revision).put("counter", number.to_string()).put_with(
            format!("item/{number:08}"),
            vec![b'x'; usize::try_from(number % 5000).expect("small")],
            PutLease::Attach(lease.id),
        );
        if number > 50 {
            txn = txn.delete(format!("item/{:08}", number - 50));
        }
        let outcome = store.txn(txn).await.expect("a transaction should work");
        assert!(outcome.succeeded);
        previous = Some((outcome.revision, number));
        let mut out = std::io::stdout().lock();
        writeln!(out, "{number} {}", outcome.revision).and_then(|()| out.flush()).expect("the parent should listen");
    }
}

async fn acknowledged_transactions_survive_kills() {
    let folder = tempfile::tempdir().expect("a folder should be made");
    let path = folder.path().join("store");
    let mut last = (0_u64, 0_u64);
    // A cheap generator with a fixed seed: the moments differ from round to round, and from run to run by timing
    // anyway.
    let mut random = 0x9E37_79B9_u64;
    for round in 0..ROUNDS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let patience = Duration::from_micros((random >> 33) % 60_000);
        let said = run_child_and_kill_it(&path, patience).await;
        if let Some(newest) = said.last() {
            assert!(said.is_sorted(), "round {round}: what was said goes backwards");
            assert!(newest.0 > last.0 && newest.1 > last.1, "round {round}: {newest:?} after {last:?}");
            last = *newest;
        }
        last = check(&path, last, round).await;
    }
    assert!(last.0 > u64::from(ROUNDS), "only {} transactions were made in {ROUNDS} rounds", last.0);
    let mut out = std::io::stdout();
    writeln!(out, "test acknowledged_transactions_survive_kills ... ok ({} transactions, {ROUNDS} kills)", last.0)
        .expect("somebody should listen");
}

/// Lets a child write for a while, kills it, and returns the numbers and revisions that it said.
async fn run_child_and_kill_it(path: &Path, patience: Duration) -> Vec<(u64, u64)> {
    let program = std::env::current_exe().expect("this program has a path");
    let mut child: Child =
        Command::new(program).arg("child").arg(path).stdout(Stdio::piped()).spawn().expect("a child should start");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut said = Vec::new();
    let mut read = |line: Option<std::io::Result<String>>| {
        let line = line?.ok()?;
        let (number, revision) = line.split_once(' ')?;
        said.push((number.parse().ok()?, revision.parse().ok()?));
        Some(())
    };
    // From its first word on it is in the midst of writing; then it may be killed at any instant.
    read(lines.next());
    tokio::time::sleep(patience).await;
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");
    while read(lines.next()).is_some() {}
    said
}

/// Opens the store and compares it with the last transaction that was acknowledged. One more may have been committed
/// without having been said.
async fn check(path: &Path, last: (u64, u64), round: u32) -> (u64, u64) {
    let store = EmbeddedStore::open(path).await.expect("the store should open after a kill");
    let counter = store.get("counter").await.expect("reading should work");
    let (number, revision) = counter.map_or((0, 0), |entry| {
        (String::from_utf8_lossy(&entry.value).parse().expect("a number was written"), entry.mod_revision.0)
    });
    assert!(number == last.0 || number == last.0 + 1, "round {round}: {number} is there, {} was acknowledged", last.0);
    assert!(number != last.0 || revision == last.1, "round {round}: revision {revision}, {} was acknowledged", last.1);
    let (items, at) = list(&store, "item/").await.expect("listing should work");
    assert_eq!(at.0, revision, "round {round}: revisions go on from another number");
    let expected: Vec<String> =
        (number.saturating_sub(49).max(1)..=number).map(|item| format!("item/{item:08}")).collect();
    assert_eq!(items.iter().map(|item| item.key.clone()).collect::<Vec<_>>(), expected, "round {round}");
    for item in &items {
        let item_number: u64 = item.key.trim_start_matches("item/").parse().expect("a number was written");
        assert_eq!(u64::try_from(item.value.len()).expect("small"), item_number % 5000, "round {round}");
    }
    store.close().await;
    (number, revision)
}
