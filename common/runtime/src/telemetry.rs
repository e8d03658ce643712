//! Logs: `tracing` to standard error, filtered by `COFFER_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// The environment variable that holds the filter, as `info,coffer_agent=debug`.
pub const FILTER_VARIABLE: &str = "COFFER_LOG";

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error("{FILTER_VARIABLE} is {value:?}; expected a filter as `info,coffer_agent=debug`")]
    Filter {
        /// What the variable holds.
        value: String,
        /// Where it is wrong.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logs were set up before in this process.
    #[error("logs are already set up in this process")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sends logs to standard error. `default` is the filter where `COFFER_LOG` is not set.
///
/// # Errors
/// [`Error::Filter`] when `COFFER_LOG` cannot be read, [`Error::Twice`] at a second call.
pub fn init(format: Format, default: &str) -> Result<(), Error> {
    let value = std::env::var(FILTER_VARIABLE).ok().filter(|value| !value.is_empty());
    let value = value.unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&value).map_err(|source| Error::Filter { value, source })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_span_events(FmtSpan::NONE);
    match format {
        Format::Text => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(Error::Twice)
}
