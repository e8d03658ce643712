//! `coffer-controller`: reads its command line, serves from the embedded store, drains when asked to stop.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use coffer_controller::{Controller, Error, ServeOptions, Timings};
use coffer_runtime::exit::Exit;
use coffer_runtime::{shutdown, telemetry};
use coffer_store::EmbeddedStore;

/// Below this hard stop the loops keep pace with it.
const SHORT: Duration = Duration::from_secs(30);

/// The control plane of Coffer: one controller on its own store.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Folder for everything that is known; made when it does not exist
    #[arg(long, value_name = "DIR", env = "COFFER_STATE")]
    state: PathBuf,
    /// Where the API is served; loopback only in this version
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7420")]
    listen: SocketAddr,
    /// How long an agent may be silent before its session ends [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    session_ttl: Option<Duration>,
    /// Longest time between two calls of an agent [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    sync_interval: Option<Duration>,
    /// How long after its last good call an agent may do what cannot be undone [default: 20s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    authority: Option<Duration>,
    /// How long after its last good call an agent may read or write anything [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    hard_stop: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    parsed.ok_or_else(|| "expected a duration such as `3s`, `500ms` or `2m`".to_owned())
}

impl Args {
    fn timings(&self) -> Timings {
        let (usual, short) = (Timings::default(), Timings::short());
        let hard_stop = self.hard_stop.unwrap_or(usual.hard_stop);
        let pace = if hard_stop < SHORT { &short } else { &usual };
        Timings {
            session_ttl: self.session_ttl.unwrap_or(usual.session_ttl),
            sync_interval: self.sync_interval.unwrap_or(usual.sync_interval),
            authority: self.authority.unwrap_or(usual.authority),
            hard_stop,
            takeover_margin: pace.takeover_margin,
            loop_period: pace.loop_period,
            retry_backoff: pace.retry_backoff,
            retry_backoff_max: pace.retry_backoff_max,
            ..usual
        }
    }
}

#[tokio::main]
async fn main() -> Exit {
    let args = Args::try_parse().unwrap_or_else(|error| {
        drop(error.print());
        std::process::exit(if error.use_stderr() { i32::from(Exit::Usage.code()) } else { 0 })
    });
    match run(&args).await {
        Ok(()) => Exit::Ok,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "coffer-controller: {error:#}"));
            exit_of(&error)
        }
    }
}

fn exit_of(error: &anyhow::Error) -> Exit {
    match error.downcast_ref::<Error>() {
        Some(Error::NotLoopback { .. } | Error::Timings(_) | Error::BadToken { .. }) => Exit::Usage,
        Some(Error::Store { .. }) => Exit::Unavailable,
        Some(Error::Part(_)) => Exit::Internal,
        _ if error.is::<telemetry::Error>() => Exit::Usage,
        _ => Exit::System,
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    telemetry::init(telemetry::Format::Text, "info")?;
    let stop = shutdown::on_signals().context("cannot watch for signals")?;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&args.state);
    made.with_context(|| format!("cannot make the state folder {}", args.state.display()))?;
    let store = open(&args.state.join("store.redb")).await?;
    let options = ServeOptions {
        listen: args.listen,
        timings: args.timings(),
        ..ServeOptions::new(Arc::new(store.clone()), &args.state)
    };
    let result = serve(options, stop).await;
    store.close().await;
    Ok(result?)
}

async fn open(path: &Path) -> anyhow::Result<EmbeddedStore> {
    EmbeddedStore::open(path).await.with_context(|| format!("cannot open the state store {}", path.display()))
}

async fn serve(options: ServeOptions, stop: coffer_runtime::CancellationToken) -> Result<(), Error> {
    let mut controller = Controller::serve(options).await?;
    let line = format!("listening on http://{}\n", controller.local_addr());
    // Whoever started it may not listen; it serves all the same.
    drop(std::io::stdout().write_all(line.as_bytes()).and_then(|()| std::io::stdout().flush()));
    let failed = tokio::select! {
        error = controller.stopped() => Err(error),
        () = stop.cancelled() => Ok(()),
    };
    failed.and(controller.shutdown().await)
}
