//! `coffer remote`.

use std::time::Duration;

use coffer_model::ByteSize;
use coffer_proto::v1;
use coffer_proto::v1::remote::State;
use coffer_runtime::exit::Exit;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::mask;
use crate::client::{all_pages, request_id, timed};
use crate::context::{Context, Wait};
use crate::input::PasswordArgs;
use crate::show::resources;
use crate::show::text::id;
use crate::{Error, resolve};

/// Where a password may stand, beside a file.
const PASSWORD: &str = "COFFER_REMOTE_PASSWORD";
/// How often the state of a new remote is looked at.
const LOOK: Duration = Duration::from_millis(300);

const ADD: &str = "\
The folder must exist on the agent's machine, so that an unmounted disk is not written to by mistake. It gets a \
repository in restic's format, encrypted with the password that is asked for (or read from --password-file or \
COFFER_REMOTE_PASSWORD). Keep that password: whoever loses it loses the backups. If the folder holds a repository \
already, it is opened; then `coffer remote scan` reads which restore points are in it.

Examples:
  coffer remote add nas --path /backups
  coffer remote add nas --path /mnt/nas/coffer --password-file /etc/coffer/nas";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Register a remote, and wait until an agent has opened it
    #[command(after_help = ADD)]
    Add(Add),
    /// List remotes
    List,
    /// Show one remote
    Show {
        /// The remote
        remote: String,
    },
    /// Change a remote's name for people, its limit, or the password that opens it
    Update(Update),
    /// Forget a remote; nothing on it is deleted
    Remove {
        /// The remote
        remote: String,
    },
    /// Read which restore points are on a remote, and correct the catalogue
    Scan {
        /// The remote
        remote: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Free the space of data which no restore point needs any more
    Prune {
        /// The remote
        remote: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// Name of the new remote: a-z, 0-9 and '-', beginning with a letter
    remote: String,
    /// Folder on the agent's machine, absolute: a disk of its own, or anything that is mounted there
    #[arg(long, value_name = "FOLDER")]
    path: String,
    #[command(flatten)]
    password: PasswordArgs,
    /// Size of a chunk of a new repository, a power of two from 64 KiB to 8 MiB [default: 1 MiB]
    #[arg(long, value_name = "SIZE")]
    chunk_size: Option<ByteSize>,
    /// Free text for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    display_name: String,
    /// Most tasks that work on this remote at once, over all jobs; 0 means no limit
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    max_tasks: u32,
    /// How long to wait for an agent to open it, in seconds; 0: not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// The remote
    remote: String,
    /// Ask for the password of the repository again; this does not change it on the remote
    #[arg(long)]
    ask_password: bool,
    #[command(flatten)]
    password: PasswordArgs,
    /// Free text for people
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// Most tasks that work on this remote at once, over all jobs; 0 means no limit
    #[arg(long, value_name = "NUMBER")]
    max_tasks: Option<u32>,
}

pub(crate) async fn run(command: Command, context: &mut Context<'_>) -> Result<Exit, Error> {
    match command {
        Command::Add(args) => add(args, context).await,
        Command::List => {
            let remotes =
                all_pages!(context.client.remotes(), list_remotes, remotes, v1::ListRemotesRequest::default());
            context.list("Remote", &remotes, resources::remotes)
        }
        Command::Show { remote } => {
            let remote = get(context, &resolve::remote(&remote)?).await?;
            context.show("Remote", &remote, resources::remote)
        }
        Command::Update(args) => update(args, context).await,
        Command::Remove { remote } => {
            let name = resolve::remote(&remote)?;
            let request = v1::DeleteRemoteRequest { name: name.clone(), etag: String::new() };
            context.client.remotes().delete_remote(timed(request)).await?;
            context.done(&format!("forgot {name}; nothing on it was deleted"))
        }
        Command::Scan { remote, wait } => {
            let request = v1::ScanRemoteRequest { name: resolve::remote(&remote)?, request_id: request_id() };
            let run = context.client.remotes().scan_remote(timed(request)).await?.into_inner();
            context.started(run, !wait.detach).await
        }
        Command::Prune { remote, dry_run, wait } => {
            let name = resolve::remote(&remote)?;
            let request = v1::PruneRemoteRequest { name, dry_run, request_id: request_id() };
            let run = context.client.remotes().prune_remote(timed(request)).await?.into_inner();
            context.started(run, !wait.detach).await
        }
    }
}

async fn get(context: &Context<'_>, name: &str) -> Result<v1::Remote, Error> {
    let request = v1::GetRemoteRequest { name: name.to_owned() };
    Ok(context.client.remotes().get_remote(timed(request)).await?.into_inner())
}

async fn add(args: Add, context: &mut Context<'_>) -> Result<Exit, Error> {
    let name = resolve::remote(&args.remote)?;
    let chunk_size_bytes = args
        .chunk_size
        .map_or(Ok(0), |size| u32::try_from(size.0))
        .map_err(|_| Error::usage("--chunk-size is too large", Some("expected a power of two from 64 KiB to 8 MiB")))?;
    let password = args.password.read(context.terminal, PASSWORD, &format!("the repository on {}", id(&name)), true)?;
    let remote = v1::Remote {
        display_name: args.display_name,
        location: Some(v1::remote::Location::Local(v1::LocalLocation { path: args.path })),
        password: password.expose_secret().to_owned(),
        chunk_size_bytes,
        max_concurrent_tasks: args.max_tasks,
        ..Default::default()
    };
    let request =
        v1::CreateRemoteRequest { remote_id: id(&name).to_owned(), remote: Some(remote), request_id: request_id() };
    let mut remote = context.client.remotes().create_remote(timed(request)).await?.into_inner();
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    while args.wait > 0 && remote.state() == State::Pending {
        if Instant::now() >= deadline {
            return Err(Error::unavailable(
                format!("remote {} is registered, but no agent has opened it within {} s", id(&name), args.wait),
                "is an agent running? `coffer agent list` shows them, `coffer remote list` the remote's state",
            ));
        }
        tokio::time::sleep(LOOK).await;
        remote = get(context, &name).await?;
    }
    if remote.state() == State::Unavailable {
        return Err(Error::unavailable(
            format!("remote {} is registered, but no agent can open it: {}", id(&name), remote.state_message),
            format!("put it right, or remove it with `coffer remote remove {}`", id(&name)),
        ));
    }
    context.show("Remote", &remote, resources::remote)
}

async fn update(args: Update, context: &mut Context<'_>) -> Result<Exit, Error> {
    let mut remote = get(context, &resolve::remote(&args.remote)?).await?;
    let mut fields = Vec::new();
    if args.ask_password || args.password.password_file.is_some() {
        let of_what = format!("the repository on {}", id(&remote.name));
        remote.password = args.password.read(context.terminal, PASSWORD, &of_what, false)?.expose_secret().to_owned();
        fields.push("password");
    }
    if let Some(display_name) = args.display_name {
        remote.display_name = display_name;
        fields.push("display_name");
    }
    if let Some(max_tasks) = args.max_tasks {
        remote.max_concurrent_tasks = max_tasks;
        fields.push("max_concurrent_tasks");
    }
    if fields.is_empty() {
        return Err(Error::usage("nothing to change", Some("`coffer remote update --help` lists what can be changed")));
    }
    let request = v1::UpdateRemoteRequest { remote: Some(remote), update_mask: Some(mask(fields)) };
    let remote = context.client.remotes().update_remote(timed(request)).await?.into_inner();
    context.show("Remote", &remote, resources::remote)
}
