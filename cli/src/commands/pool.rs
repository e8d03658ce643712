//! `coffer pool`.

use std::time::Duration;

use coffer_proto::v1;
use coffer_proto::v1::pool::State;
use coffer_runtime::exit::Exit;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::mask;
use crate::client::{request_id, timed};
use crate::context::Context;
use crate::input::{PasswordArgs, confirm};
use crate::show::resources;
use crate::show::text::id;
use crate::{Error, resolve};

/// Where a password may stand, beside a file.
const PASSWORD: &str = "COFFER_POOL_PASSWORD";
/// How often the state of a new pool is looked at.
const LOOK: Duration = Duration::from_millis(300);

const ADD: &str = "\
The password is asked for, or read from --password-file or from COFFER_POOL_PASSWORD; it is never an argument, as other \
users could see it. It is not sent to the pool before you have confirmed the fingerprint of the host's certificate; the \
certificates of the pool's other hosts follow from what that host says. On its console, this command shows it:
  openssl x509 -noout -fingerprint -sha256 -in /etc/xensource/xapi-ssl.pem

Examples:
  coffer pool add lab --host xcp1.example.org --user root
  coffer pool add lab --host 192.0.2.10 --user backup --password-file /etc/coffer/lab --fingerprint 5E:0A:…";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Register a pool, and wait until an agent is logged in
    #[command(after_help = ADD)]
    Add(Add),
    /// List pools
    List,
    /// Show one pool
    Show {
        /// The pool
        pool: String,
    },
    /// Change how a pool is reached, confirm its certificate, limit the work in it
    Update(Update),
    /// Forget a pool; restore points of its virtual machines stay
    Remove {
        /// The pool
        pool: String,
    },
    /// List the virtual machines of a pool
    Vms {
        /// The pool
        pool: String,
    },
    /// List the storage repositories of a pool
    Srs {
        /// The pool
        pool: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// Name of the new pool: a-z, 0-9 and '-', beginning with a letter
    pool: String,
    /// Address of a host of the pool, `host` or `host:port`; the coordinator if you know it. May be repeated
    #[arg(long = "host", value_name = "HOST", required = true)]
    hosts: Vec<String>,
    /// User of XAPI
    #[arg(long, default_value = "root")]
    user: String,
    #[command(flatten)]
    password: PasswordArgs,
    /// SHA-256 fingerprint of the first host's certificate, if you have it already
    #[arg(long, value_name = "SHA256", conflicts_with = "accept_certificate")]
    fingerprint: Option<String>,
    /// Trust whatever certificate the agent sees now, without asking
    #[arg(long)]
    accept_certificate: bool,
    /// Free text for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    display_name: String,
    /// Most virtual machines of this pool that are worked on at once, over all jobs; 0 means no limit
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    max_tasks: u32,
    /// How long to wait for an agent to log in, in seconds; 0: not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// The pool
    pool: String,
    /// New addresses, instead of those it has. May be repeated
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// New user; you give the password too
    #[arg(long)]
    user: Option<String>,
    /// Ask for a new password
    #[arg(long)]
    ask_password: bool,
    #[command(flatten)]
    password: PasswordArgs,
    /// Trust the certificate with this SHA-256 fingerprint
    #[arg(long, value_name = "SHA256", conflicts_with = "accept_certificate")]
    fingerprint: Option<String>,
    /// Trust the certificate that an agent saw last
    #[arg(long)]
    accept_certificate: bool,
    /// Free text for people
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// Most virtual machines of this pool that are worked on at once, over all jobs; 0 means no limit
    #[arg(long, value_name = "NUMBER")]
    max_tasks: Option<u32>,
}

pub(crate) async fn run(command: Command, context: &mut Context<'_>) -> Result<Exit, Error> {
    match command {
        Command::Add(args) => add(args, context).await,
        Command::List => {
            let pools = context.client.all_pools().await?;
            context.list("Pool", &pools, resources::pools)
        }
        Command::Show { pool } => {
            let pool = get(context, &resolve::pool(&pool)?).await?;
            context.show("Pool", &pool, resources::pool)
        }
        Command::Update(args) => update(args, context).await,
        Command::Remove { pool } => {
            let name = resolve::pool(&pool)?;
            let request = v1::DeletePoolRequest { name: name.clone(), etag: String::new() };
            context.client.pools().delete_pool(timed(request)).await?;
            context.done(&format!("forgot {name}"))
        }
        Command::Vms { pool } => {
            let vms = context.client.all_vms(&resolve::pool(&pool)?).await?;
            context.list("VirtualMachine", &vms, resources::vms)
        }
        Command::Srs { pool } => {
            let srs = context.client.all_srs(&resolve::pool(&pool)?).await?;
            context.list("StorageRepository", &srs, resources::srs)
        }
    }
}

async fn get(context: &Context<'_>, name: &str) -> Result<v1::Pool, Error> {
    let request = v1::GetPoolRequest { name: name.to_owned() };
    Ok(context.client.pools().get_pool(timed(request)).await?.into_inner())
}

