//! What a command works with: the connection, the terminal, and how answers are wanted.

use std::path::{Path, PathBuf};

use coffer_runtime::exit::Exit;
use coffer_runtime::secret_file;
use prost::Message;

use crate::args::Global;
use crate::client::Client;
use crate::show::{self, Format, View};
use crate::{Error, Terminal, follow};

/// Name of the token's file in a state folder.
pub(crate) const TOKEN_FILE: &str = "api-token";

/// What a command works with.
pub(crate) struct Context<'terminal> {
    pub(crate) client: Client,
    pub(crate) terminal: &'terminal mut Terminal,
    pub(crate) format: Format,
}

/// Whether a command waits for the run that it starts.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Wait {
    /// Do not wait for the end: print the run and return
    #[arg(long)]
    pub(crate) detach: bool,
}

impl<'terminal> Context<'terminal> {
    /// Connects to a controller.
    pub(crate) async fn connect(global: &Global, terminal: &'terminal mut Terminal) -> Result<Self, Error> {
        let path = match &global.token_file {
            Some(path) => path.clone(),
            None => default_state_dir()?.join(TOKEN_FILE),
        };
        let token = secret_file::read(&path).map_err(Error::Token)?;
        let client = Client::connect(&global.server, &token).await?;
        Ok(Self { client, terminal, format: global.output })
    }

    /// Shows one resource; `kind` is its name in the protos.
    pub(crate) fn show<M: Message>(
        &mut self,
        kind: &str,
        message: &M,
        words: impl FnOnce(&M, &View) -> String,
    ) -> Result<Exit, Error> {
        show::one(self.terminal, self.format, kind, message, words)?;
        Ok(Exit::Ok)
    }

    /// Shows a list of resources.
    pub(crate) fn list<M: Message>(
        &mut self,
        kind: &str,
        messages: &[M],
        words: impl FnOnce(&[M], &View) -> String,
    ) -> Result<Exit, Error> {
        show::list(self.terminal, self.format, kind, messages, words)?;
        Ok(Exit::Ok)
    }

    /// Says that something was done, to people; programs know by the exit code.
    pub(crate) fn done(&mut self, text: &str) -> Result<Exit, Error> {
        if self.format == Format::Table {
            self.terminal.print(text)?;
        }
        Ok(Exit::Ok)
    }

    /// Says something beside the answer.
    pub(crate) fn note(&mut self, text: &str) -> Result<(), Error> {
        self.terminal.note(text)
    }

    /// Shows a run that was started: to its end, or only that it was.
    pub(crate) async fn started(&mut self, run: coffer_proto::v1::Run, follows: bool) -> Result<Exit, Error> {
        if follows {
            return follow::follow(self, &run.name).await;
        }
        self.show("Run", &run, |run, _| {
            let id = show::text::id(&run.name);
            format!("started {id}\nfollow it: coffer run follow {id}")
        })
    }
}

/// The folder of `coffer up` unless it is told otherwise.
pub(crate) fn default_state_dir() -> Result<PathBuf, Error> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/coffer"));
    }
    let folder = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(Path::new(".local/state"))));
    base.map(|base| base.join("coffer")).ok_or_else(|| {
        Error::usage(
            "no state folder: neither XDG_STATE_HOME nor HOME is set",
            Some("say where with --state FOLDER or --token-file FILE"),
        )
    })
}
