//! `coffer run`.

use coffer_proto::v1;
use coffer_runtime::exit::Exit;

use crate::client::{request_id, timed};
use crate::context::{Context, Wait};
use crate::show::runs::Log;
use crate::show::text::id;
use crate::show::{Format, View, json, pretty, runs};
use crate::{Error, follow, resolve};

const RUN: &str = "\
A run is named by its id as `coffer run list` shows it, by `latest`, or by JOB@latest.";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List runs, newest first
    List(List),
    /// Show a run with its tasks, steps, bytes and reasons
    #[command(after_help = RUN)]
    Show {
        /// The run
        #[arg(default_value = "latest")]
        run: String,
        /// With all that its tasks logged, not warnings only
        #[arg(long)]
        log: bool,
    },
    /// Show a run while it works, until it ends; exit as it ended
    #[command(after_help = RUN)]
    Follow {
        /// The run
        #[arg(default_value = "latest")]
        run: String,
    },
    /// Stop a run: transfers end within seconds, and what was created in the pool is removed
    #[command(after_help = RUN)]
    Cancel {
        /// The run
        run: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Start a new run of what did not succeed in an ended one
    #[command(after_help = RUN)]
    Retry {
        /// The run
        run: String,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only runs of this job
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// Only runs that have not ended
    #[arg(long)]
    active: bool,
    /// How many
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

pub(crate) async fn run(command: Command, context: &mut Context<'_>) -> Result<Exit, Error> {
    match command {
        Command::List(args) => {
            let job = args.job.as_deref().map(resolve::job).transpose()?.unwrap_or_default();
            let request =
                v1::ListRunsRequest { page_size: args.limit, job, active_only: args.active, ..Default::default() };
            let found = context.client.runs().list_runs(timed(request)).await?.into_inner().runs;
            let nothing = match (args.active, &args.job) {
                (true, _) => "Nothing runs. All runs: coffer run list".to_owned(),
                (false, Some(job)) => format!("No runs of {job} yet. Start one: coffer job run {job}"),
                (false, None) => "No runs yet. Start one: coffer job run JOB".to_owned(),
            };
            context.list("Run", &found, |found, view| runs::list(found, &nothing, view))
        }
        Command::Show { run, log } => {
            let name = resolve::run(&context.client, &run).await?;
            show(&name, if log { Log::Whole } else { Log::Warnings }, context).await
        }
        Command::Follow { run } => {
            let name = resolve::run(&context.client, &run).await?;
            follow::follow(context, &name).await
        }
        Command::Cancel { run, wait } => {
            let name = resolve::run(&context.client, &run).await?;
            let request = v1::CancelRunRequest { name: name.clone() };
            let run = context.client.runs().cancel_run(timed(request)).await?.into_inner();
            if wait.detach || runs::has_ended(run.state()) {
                return context
                    .show("Run", &run, |run, view| format!("{} {}", id(&run.name), runs::summary(run, view)));
            }
            // Being cancelled is what was asked for.
            match follow::follow(context, &name).await? {
                Exit::Failed => Ok(Exit::Ok),
                exit => Ok(exit),
            }
        }
        Command::Retry { run, wait } => {
            let name = resolve::run(&context.client, &run).await?;
            let request = v1::RetryRunRequest { name, request_id: request_id() };
            let run = context.client.runs().retry_run(timed(request)).await?.into_inner();
            context.started(run, !wait.detach).await
        }
    }
}

async fn show(name: &str, log: Log, context: &mut Context<'_>) -> Result<Exit, Error> {
    let run = context.client.run(name).await?;
    let tasks = context.client.all_tasks(name).await?;
    let text = match context.format {
        Format::Table => runs::tree(&run, &tasks, log, &View::of(context.terminal)),
        Format::Json => pretty(&serde_json::json!({
            "run": json::message("Run", &run),
            "tasks": json::messages("Task", &tasks),
        })),
    };
    context.terminal.print(&text)?;
    Ok(Exit::Ok)
}
