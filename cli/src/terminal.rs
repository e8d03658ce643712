//! Where a command reads from and writes to: the real terminal, or buffers in tests.

use std::io::{self, IsTerminal, Read, Write};

use coffer_runtime::exit::Exit;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::Error;

/// Standard input, output and error, and what is known about them.
pub struct Terminal {
    pub(crate) out: Box<dyn Write + Send>,
    pub(crate) err: Box<dyn Write + Send>,
    pub(crate) input: Box<dyn Read + Send>,
    /// Standard input is a person.
    pub(crate) asks: bool,
    /// Standard error is a terminal: live progress makes sense.
    pub(crate) is_live: bool,
    /// How wide tables may be; `None`: as wide as they like.
    pub(crate) width: Option<u16>,
    /// The zone that times are shown in.
    pub(crate) zone: TimeZone,
    pub(crate) clock: fn() -> Timestamp,
}

impl Terminal {
    /// The process's own.
    #[must_use]
    pub fn system() -> Self {
        let stdout = io::stdout();
        let width = stdout.is_terminal().then(columns).flatten();
        Self {
            asks: io::stdin().is_terminal(),
            is_live: io::stderr().is_terminal(),
            out: Box::new(stdout),
            err: Box::new(io::stderr()),
            input: Box::new(io::stdin()),
            width,
            zone: TimeZone::system(),
            clock: Timestamp::now,
        }
    }

    /// One for tests: writes into these, has this input, is not a person, and is in UTC.
    pub fn buffered(
        out: impl Write + Send + 'static,
        err: impl Write + Send + 'static,
        input: impl Read + Send + 'static,
    ) -> Self {
        Self {
            out: Box::new(out),
            err: Box::new(err),
            input: Box::new(input),
            asks: false,
            is_live: false,
            width: None,
            zone: TimeZone::UTC,
            clock: Timestamp::now,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Writes text and the end of a line to standard output.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Error> {
        write_line(&mut self.out, text)
    }

    /// Writes text and the end of a line to standard error: what is not the answer.
    pub(crate) fn note(&mut self, text: &str) -> Result<(), Error> {
        write_line(&mut self.err, text)
    }

    /// Says what went wrong and what to do about it, and returns how the program ends.
    pub fn report(&mut self, error: &Error) -> Exit {
        if let Error::Ended(exit) = error {
            return *exit;
        }
        let report = error.report();
        for line in
            [Some(format!("error: {}", report.message)), report.advice.map(|advice| format!("advice: {advice}"))]
                .into_iter()
                .flatten()
        {
            // There is no other place to complain to.
            drop(writeln!(self.err, "{line}"));
        }
        report.exit
    }
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Terminal").field("width", &self.width).field("zone", &self.zone).finish_non_exhaustive()
    }
}

fn columns() -> Option<u16> {
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
}

fn write_line(writer: &mut dyn Write, text: &str) -> Result<(), Error> {
    match writeln!(writer, "{text}").and_then(|()| writer.flush()) {
        // Whoever read has seen enough: `coffer run list | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::Ended(Exit::Ok)),
        Err(source) => Err(Error::System { action: "write the answer".to_owned(), source }),
        Ok(()) => Ok(()),
    }
}
