//! `coffer up`: a controller on the embedded store and an agent in one process.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use coffer_agent::{Agent, AgentOptions};
use coffer_controller::{Controller, Handle, ServeOptions};
use coffer_model::ByteSize;
use coffer_runtime::exit::Exit;
use coffer_runtime::{CancellationToken, shutdown, telemetry};
use coffer_store::EmbeddedStore;
use std::sync::Arc;

use crate::context::{TOKEN_FILE, default_state_dir};
use crate::{Error, Terminal};

/// Where a controller listens unless it is told otherwise.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:7420";
/// Name of the store's file in the state folder.
const STORE_FILE: &str = "store.redb";
/// Name of the agent's folder in the state folder.
const AGENT_FOLDER: &str = "agent";

const EXAMPLES: &str = "\
Everything that is known (jobs, runs, passwords) is in the state folder, which only its owner may read. Stop it with
Ctrl-C or SIGTERM: work stops in order, and goes on or is tidied up at the next start.

Examples:
  coffer up
  coffer up --state /srv/coffer --listen 127.0.0.1:7421";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Folder for everything that is known; made when it does not exist [default: /var/lib/coffer as root, else
    /// $XDG_STATE_HOME/coffer or ~/.local/state/coffer]
    #[arg(long, value_name = "FOLDER", env = "COFFER_STATE", hide_env_values = true)]
    state: Option<PathBuf>,
    /// Where the API is served; loopback only in this version
    #[arg(long, value_name = "ADDRESS:PORT", env = "COFFER_LISTEN", hide_env_values = true, default_value = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// Most tasks that the agent works on at once
    #[arg(long, value_name = "NUMBER", default_value_t = AgentOptions::DEFAULT_CAPACITY, value_parser = clap::value_parser!(u32).range(1..=1000))]
    capacity: u32,
    /// Disk content that the agent holds in memory at once, over all tasks [default: 64 MiB]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// The file sealing-key is lost: forget all passwords of pools and remotes, to be set anew
    #[arg(long)]
    forget_passwords: bool,
    /// Write logs as JSON
    #[arg(long)]
    log_json: bool,
}

impl Args {
    pub(crate) fn log_format(&self) -> telemetry::Format {
        if self.log_json { telemetry::Format::Json } else { telemetry::Format::Text }
    }
}

pub(crate) async fn run(args: Args, terminal: &mut Terminal) -> Result<Exit, Error> {
    let stop =
        shutdown::on_signals().map_err(|source| Error::System { action: "watch for signals".to_owned(), source })?;
    let state = args.state.clone().map_or_else(default_state_dir, Ok)?;
    // Absolute, for those who read it in another folder.
    let state = make_folder(&state)?;
    let store = EmbeddedStore::open(&state.join(STORE_FILE)).await.map_err(|error| start("the state store", error))?;
    let result = serve(&args, &state, &store, &stop, terminal).await;
    store.close().await;
    result.map(|()| Exit::Ok)
}

async fn serve(
    args: &Args,
    state: &Path,
    store: &EmbeddedStore,
    stop: &CancellationToken,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    let options = ServeOptions {
        listen: args.listen,
        forget_passwords: args.forget_passwords,
        ..ServeOptions::new(Arc::new(store.clone()), state)
    };
    let mut controller = Controller::serve(options).await.map_err(|error| start("the controller", error))?;
    let address = controller.local_addr();
    let agent = AgentOptions {
        capacity: args.capacity,
        memory_budget_bytes: args.memory.map_or(AgentOptions::DEFAULT_MEMORY_BUDGET_BYTES, |memory| memory.0),
        ..AgentOptions::new(vec![format!("http://{address}")], controller.api_token().into(), state.join(AGENT_FOLDER))
    };
    // The agent stops first: it still needs the controller to say how its tasks ended.
    let stop_agent = stop.child_token();
    let mut agent = tokio::spawn(Agent::run(agent, stop_agent.clone()));
    let said = say_hello(terminal, address, state);
    let result = tokio::select! {
        ended = &mut agent => return finish(controller, ended_early(ended)).await,
        error = controller.stopped() => Err(part("the controller", error)),
        () = stop.cancelled() => said,
    };
    stop_agent.cancel();
    let ended = agent
        .await
        .map_err(|error| part("the agent", error))
        .and_then(|ended| ended.map_err(|error| part("the agent", error)));
    finish(controller, result.and(ended)).await
}

/// An agent that ends before it is asked to has failed, or was asked at the same moment.
fn ended_early(ended: Result<Result<(), coffer_agent::Error>, tokio::task::JoinError>) -> Result<(), Error> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(part("the agent", error)),
        Err(error) => Err(part("the agent", error)),
    }
}

/// Stops the controller; what went wrong before counts more than what goes wrong now.
async fn finish(controller: Handle, result: Result<(), Error>) -> Result<(), Error> {
    let stopped = controller.shutdown().await.map_err(|error| part("the controller", error));
    result.and(stopped)
}

fn part(part: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Part { part, what: "go on", source: Box::new(error) }
}

fn start(part: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Part { part, what: "start", source: Box::new(error) }
}

fn make_folder(path: &Path) -> Result<PathBuf, Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| path.canonicalize())
        .map_err(|source| Error::System { action: format!("make the state folder {}", path.display()), source })
}

fn say_hello(terminal: &mut Terminal, address: SocketAddr, state: &Path) -> Result<(), Error> {
    let is_default = address.to_string() == DEFAULT_LISTEN && default_state_dir().is_ok_and(|default| default == state);
    let token = state.join(TOKEN_FILE);
    terminal.print(&format!("Coffer is up at {address}; its state is in {}.", state.display()))?;
    if is_default {
        return terminal.print("Next: coffer pool add NAME --host ADDRESS");
    }
    terminal
        .print(&format!("For other commands:\n  export COFFER_SERVER={address} COFFER_TOKEN_FILE={}", token.display()))
}
