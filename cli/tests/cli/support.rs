//! Runs a command line in this process and keeps what it writes.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;
use coffer_cli::{Cli, Terminal, run};

/// What a command wrote, and how it ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
    /// The exit code.
    pub(crate) code: u8,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).expect("commands write UTF-8")
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `coffer ARGUMENTS`, with this standard input.
pub(crate) async fn coffer(arguments: &[&str], input: &str) -> Done {
    let cli = Cli::try_parse_from(["coffer"].iter().chain(arguments)).unwrap_or_else(|error| panic!("{error}"));
    let (out, err) = (Shared::default(), Shared::default());
    let terminal = Terminal::buffered(out.clone(), err.clone(), io::Cursor::new(input.to_owned()));
    let exit = run(cli, terminal).await;
    Done { out: out.text(), err: err.text(), code: exit.code() }
}
