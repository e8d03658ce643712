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
use crate::{Error, Terminal};

/// Does what a command line asks for.
pub(crate) async fn dispatch(cli: Cli, terminal: &mut Terminal) -> Result<Exit, Error> {
    let Cli { global, command } = cli;
    match command {
        Command::Up(args) => up::run(args, terminal).await,
        Command::Completion(args) => completion::run(&args, terminal),
        Command::Pool(command) => pool::run(command, &mut Context::connect(&global, terminal).await?).await,
        Command::Remote(command) => remote::run(command, &mut Context::connect(&global, terminal).await?).await,
        Command::Job(command) => job::run(command, &mut Context::connect(&global, terminal).await?).await,
        Command::Schedule(command) => schedule::run(command, &mut Context::connect(&global, terminal).await?).await,
        Command::Run(command) => run::run(command, &mut Context::connect(&global, terminal).await?).await,
        Command::Backup(command) => backup::run(command, &mut Context::connect(&global, terminal).await?).await,
        Command::Restore(args) => restore::run(args, &mut Context::connect(&global, terminal).await?).await,
        Command::Agent(command) => agent::run(command, &mut Context::connect(&global, terminal).await?).await,
    }
}

/// The field mask of these fields.
fn mask(paths: impl IntoIterator<Item = &'static str>) -> prost_types::FieldMask {
    prost_types::FieldMask { paths: paths.into_iter().map(str::to_owned).collect() }
}
