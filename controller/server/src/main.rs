//! `coffer-controller`: reads its command line, serves from its store, drains when asked to stop.

mod args;
mod state;

use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;

use anyhow::Context as _;
use args::Args;
use clap::Parser as _;
use coffer_controller::{Controller, Error, ServeOptions};
use coffer_runtime::exit::Exit;
use coffer_runtime::{shutdown, telemetry};
use state::Opened;

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
    use coffer_store::Error as Store;
    match error.downcast_ref() {
        Some(Store::Invalid { .. } | Store::Credential { .. }) => return Exit::Usage,
        Some(error) if error.is_retryable() => return Exit::Unavailable,
        _ => {}
    }
    match error.downcast_ref::<Error>() {
        Some(
            Error::NotLoopback { .. }
            | Error::Timings(_)
            | Error::BadToken { .. }
            | Error::BadSealingKey { .. }
            | Error::SealingKeyMissing { .. },
        ) => Exit::Usage,
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
    let opened = Opened::open(&args.state, &args.etcd).await?;
    let usual = ServeOptions::new(opened.store(), &args.state);
    let options = ServeOptions {
        listen: args.listen,
        timings: args.timings(),
        sealing_key: args.sealing_key.clone().unwrap_or_else(|| usual.sealing_key.clone()),
        forget_passwords: args.forget_passwords,
        ..usual
    };
    let result = serve(options, stop).await;
    opened.close().await;
    Ok(result?)
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
