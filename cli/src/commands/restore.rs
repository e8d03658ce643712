//! `coffer restore`.

use coffer_proto::v1;
use coffer_runtime::exit::Exit;

use super::backup::point_help;
use crate::client::{request_id, timed};
use crate::context::{Context, Wait};
use crate::show::text::id;
use crate::{Error, follow, resolve};

const HELP: &str = concat!(
    point_help!(),
    " Nothing that exists is replaced: a restore always makes a new virtual machine, in any pool.

Examples:
  coffer restore db1@latest --sr 'Local storage'
  coffer restore 'db1@2026-01-01 03:00' --sr lab/ssd --name db1-before --start"
);

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The restore point
    point: String,
    /// Storage repository for all disks: name, UUID or POOL/NAME
    #[arg(long, value_name = "SR")]
    sr: String,
    /// Name of the new virtual machine [default: the old name with the instant of the restore point]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Start it when it is complete
    #[arg(long)]
    start: bool,
    /// Keep the MAC addresses of its network interfaces: right when the original is gone
    #[arg(long)]
    keep_mac: bool,
    /// The remote to restore from, when the restore point is on several
    #[arg(long, value_name = "REMOTE")]
    remote: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

pub(crate) async fn run(args: Args, context: &mut Context<'_>) -> Result<Exit, Error> {
    let zone = context.terminal.zone.clone();
    let restore = v1::Restore {
        restore_point: resolve::point(&context.client, &args.point, args.remote.as_deref(), &zone).await?,
        storage_repository: resolve::sr(&context.client, &args.sr).await?,
        vm_label: args.name.unwrap_or_default(),
        start: args.start,
        keep_mac_addresses: args.keep_mac,
        ..Default::default()
    };
    let request = v1::CreateRestoreRequest { restore: Some(restore), request_id: request_id() };
    let restore = context.client.restores().create_restore(timed(request)).await?.into_inner();
    if args.wait.detach {
        return context.show("Restore", &restore, |restore, _| {
            let run = id(&restore.run);
            format!("started {run}\nfollow it: coffer run follow {run}")
        });
    }
    follow::follow(context, &restore.run).await
}
