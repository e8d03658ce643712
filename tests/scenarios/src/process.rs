//! A program of ours as a process: started, killed, paused; its output kept for when a test fails.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Where a program of this workspace was built: beside the program that asks, or a folder above the test that does.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let asking = std::env::current_exe().context("where this program lies")?;
    let beside = asking.parent().context("a program lies in a folder")?;
    let folder = if beside.ends_with("deps") { beside.parent().unwrap_or(beside) } else { beside };
    let path = folder.join(name);
    ensure!(path.exists(), "{} is not built: run `cargo build --workspace --all-targets` first", path.display());
    Ok(path)
}

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it writes to standard error is appended to `{folder}/{name}.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, folder: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_as(name, &program(name)?, folder, arguments)
    }

    /// Starts any program; what it writes to standard error is appended to `{folder}/{label}.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_as(label: &str, path: &Path, folder: &Path, arguments: &[&str]) -> Result<Self> {
        Ok(Self::spawn(label, path, folder, arguments, Stdio::null())?.0)
    }

    /// Starts a program and waits for the first line that it prints.
    ///
    /// # Errors
    /// When it ends before it prints one; the end of its log is in the error.
    pub async fn start_and_read_line(name: &str, folder: &Path, arguments: &[&str]) -> Result<(Self, String)> {
        Self::start_labelled(name, name, folder, arguments).await
    }

    /// As [`Self::start_and_read_line`], of a program of which several run: each logs to `{folder}/{label}.log`.
    ///
    /// # Errors
    /// As there.
    pub async fn start_labelled(label: &str, name: &str, folder: &Path, arguments: &[&str]) -> Result<(Self, String)> {
        let (mut process, stdout) = Self::spawn(label, &program(name)?, folder, arguments, Stdio::piped())?;
        let mut lines = BufReader::new(stdout.context("standard output is piped")?).lines();
        let Some(line) = lines.next_line().await? else {
            let status = process.child.wait().await?;
            anyhow::bail!("{name} ended with {status} before it was ready:\n{}", process.log_tail());
        };
        // Keep reading, so that the program never blocks on a full pipe or dies of a closed one.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok((process, line))
    }

    fn spawn(
        label: &str,
        path: &Path,
        folder: &Path,
        arguments: &[&str],
        stdout: Stdio,
    ) -> Result<(Self, Option<tokio::process::ChildStdout>)> {
        let log = folder.join(format!("{label}.log"));
        let stderr = std::fs::File::options().create(true).append(true).open(&log)?;
        let mut child = Command::new(path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", path.display()))?;
        let stdout = child.stdout.take();
        Ok((Self { child, log }, stdout))
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it has ended.
    pub fn id(&self) -> Result<u32> {
        self.child.id().context("the process has ended")
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(i32::try_from(self.id()?)?).context("a process has a positive id")
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// Kills it as a power cut would: no handler runs.
    ///
    /// # Errors
    /// When it had ended by itself before.
    pub async fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.child.wait().await?;
        Ok(())
    }

    /// Asks it to end and waits until it has; the code it ended with.
    ///
    /// # Errors
    /// When it had ended before.
    pub async fn terminate(mut self) -> Result<Option<i32>> {
        self.signal(Signal::TERM)?;
        Ok(self.child.wait().await?.code())
    }

    /// The end of what it wrote to standard error, for error messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// All that it wrote to standard error.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }
}
