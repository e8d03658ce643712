//! Reads a restic repository with rustic's library, for the tests: nothing of Coffer is in here.
//!
//! `rustic-reader REPOSITORY check`               structure and all data; fails on any error found
//! `rustic-reader REPOSITORY snapshots`           one snapshot id a line
//! `rustic-reader REPOSITORY dump SNAPSHOT:PATH`  a file's content, to standard output
//!
//! The password is in the environment variable `RUSTIC_PASSWORD`.

use std::io::{BufWriter, Write};

use anyhow::{Context, Result, bail};
use rustic_backend::BackendOptions;
use rustic_core::{CheckOptions, Credentials, Repository, RepositoryOptions};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [repository, command, rest @ ..] = arguments.as_slice() else { bail!("usage: REPOSITORY COMMAND [ARGUMENT]") };

    let password = std::env::var("RUSTIC_PASSWORD").context("RUSTIC_PASSWORD is not set")?;
    let backends = BackendOptions::default().repository(*repository).to_backends()?;
    let options = RepositoryOptions::default().no_cache(true);
    let repository = Repository::new(&options, &backends)?.open(&Credentials::password(password))?;

    match (*command, rest) {
        ("check", []) => {
            let found = repository.check(CheckOptions::default().read_data(true))?;
            for (_, problem) in &found.0 {
                eprintln!("{problem}");
            }
            found.is_ok()?;
        }
        ("snapshots", []) => {
            for snapshot in repository.get_all_snapshots()? {
                println!("{}", snapshot.id);
            }
        }
        ("dump", [path]) => {
            let repository = repository.to_indexed()?;
            let node = repository.node_from_snapshot_path(path, |_| true)?;
            let mut output = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
            repository.dump(&node, &mut output)?;
            output.flush()?;
        }
        _ => bail!("no such command: {command} {}", rest.join(" ")),
    }
    Ok(())
}
