//! `coffer job`.

use clap::ValueEnum;
use coffer_model::PowerState;
use coffer_proto::v1;
use coffer_runtime::exit::Exit;

use super::mask;
use crate::client::{all_pages, request_id, timed};
use crate::context::Context;
use crate::show::text::id;
use crate::show::{Format, View, json, pretty, resources};
use crate::{Error, resolve};

const CREATE: &str = "\
Machines are chosen by pool (all of it, or those that the filters let pass, looked up anew at each run) and by name. \
Disks whose name begins with [NOBAK] are left out.

Examples:
  coffer job create nightly --pool lab --remote nas
  coffer job create prod --pool lab --tag prod --power-state running --remote nas
  coffer job create pets --vm web --vm lab/db1 --remote nas --concurrency 1";

const EDIT: &str = "\
An option that may be repeated replaces the whole list; --clear empties one.

Examples:
  coffer job edit nightly --concurrency 4
  coffer job edit nightly --tag prod --tag staging --clear power-state";

const RUN: &str = "\
Examples:
  coffer job run nightly --follow
  coffer job run nightly --vm web";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Create a job
    #[command(after_help = CREATE)]
    Create(Create),
    /// Change a job; runs that are under way keep what they started with, but for --concurrency
    #[command(after_help = EDIT)]
    Edit(Edit),
    /// List jobs
    List,
    /// Show one job and its schedules
    Show {
        /// The job
        job: String,
    },
    /// Delete a job and its schedules; restore points stay
    Delete {
        /// The job
        job: String,
    },
    /// Run a job now
    #[command(after_help = RUN)]
    Run(Run),
    /// Keep schedules from starting a job
    Pause {
        /// The job
        job: String,
    },
    /// Let schedules start a job again
    Resume {
        /// The job
        job: String,
    },
}

/// What a job selects.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct SelectionArgs {
    /// Every virtual machine of this pool that the filters let pass. May be repeated
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,
    /// This virtual machine, whatever the filters say: name, UUID or POOL/NAME. May be repeated
    #[arg(long = "vm", value_name = "VM")]
    vms: Vec<String>,
    /// Filter: only machines with this tag, or one of these. May be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Filter: no machines with this tag. May be repeated
    #[arg(long = "exclude-tag", value_name = "TAG")]
    exclude_tags: Vec<String>,
    /// Filter: only machines in this state: running, halted, suspended or paused
    #[arg(long, value_name = "STATE")]
    power_state: Option<PowerState>,
}

impl SelectionArgs {
    /// Puts what was said into a selection; says whether anything was.
    async fn apply(self, selection: &mut v1::Selection, context: &Context<'_>) -> Result<bool, Error> {
        let said = !self.pools.is_empty()
            || !self.vms.is_empty()
            || !self.tags.is_empty()
            || !self.exclude_tags.is_empty()
            || self.power_state.is_some();
        if !self.pools.is_empty() {
            selection.pools = resolve::each(&self.pools, resolve::pool)?;
        }
        if !self.vms.is_empty() {
            selection.vms = vms(context, &self.vms).await?;
        }
        if !self.tags.is_empty() {
            selection.tags = self.tags;
        }
        if !self.exclude_tags.is_empty() {
            selection.exclude_tags = self.exclude_tags;
        }
        if let Some(state) = self.power_state {
            selection.power_state = state.to_string();
        }
        Ok(said)
    }
}

async fn vms(context: &Context<'_>, texts: &[String]) -> Result<Vec<String>, Error> {
    let mut names = Vec::with_capacity(texts.len());
    for text in texts {
        names.push(resolve::vm(&context.client, text).await?);
    }
    Ok(names)
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Name of the new job: a-z, 0-9 and '-', beginning with a letter
    job: String,
    /// The remote that restore points go to
    #[arg(long = "remote", value_name = "REMOTE", required = true)]
    remotes: Vec<String>,
    /// How many virtual machines are worked on at once
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    concurrency: u32,
    /// How many restore points of each machine are kept of runs started by hand
    #[arg(long, value_name = "NUMBER", default_value_t = 7)]
    retention: u32,
    /// How often a machine that failed for a passing reason is tried in all
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    max_attempts: u32,
    /// Free text for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    display_name: String,
    /// Schedules do not start it yet
    #[arg(long)]
    paused: bool,
    #[command(flatten)]
    selection: SelectionArgs,
}

/// A part of a selection that can be emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clear {
    Pools,
    Vms,
    Tags,
    ExcludeTags,
    PowerState,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Edit {
    /// The job
    job: String,
    /// The remote that restore points go to from now on
    #[arg(long = "remote", value_name = "REMOTE")]
    remotes: Vec<String>,
    /// How many virtual machines are worked on at once; takes effect at once
    #[arg(long, value_name = "NUMBER")]
    concurrency: Option<u32>,
    /// How many restore points of each machine are kept of runs started by hand
    #[arg(long, value_name = "NUMBER")]
    retention: Option<u32>,
    /// How often a machine that failed for a passing reason is tried in all
    #[arg(long, value_name = "NUMBER")]
    max_attempts: Option<u32>,
    /// Free text for people
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// Empty this part of the selection. May be repeated
    #[arg(long, value_enum, value_name = "PART")]
    clear: Vec<Clear>,
    #[command(flatten)]
    selection: SelectionArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The job
    job: String,
    /// Only this one of the machines that the job selects. May be repeated
    #[arg(long = "vm", value_name = "VM")]
    vms: Vec<String>,
    /// Show the run until it ends, and exit as it ended
    #[arg(long, short)]
    follow: bool,
}

