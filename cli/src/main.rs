//! `coffer`: the command line, and `coffer up`, the all-in-one for one machine.

use std::process::ExitCode;

use clap::Parser;
use coffer_cli::{Cli, Terminal, run};
use coffer_runtime::exit::Exit;
use coffer_runtime::{telemetry, tls};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. Nothing can be done about a closed terminal.
            drop(error.print());
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    tls::install_provider();
    let mut terminal = Terminal::system();
    if let Err(error) = telemetry::init(cli.log_format(), cli.log_filter()) {
        return terminal.report(&coffer_cli::Error::usage(error.to_string(), None)).into();
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(cli, terminal)).into(),
        Err(source) => terminal.report(&coffer_cli::Error::System { action: "start".to_owned(), source }).into(),
    }
}
