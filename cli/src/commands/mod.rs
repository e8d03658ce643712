//! The commands: each reads its arguments, calls the API and shows the answer.

pub(crate) mod agent;
pub(crate) mod backup;
pub(crate) mod completion;
pub(crate) mod job;
pub(crate) mod pool;
pub(crate) mod remote;
pub(crate) mod restore;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod up;

use coffer_runtime::exit::Exit;

use crate::args::{Cli, Command};
use crate::context::Context;
use crate::{Error, Terminal, resolve};

/// Does what a command line asks for.
pub(crate) async fn dispatch(cli: Cli, terminal: &mut Terminal) -> Result<Exit, Error> {
    let Cli { global, command } = cli;
    let command = match command {
        Command::Up(args) => return up::run(args, terminal).await,
        Command::Completion(args) => return completion::run(&args, terminal),
        command => command,
    };
    let mut context = Context::connect(&global, terminal).await?;
    match call(command, &mut context).await {
        Err(error) => Err(resolve::explained(&context.client, error).await),
        done => done,
    }
}

/// A command that calls a controller.
async fn call(command: Command, context: &mut Context<'_>) -> Result<Exit, Error> {
    match command {
        Command::Pool(command) => pool::run(command, context).await,
        Command::Remote(command) => remote::run(command, context).await,
        Command::Job(command) => job::run(command, context).await,
        Command::Schedule(command) => schedule::run(command, context).await,
        Command::Run(command) => run::run(command, context).await,
        Command::Backup(command) => backup::run(command, context).await,
        Command::Restore(args) => restore::run(args, context).await,
        Command::Agent(command) => agent::run(command, context).await,
        Command::Up(_) | Command::Completion(_) => Err(Error::usage("this command calls no controller", None)),
    }
}

/// The field mask of these fields.
fn mask(paths: impl IntoIterator<Item = &'static str>) -> prost_types::FieldMask {
    prost_types::FieldMask { paths: paths.into_iter().map(str::to_owned).collect() }
}
