//! `coffer schedule`.

use coffer_proto::v1;
use coffer_runtime::exit::Exit;
use jiff::SignedDuration;

use super::mask;
use crate::client::{request_id, timed};
use crate::context::Context;
use crate::show::resources;
use crate::show::text::id;
use crate::{Error, resolve};

const ADD: &str = "\
A rule has five fields: minute, hour, day of month, month, day of week; with lists (1,15), ranges (MON-FRI), steps \
(*/6), the last day (L) and the nth weekday (SUN#1). Several schedules of one job keep their own restore points: daily, \
weekly and monthly ones, for instance.

Examples:
  coffer schedule add nightly daily --cron '0 3 * * *' --time-zone Europe/Paris --retention 14
  coffer schedule add nightly monthly --cron '0 1 1 * *' --retention 12";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Add a schedule to a job
    #[command(after_help = ADD)]
    Add(Add),
    /// Change a schedule
    Edit(Edit),
    /// List the schedules of a job, or of all
    List {
        /// The job
        job: Option<String>,
    },
    /// Remove a schedule; restore points that it made stay until they are deleted by hand
    Remove {
        /// The job
        job: String,
        /// The schedule
        schedule: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// The job
    job: String,
    /// Name of the new schedule: a-z, 0-9 and '-', beginning with a letter
    schedule: String,
    /// When it fires
    #[arg(long, value_name = "RULE")]
    cron: String,
    /// IANA time zone of the rule, as Europe/Paris
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
    /// How many restore points of each machine made by this schedule are kept
    #[arg(long, value_name = "NUMBER", default_value_t = 7)]
    retention: u32,
    /// How late a missed tick is made up for, as 30m or 2h
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    catch_up: SignedDuration,
    /// It does not fire yet
    #[arg(long)]
    paused: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Edit {
    /// The job
    job: String,
    /// The schedule
    schedule: String,
    /// When it fires
    #[arg(long, value_name = "RULE")]
    cron: Option<String>,
    /// IANA time zone of the rule, as Europe/Paris
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// How many restore points of each machine made by this schedule are kept
    #[arg(long, value_name = "NUMBER")]
    retention: Option<u32>,
    /// How late a missed tick is made up for, as 30m or 2h
    #[arg(long, value_name = "DURATION")]
    catch_up: Option<SignedDuration>,
    /// true: it does not fire; false: it does
    #[arg(long, value_name = "true|false")]
    paused: Option<bool>,
}

pub(crate) async fn run(command: Command, context: &mut Context<'_>) -> Result<Exit, Error> {
    match command {
        Command::Add(args) => {
            let name = resolve::schedule(&args.job, &args.schedule)?;
            let schedule = v1::Schedule {
                cron: args.cron,
                time_zone: args.time_zone,
                retention: args.retention,
                paused: args.paused,
                catch_up_window: Some(window(args.catch_up)?),
                ..Default::default()
            };
            let request = v1::CreateScheduleRequest {
                parent: resolve::job(&args.job)?,
                schedule_id: id(&name).to_owned(),
                schedule: Some(schedule),
                request_id: request_id(),
            };
            let schedule = context.client.jobs().create_schedule(timed(request)).await?.into_inner();
            show(&schedule, context)
        }
        Command::Edit(args) => edit(args, context).await,
        Command::List { job } => {
            let parent = job.as_deref().map_or_else(|| Ok("jobs/-".to_owned()), resolve::job)?;
            let schedules = context.client.all_schedules(&parent).await?;
            context.list("Schedule", &schedules, resources::schedules)
        }
        Command::Remove { job, schedule } => {
            let name = resolve::schedule(&job, &schedule)?;
            let request = v1::DeleteScheduleRequest { name: name.clone(), etag: String::new() };
            context.client.jobs().delete_schedule(timed(request)).await?;
            context.done(&format!("removed {name}; its restore points stay until they are deleted by hand"))
        }
    }
}

fn show(schedule: &v1::Schedule, context: &mut Context<'_>) -> Result<Exit, Error> {
    context.show("Schedule", schedule, |schedule, view| resources::schedules(std::slice::from_ref(schedule), view))
}

fn window(duration: SignedDuration) -> Result<prost_types::Duration, Error> {
    if duration.is_negative() {
        return Err(Error::usage("--catch-up is negative", Some("expected a duration as 30m or 2h")));
    }
    Ok(prost_types::Duration { seconds: duration.as_secs(), nanos: duration.subsec_nanos() })
}

async fn edit(args: Edit, context: &mut Context<'_>) -> Result<Exit, Error> {
    let mut schedule = v1::Schedule { name: resolve::schedule(&args.job, &args.schedule)?, ..Default::default() };
    let mut fields = Vec::new();
    if let Some(cron) = args.cron {
        schedule.cron = cron;
        fields.push("cron");
    }
    if let Some(time_zone) = args.time_zone {
        schedule.time_zone = time_zone;
        fields.push("time_zone");
    }
    if let Some(retention) = args.retention {
        schedule.retention = retention;
        fields.push("retention");
    }
    if let Some(catch_up) = args.catch_up {
        schedule.catch_up_window = Some(window(catch_up)?);
        fields.push("catch_up_window");
    }
    if let Some(paused) = args.paused {
        schedule.paused = paused;
        fields.push("paused");
    }
    if fields.is_empty() {
        return Err(Error::usage("nothing to change", Some("`coffer schedule edit --help` lists what can be changed")));
    }
    let request = v1::UpdateScheduleRequest { schedule: Some(schedule), update_mask: Some(mask(fields)) };
    let schedule = context.client.jobs().update_schedule(timed(request)).await?.into_inner();
    show(&schedule, context)
}
