//! `simpool`: runs a simulated pool until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use simpool::{Builder, Config, NbdMode, Profile};
use tracing_subscriber::EnvFilter;

/// A simulated pool of XCP-ng hosts: the wire protocols are real, the hosts are not.
#[derive(Debug, Parser)]
#[command(name = "simpool", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a pool until interrupted; prints one line of JSON when it is ready.
    Serve(Serve),
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// TOML file with hosts, SRs and VMs (see the README); flags win over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder that holds everything; an existing one is continued. Without it the state goes with the program.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Number of hosts, on 127.0.0.1, 127.0.0.2, …
    #[arg(long)]
    hosts: Option<usize>,
    /// HTTPS port of every host; 0 takes a free one.
    #[arg(long)]
    port: Option<u16>,
    /// Port of the control interface; 0 takes a free one.
    #[arg(long)]
    control_port: Option<u16>,
    /// Generation of the hosts.
    #[arg(long, value_enum)]
    version_profile: Option<Profile>,
    /// Multiplier of a real host's latencies: 1 is real, 0.01 suits tests.
    #[arg(long)]
    time_scale: Option<f64>,
    /// Password of root.
    #[arg(long)]
    password: Option<String>,
    /// How NBD is offered.
    #[arg(long, value_enum)]
    nbd: Option<NbdMode>,
}

impl Serve {
    fn config(self) -> anyhow::Result<Config> {
        use anyhow::Context;
        let mut config: Config = match &self.config {
            None => Config::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("{} is not a pool's configuration", path.display()))?
            }
        };
        if self.state.is_some() {
            config.state = self.state;
        }
        config.hosts = self.hosts.unwrap_or(config.hosts);
        config.port = self.port.unwrap_or(config.port);
        config.control_port = self.control_port.unwrap_or(config.control_port);
        config.profile = self.version_profile.unwrap_or(config.profile);
        config.time_scale = self.time_scale.unwrap_or(config.time_scale);
        config.password = self.password.unwrap_or(config.password);
        config.nbd = self.nbd.unwrap_or(config.nbd);
        Ok(config)
    }
}

fn main() -> ExitCode {
    let Command::Serve(serve) = Arguments::parse().command;
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")))
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), 71),
    };
    match serve.config() {
        Err(error) => fail(&error, 64),
        Ok(config) => match runtime.block_on(run(config)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        },
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let pool = Builder::from_config(config).start().await?;
    say(&serde_json::to_string(pool.info())?)?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    pool.shutdown().await;
    Ok(())
}

fn say(line: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    tracing::error!("simpool stops: {error:#}");
    ExitCode::from(code)
}