async fn add(args: Add, context: &mut Context<'_>) -> Result<Exit, Error> {
    let name = resolve::pool(&args.pool)?;
    let password =
        args.password.read(context.terminal, PASSWORD, &format!("{} of pool {}", args.user, id(&name)), false)?;
    let pool = v1::Pool {
        display_name: args.display_name,
        hosts: args.hosts,
        username: args.user,
        password: password.expose_secret().to_owned(),
        fingerprint: args.fingerprint.unwrap_or_default(),
        max_concurrent_tasks: args.max_tasks,
        ..Default::default()
    };
    let request = v1::CreatePoolRequest { pool_id: id(&name).to_owned(), pool: Some(pool), request_id: request_id() };
    let pool = context.client.pools().create_pool(timed(request)).await?.into_inner();
    if args.wait == 0 {
        return context.show("Pool", &pool, resources::pool);
    }
    let patience = Duration::from_secs(args.wait);
    let mut pool = wait_for_agent(context, pool, &[State::Pending], patience).await?;
    if pool.state() == State::Untrusted {
        pool = trust(context, pool, args.accept_certificate).await?;
        // An agent logs in next; until it has, the old report stands.
        pool = wait_for_agent(context, pool, &[State::Pending, State::Untrusted], patience).await?;
    }
    if pool.state() != State::Connected {
        return Err(Error::unavailable(
            format!("pool {} is registered, but no agent can log in: {}", id(&pool.name), pool.state_message),
            format!(
                "correct it (`coffer pool update {0} --host …`, `--user …`, `--ask-password`), or remove it: \
                 `coffer pool remove {0}`",
                id(&pool.name)
            ),
        ));
    }
    context.show("Pool", &pool, resources::pool)
}

/// Waits until an agent reported another state than these.
async fn wait_for_agent(
    context: &Context<'_>,
    mut pool: v1::Pool,
    passing: &[State],
    patience: Duration,
) -> Result<v1::Pool, Error> {
    let deadline = Instant::now() + patience;
    while passing.contains(&pool.state()) {
        if Instant::now() >= deadline {
            return Err(Error::unavailable(
                format!("pool {} is registered, but no agent has logged in within {patience:?}", id(&pool.name)),
                "is an agent running? `coffer agent list` shows them, `coffer pool list` the pool's state",
            ));
        }
        tokio::time::sleep(LOOK).await;
        pool = get(context, &pool.name).await?;
    }
    Ok(pool)
}

/// Has a person confirm the certificate that an agent saw, and the controller trust it.
async fn trust(context: &mut Context<'_>, pool: v1::Pool, accepts: bool) -> Result<v1::Pool, Error> {
    let name = id(&pool.name);
    let host = pool.hosts.first().map_or(name, String::as_str);
    context.note(&format!("{host} of pool {name} shows a certificate with the SHA-256 fingerprint"))?;
    context.note(&format!("  {}", pool.seen_fingerprint))?;
    if !accepts {
        context.note("Compare it with what that host's console shows:")?;
        context.note("  openssl x509 -noout -fingerprint -sha256 -in /etc/xensource/xapi-ssl.pem")?;
        if !confirm(context.terminal, "Is it the same?")? {
            return Err(Error::rejected(
                format!("pool {name} is registered, but its certificate is not confirmed; no password was sent"),
                format!("confirm it with `coffer pool update {name} --fingerprint {}`", pool.seen_fingerprint),
            ));
        }
    }
    let pool = v1::Pool { fingerprint: pool.seen_fingerprint.clone(), ..pool };
    let request = v1::UpdatePoolRequest { pool: Some(pool), update_mask: Some(mask(["fingerprint"])) };
    Ok(context.client.pools().update_pool(timed(request)).await?.into_inner())
}

async fn update(args: Update, context: &mut Context<'_>) -> Result<Exit, Error> {
    let mut pool = get(context, &resolve::pool(&args.pool)?).await?;
    let mut fields = Vec::new();
    if !args.hosts.is_empty() {
        pool.hosts = args.hosts;
        fields.push("hosts");
    }
    if args.ask_password || args.password.password_file.is_some() || args.user.is_some() {
        let user = args.user.as_deref().unwrap_or(&pool.username);
        let of_what = format!("{user} of pool {}", id(&pool.name));
        let password = args.password.read(context.terminal, PASSWORD, &of_what, false)?;
        pool.password = password.expose_secret().to_owned();
        fields.push("password");
    }
    if let Some(user) = args.user {
        pool.username = user;
        fields.push("username");
    }
    if args.accept_certificate && pool.seen_fingerprint.is_empty() {
        return Err(Error::rejected(
            format!("no agent has seen a certificate of pool {} yet", id(&pool.name)),
            "is an agent running? `coffer agent list` shows them",
        ));
    }
    if let Some(fingerprint) =
        args.fingerprint.or_else(|| args.accept_certificate.then(|| pool.seen_fingerprint.clone()))
    {
        pool.fingerprint = fingerprint;
        fields.push("fingerprint");
    }
    if let Some(display_name) = args.display_name {
        pool.display_name = display_name;
        fields.push("display_name");
    }
    if let Some(max_tasks) = args.max_tasks {
        pool.max_concurrent_tasks = max_tasks;
        fields.push("max_concurrent_tasks");
    }
    if fields.is_empty() {
        return Err(Error::usage("nothing to change", Some("`coffer pool update --help` lists what can be changed")));
    }
    let request = v1::UpdatePoolRequest { pool: Some(pool), update_mask: Some(mask(fields)) };
    let pool = context.client.pools().update_pool(timed(request)).await?.into_inner();
    context.show("Pool", &pool, resources::pool)
}
