//! The command line: what can be said to `coffer`. Options of a command live with the command.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use coffer_runtime::telemetry;

use crate::commands::{agent, backup, completion, job, pool, remote, restore, run, schedule, up};
use crate::show::Format;

const EXAMPLES: &str = "\
First steps:
  coffer up                                              a controller and an agent on this machine
  coffer pool add lab --host xcp1.example.org            register a pool
  coffer remote add nas --path /backups                  register a place for backups
  coffer job create nightly --pool lab --remote nas      say what to back up
  coffer job run nightly --follow                        back it up now
  coffer schedule add nightly daily --cron '0 3 * * *'   and every night
  coffer restore web@latest --sr 'Local storage'         bring a virtual machine back

Exit codes:
  0 done, 1 the work failed, 2 some of it failed, 64 the command line is wrong, 65 refused (not
  there, not clear, not possible now), 69 something that is needed does not answer, 77 no access,
  130 interrupted";

/// Back up and restore the virtual machines of XCP-ng and XenServer pools
#[derive(Debug, Parser)]
#[command(name = "coffer", version, max_term_width = 100, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Address of the controller; of several, separated by commas, the first that answers is used
    #[arg(long, global = true, value_name = "HOST:PORT", env = "COFFER_SERVER", hide_env_values = true, value_delimiter = ',', default_value = up::DEFAULT_LISTEN)]
    pub(crate) server: Vec<String>,
    /// File with the token of the API; by default `api-token` in the state folder of `coffer up`
    #[arg(long, global = true, value_name = "FILE", env = "COFFER_TOKEN_FILE", hide_env_values = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// How answers are shown
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "table|json"
    )]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a controller and an agent on this machine, in one process
    Up(up::Args),
    /// Pools of hosts, and what is in them
    #[command(subcommand)]
    Pool(pool::Command),
    /// Remotes: places where backups live
    #[command(subcommand)]
    Remote(remote::Command),
    /// Jobs: what is backed up, and where to
    #[command(subcommand)]
    Job(job::Command),
    /// Schedules: when jobs run, and how many restore points are kept
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Runs: what was done, is being done, went wrong
    #[command(subcommand)]
    Run(run::Command),
    /// Restore points: list, check, export, delete
    #[command(subcommand)]
    Backup(backup::Command),
    /// Make a new virtual machine out of a restore point
    Restore(restore::Args),
    /// Agents: the programs close to the hosts that do the work
    #[command(subcommand)]
    Agent(agent::Command),
    /// Print completions for a shell
    Completion(completion::Args),
}

impl Cli {
    /// How logs look.
    #[must_use]
    pub fn log_format(&self) -> telemetry::Format {
        match &self.command {
            Command::Up(args) => args.log_format(),
            _ => telemetry::Format::Text,
        }
    }

    /// What is logged unless `COFFER_LOG` says otherwise.
    #[must_use]
    pub fn log_filter(&self) -> &'static str {
        match &self.command {
            Command::Up(_) => "info",
            _ => "warn",
        }
    }
}