pub(crate) async fn run(command: Command, context: &mut Context<'_>) -> Result<Exit, Error> {
    match command {
        Command::Create(args) => create(args, context).await,
        Command::Edit(args) => edit(args, context).await,
        Command::List => {
            let jobs = all_pages!(context.client.jobs(), list_jobs, jobs, v1::ListJobsRequest::default());
            // Only people see when they run next.
            let schedules = if context.format == Format::Table {
                context.client.all_schedules("jobs/-").await?
            } else {
                Vec::new()
            };
            context.list("Job", &jobs, |jobs, view| resources::jobs(jobs, &schedules, view))
        }
        Command::Show { job } => show(&resolve::job(&job)?, context).await,
        Command::Delete { job } => {
            let name = resolve::job(&job)?;
            let request = v1::DeleteJobRequest { name: name.clone(), etag: String::new() };
            context.client.jobs().delete_job(timed(request)).await?;
            context.done(&format!("deleted {name} and its schedules; its restore points stay"))
        }
        Command::Run(args) => {
            let vms = vms(context, &args.vms).await?;
            let request = v1::RunJobRequest { name: resolve::job(&args.job)?, vms, request_id: request_id() };
            let run = context.client.jobs().run_job(timed(request)).await?.into_inner();
            context.started(run, args.follow).await
        }
        Command::Pause { job } => pause(&resolve::job(&job)?, true, context).await,
        Command::Resume { job } => pause(&resolve::job(&job)?, false, context).await,
    }
}

async fn get(context: &Context<'_>, name: &str) -> Result<v1::Job, Error> {
    let request = v1::GetJobRequest { name: name.to_owned() };
    Ok(context.client.jobs().get_job(timed(request)).await?.into_inner())
}

fn words(job: &v1::Job, view: &View) -> String {
    resources::job(job, &[], view)
}

async fn show(name: &str, context: &mut Context<'_>) -> Result<Exit, Error> {
    let job = get(context, name).await?;
    let schedules = context.client.all_schedules(name).await?;
    let text = match context.format {
        Format::Table => resources::job(&job, &schedules, &View::of(context.terminal)),
        Format::Json => {
            let mut job = json::message("Job", &job);
            job["schedules"] = json::messages("Schedule", &schedules);
            pretty(&job)
        }
    };
    context.terminal.print(&text)?;
    Ok(Exit::Ok)
}

async fn create(args: Create, context: &mut Context<'_>) -> Result<Exit, Error> {
    let name = resolve::job(&args.job)?;
    let mut selection = v1::Selection::default();
    if !args.selection.apply(&mut selection, context).await? {
        return Err(Error::usage(
            "the job selects nothing",
            Some("name pools with --pool, virtual machines with --vm, or both"),
        ));
    }
    let job = v1::Job {
        display_name: args.display_name,
        selection: Some(selection),
        remotes: resolve::each(&args.remotes, resolve::remote)?,
        concurrency: args.concurrency,
        manual_retention: args.retention,
        max_attempts: args.max_attempts,
        paused: args.paused,
        ..Default::default()
    };
    let request = v1::CreateJobRequest { job_id: id(&name).to_owned(), job: Some(job), request_id: request_id() };
    let job = context.client.jobs().create_job(timed(request)).await?.into_inner();
    context.show("Job", &job, words)
}

async fn edit(args: Edit, context: &mut Context<'_>) -> Result<Exit, Error> {
    let mut job = get(context, &resolve::job(&args.job)?).await?;
    let mut fields = Vec::new();
    let mut selection = job.selection.take().unwrap_or_default();
    for part in &args.clear {
        match part {
            Clear::Pools => selection.pools.clear(),
            Clear::Vms => selection.vms.clear(),
            Clear::Tags => selection.tags.clear(),
            Clear::ExcludeTags => selection.exclude_tags.clear(),
            Clear::PowerState => selection.power_state.clear(),
        }
    }
    if args.selection.apply(&mut selection, context).await? || !args.clear.is_empty() {
        fields.push("selection");
    }
    job.selection = Some(selection);
    if !args.remotes.is_empty() {
        job.remotes = resolve::each(&args.remotes, resolve::remote)?;
        fields.push("remotes");
    }
    for (field, place, value) in [
        ("concurrency", &mut job.concurrency, args.concurrency),
        ("manual_retention", &mut job.manual_retention, args.retention),
        ("max_attempts", &mut job.max_attempts, args.max_attempts),
    ] {
        if let Some(value) = value {
            *place = value;
            fields.push(field);
        }
    }
    if let Some(display_name) = args.display_name {
        job.display_name = display_name;
        fields.push("display_name");
    }
    if fields.is_empty() {
        return Err(Error::usage("nothing to change", Some("`coffer job edit --help` lists what can be changed")));
    }
    // The etag that was read goes along: what somebody else changed meanwhile is not overwritten.
    let request = v1::UpdateJobRequest { job: Some(job), update_mask: Some(mask(fields)) };
    let job = context.client.jobs().update_job(timed(request)).await?.into_inner();
    show(&job.name, context).await
}

async fn pause(name: &str, paused: bool, context: &mut Context<'_>) -> Result<Exit, Error> {
    let job = v1::Job { name: name.to_owned(), paused, ..Default::default() };
    let request = v1::UpdateJobRequest { job: Some(job), update_mask: Some(mask(["paused"])) };
    let job = context.client.jobs().update_job(timed(request)).await?.into_inner();
    context.show("Job", &job, |job, _| {
        let what = if paused { "is paused; it can still be run by hand" } else { "is started by its schedules again" };
        format!("{} {what}", job.name)
    })
}
