//! `coffer backup`.

use coffer_proto::v1;
use coffer_runtime::exit::Exit;

use crate::client::{request_id, timed};
use crate::context::{Context, Wait};
use crate::input::confirm;
use crate::show::text::count;
use crate::show::{View, resources};
use crate::{Error, resolve};

/// How restore points are named.
macro_rules! point_help {
    () => {
        "A restore point is named by its id as `coffer backup list` shows it, as VM@latest, or by the beginning of its \
         time as 'db1@2026-01-01 03:00'. VM is a name or a UUID."
    };
}
pub(crate) use point_help;

const POINT: &str = point_help!();

const EXPORT: &str = "\
The files are written on the machine of the agent, into a folder that exists; none is overwritten.

Examples:
  coffer backup export db1@latest --format qcow2 --folder /var/tmp
  coffer backup export db1@latest --folder /var/tmp --disk xvda";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List restore points, newest first; each one listed is complete
    List(List),
    /// Show one restore point and its disks
    #[command(after_help = POINT)]
    Show {
        /// The restore point
        point: String,
    },
    /// Read restore points back from the remote and compare all their data with its hashes
    #[command(after_help = POINT)]
    Verify {
        /// The restore points
        #[arg(required = true)]
        points: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete restore points
    #[command(after_help = POINT)]
    Delete(Delete),
    /// Write disks of a restore point to files
    #[command(after_help = EXPORT)]
    Export(Export),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only of this virtual machine: its name or UUID
    #[arg(long, value_name = "VM")]
    vm: Option<String>,
    /// Only on this remote
    #[arg(long, value_name = "REMOTE")]
    remote: Option<String>,
    /// Only made by this job
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The restore points
    #[arg(required = true)]
    points: Vec<String>,
    /// Also the last restore point that is left of a virtual machine
    #[arg(long)]
    allow_last: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// The restore point
    point: String,
    /// Format of the files: raw (sparse), vhd or qcow2
    #[arg(long, value_enum, default_value_t = FileFormat::Raw, hide_possible_values = true)]
    format: FileFormat,
    /// Folder on the agent's machine, absolute
    #[arg(long, value_name = "FOLDER")]
    folder: String,
    /// Only this disk, by device or UUID. May be repeated
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<String>,
    #[command(flatten)]
    wait: Wait,
}

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FileFormat {
    Raw,
    Vhd,
    Qcow2,
}

impl From<FileFormat> for v1::export_restore_point_request::Format {
    fn from(format: FileFormat) -> Self {
        match format {
            FileFormat::Raw => Self::Raw,
            FileFormat::Vhd => Self::Vhd,
            FileFormat::Qcow2 => Self::Qcow2,
        }
    }
}

pub(crate) async fn run(command: Command, context: &mut Context<'_>) -> Result<Exit, Error> {
    match command {
        Command::List(args) => {
            let filter = v1::ListRestorePointsRequest {
                vm: args.vm.unwrap_or_default(),
                remote: args.remote.as_deref().map(resolve::remote).transpose()?.unwrap_or_default(),
                job: args.job.as_deref().map(resolve::job).transpose()?.unwrap_or_default(),
                ..Default::default()
            };
            let points = context.client.all_points(filter).await?;
            context.list("RestorePoint", &points, resources::points)
        }
        Command::Show { point } => {
            let name = named(context, &point).await?;
            let request = v1::GetRestorePointRequest { name };
            let point = context.client.points().get_restore_point(timed(request)).await?.into_inner();
            context.show("RestorePoint", &point, resources::point)
        }
        Command::Verify { points, wait } => {
            let names = all_named(context, &points).await?;
            let request = v1::VerifyRestorePointsRequest { names, request_id: request_id() };
            let run = context.client.points().verify_restore_points(timed(request)).await?.into_inner();
            context.started(run, !wait.detach).await
        }
        Command::Delete(args) => delete(args, context).await,
        Command::Export(args) => {
            let request = v1::ExportRestorePointRequest {
                name: named(context, &args.point).await?,
                format: v1::export_restore_point_request::Format::from(args.format).into(),
                folder: args.folder,
                disks: args.disks,
                request_id: request_id(),
            };
            let run = context.client.points().export_restore_point(timed(request)).await?.into_inner();
            context.started(run, !args.wait.detach).await
        }
    }
}

async fn named(context: &Context<'_>, text: &str) -> Result<String, Error> {
    resolve::point(&context.client, text, None, &context.terminal.zone).await
}

async fn all_named(context: &Context<'_>, texts: &[String]) -> Result<Vec<String>, Error> {
    let mut names = Vec::with_capacity(texts.len());
    for text in texts {
        names.push(named(context, text).await?);
    }
    Ok(names)
}

async fn delete(args: Delete, context: &mut Context<'_>) -> Result<Exit, Error> {
    let names = all_named(context, &args.points).await?;
    if !args.yes {
        let mut points = Vec::with_capacity(names.len());
        for name in &names {
            let request = v1::GetRestorePointRequest { name: name.clone() };
            points.push(context.client.points().get_restore_point(timed(request)).await?.into_inner());
        }
        let table = resources::points(&points, &View::of(context.terminal));
        context.note(&table)?;
        if !confirm(context.terminal, &format!("Delete {}?", count(names.len(), "restore point")))? {
            return Err(Error::rejected("nothing was deleted", "confirm, or say --yes"));
        }
    }
    let request = v1::DeleteRestorePointsRequest { names, allow_last: args.allow_last, request_id: request_id() };
    let run = context.client.points().delete_restore_points(timed(request)).await?.into_inner();
    context.started(run, !args.wait.detach).await
}
