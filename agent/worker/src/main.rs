//! `coffer-agent`: reads its configuration, runs the agent, drains when asked to stop.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use coffer_agent::{Agent, AgentOptions};
use coffer_model::ByteSize;
use coffer_runtime::exit::Exit;
use coffer_runtime::retry::{Policy, retry};
use coffer_runtime::{CancellationToken, secret_file, shutdown, telemetry};
use secrecy::SecretString;

/// A controller that starts at the same time makes the token a little later.
const TOKEN: Policy = Policy { max: Duration::from_millis(500), ..Policy::REQUEST };

/// The agent of Coffer: reads and writes the disks of virtual machines, as controllers tell it.
#[derive(Debug, Parser)]
#[command(name = "coffer-agent", version)]
struct Args {
    /// Folder for the agent's id; made when it does not exist.
    #[arg(long, env = "COFFER_STATE", value_name = "DIR")]
    state: PathBuf,
    /// Address of a controller, as http://127.0.0.1:7420; may be given several times.
    #[arg(long, env = "COFFER_CONTROLLER", value_name = "URL", required = true, value_delimiter = ',')]
    controller: Vec<String>,
    /// File with the token that controllers know agents by; waited for half a minute when it is not there yet, read
    /// anew when a controller does not know what is in it.
    #[arg(long, env = "COFFER_TOKEN_FILE", value_name = "FILE")]
    token_file: PathBuf,
    /// Most tasks worked on at once.
    #[arg(long, env = "COFFER_CAPACITY", value_name = "N", default_value_t = AgentOptions::DEFAULT_CAPACITY, value_parser = clap::value_parser!(u32).range(1..=1000))]
    capacity: u32,
    /// Disk content held in memory at once, over all tasks [default: 64 MiB]
    #[arg(long, env = "COFFER_MEMORY", value_name = "SIZE")]
    memory: Option<ByteSize>,
}

#[tokio::main]
async fn main() -> Exit {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // Where nobody reads, nothing can be said.
            let _ = error.print();
            return exit;
        }
    };
    match run(args).await {
        Ok(()) => Exit::Ok,
        Err((exit, error)) => {
            // Not a log line: it may be the logs that could not be set up.
            drop(writeln!(std::io::stderr(), "coffer-agent: {error:#}"));
            exit
        }
    }
}

async fn run(args: Args) -> Result<(), (Exit, anyhow::Error)> {
    telemetry::init(telemetry::Format::Text, "info").map_err(|error| (Exit::Usage, error.into()))?;
    let stop = shutdown::on_signals().map_err(|error| (Exit::System, error.into()))?;
    let Some(token) = read_token(&args.token_file, &stop).await.map_err(|error| (Exit::System, error.into()))? else {
        return Ok(());
    };
    let options = AgentOptions {
        capacity: args.capacity,
        memory_budget_bytes: args.memory.map_or(AgentOptions::DEFAULT_MEMORY_BUDGET_BYTES, |memory| memory.0),
        token_file: Some(args.token_file),
        ..AgentOptions::new(args.controller, token, args.state)
    };
    Agent::run(options, stop).await.map_err(|error| (exit_of(&error), error.into()))
}

/// The token; `None` when the program is asked to stop before it is there.
async fn read_token(path: &Path, stop: &CancellationToken) -> Result<Option<SecretString>, secret_file::Error> {
    let is_late = |error: &secret_file::Error| {
        matches!(error, secret_file::Error::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
            || matches!(error, secret_file::Error::Empty { .. })
    };
    match retry(TOKEN, stop, is_late, || async { secret_file::read(path) }).await {
        Ok(token) => Ok(Some(token)),
        Err(coffer_runtime::retry::Stopped::Cancelled) => Ok(None),
        Err(coffer_runtime::retry::Stopped::Failed { error, .. }) => Err(error),
    }
}

fn exit_of(error: &coffer_agent::Error) -> Exit {
    use coffer_agent::Error;
    match error {
        Error::NoController | Error::Address { .. } | Error::Token => Exit::Usage,
        _ => Exit::System,
    }
}
