//! What the exit codes of our programs mean. Scripts depend on them: a code's meaning never changes.

use std::process::ExitCode;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Everything that was asked for was done.
    Ok = 0,
    /// The work failed: a run failed, was cancelled or interrupted.
    Failed = 1,
    /// Some of the work succeeded and some did not.
    Partial = 2,
    /// The command line or the configuration is wrong; nothing was tried (sysexits `EX_USAGE`).
    Usage = 64,
    /// What was named does not exist, or exists already, or is not in the state that the request needs
    /// (sysexits `EX_DATAERR`).
    Rejected = 65,
    /// A service that is needed cannot be reached (sysexits `EX_UNAVAILABLE`). Trying again later may help.
    Unavailable = 69,
    /// Something that must not happen happened: a bug (sysexits `EX_SOFTWARE`).
    Internal = 70,
    /// The operating system refused something: a file, a port (sysexits `EX_OSERR`).
    System = 71,
    /// Not allowed: the token is missing or wrong (sysexits `EX_NOPERM`).
    Permission = 77,
    /// A person interrupted it (128 + SIGINT).
    Interrupted = 130,
}

impl Exit {
    /// The number that the operating system sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl std::process::Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}
