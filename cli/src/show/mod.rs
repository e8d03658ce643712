//! Answers as tables and trees for people, or as JSON for programs.

pub(crate) mod json;
pub(crate) mod resources;
pub(crate) mod runs;
pub(crate) mod table;
pub(crate) mod text;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use prost::Message;

use crate::{Error, Terminal};

/// For whom answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables and words, for people; may change
    #[default]
    Table,
    /// JSON with the field names of the API, for programs
    Json,
}

/// What showing depends on, beside what is shown.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) zone: TimeZone,
    pub(crate) now: Timestamp,
    pub(crate) width: Option<u16>,
}

impl View {
    pub(crate) fn of(terminal: &Terminal) -> Self {
        Self { zone: terminal.zone.clone(), now: terminal.now(), width: terminal.width }
    }
}

/// Shows one resource; `kind` is its name in the protos.
pub(crate) fn one<M: Message>(
    terminal: &mut Terminal,
    format: Format,
    kind: &str,
    message: &M,
    words: impl FnOnce(&M, &View) -> String,
) -> Result<(), Error> {
    let text = match format {
        Format::Table => words(message, &View::of(terminal)),
        Format::Json => pretty(&json::message(kind, message)),
    };
    terminal.print(&text)
}

/// Shows a list of resources.
pub(crate) fn list<M: Message>(
    terminal: &mut Terminal,
    format: Format,
    kind: &str,
    messages: &[M],
    words: impl FnOnce(&[M], &View) -> String,
) -> Result<(), Error> {
    let text = match format {
        Format::Table => words(messages, &View::of(terminal)),
        Format::Json => pretty(&json::messages(kind, messages)),
    };
    terminal.print(&text)
}

pub(crate) fn pretty(json: &serde_json::Value) -> String {
    // Values of our own making have text keys only, so this cannot fail; if it did, compact JSON is as good.
    serde_json::to_string_pretty(json).unwrap_or_else(|_| json.to_string())
}
