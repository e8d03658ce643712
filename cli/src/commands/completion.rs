//! `coffer completion`.

use clap::CommandFactory;
use clap_complete::Shell;
use coffer_runtime::exit::Exit;

use crate::{Cli, Error, Terminal};

const EXAMPLE: &str = "\
Examples:
  coffer completion bash > /etc/bash_completion.d/coffer
  source <(coffer completion zsh)";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args, terminal: &mut Terminal) -> Result<Exit, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "coffer", &mut script);
    terminal.print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Ok)
}
