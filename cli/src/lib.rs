//! The command line as a library, so that tests can run it against a controller in the same process.
//!
//! A client of the API and nothing more: it can do nothing that the API cannot, and holds no state. [`commands`] say
//! what is asked for, [`resolve`] turns what people type into resource names, [`show`] turns answers into tables, trees
//! and JSON, [`follow`] shows a run while it works.

mod args;
mod client;
mod commands;
mod context;
mod error;
mod follow;
mod input;
mod resolve;
mod show;
mod terminal;

pub use args::Cli;
pub use error::Error;
pub use terminal::Terminal;

use coffer_runtime::exit::Exit;

/// Does what a command line asks for, and says how that went.
pub async fn run(cli: Cli, mut terminal: Terminal) -> Exit {
    match commands::dispatch(cli, &mut terminal).await {
        Ok(exit) => exit,
        Err(error) => terminal.report(&error),
    }
}
