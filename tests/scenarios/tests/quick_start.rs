//! What a newcomer does first: `deploy/quickstart`, with small disks, told as its page tells it. Every process that it
//! starts has its folder on the command line, which is how the rest of it is found.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use coffer_scenarios::{eventually, program};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::process::Command;

/// What is left when all is over: the mark that says whose folder it is, and disk images for the next time.
const LEFT: [&str; 2] = [".made-by-quickstart", "disks"];

struct QuickStart {
    folder: TempDir,
    programs: PathBuf,
}

impl QuickStart {
    fn new() -> Result<Self> {
        let programs = program("coffer")?.parent().context("a program lies in a folder")?.to_owned();
        Ok(Self { folder: TempDir::new()?, programs })
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/quickstart"));
        command.arg("--folder").arg(self.folder.path()).arg("--programs").arg(&self.programs).arg("--small");
        command.args(options).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn run(&self, options: &[&str]) -> Result<Output> {
        Ok(self.command(options).output().await?)
    }

    /// Command lines of processes that belong to it.
    fn processes(&self) -> Result<Vec<String>> {
        let folder = self.folder.path().to_str().context("the folder's name is text")?;
        let mut found = Vec::new();
        for process in std::fs::read_dir("/proc")? {
            // A process may end while it is looked at.
            let line = std::fs::read(process?.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(folder) {
                found.push(line);
            }
        }
        Ok(found)
    }

    /// Names in its folder, in order.
    fn files(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(self.folder.path())?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }
}

impl Drop for QuickStart {
    fn drop(&mut self) {
        // A scenario that fails half-way leaves nothing running either.
        let mut stop = self.command(&["--stop"]).into_std();
        let _ = stop.stdout(Stdio::null()).status();
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Bytes in a figure of the page, as `1.5 MiB`.
fn bytes_before(page: &str, line: &str, what: &str) -> Result<f64> {
    let line = page.lines().find(|found| found.trim_start().starts_with(line)).with_context(|| page.to_owned())?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| word.trim_end_matches(',') == what).with_context(|| line.to_owned())?;
    let unit = match words[at - 1] {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        other => anyhow::bail!("no unit: {other} in {line}"),
    };
    Ok(words[at - 2].parse::<f64>()? * unit)
}

#[tokio::test]
async fn the_quick_start_tells_on_a_page_what_it_backed_up_and_restored_and_leaves_nothing_running() -> Result<()> {
    let quick_start = QuickStart::new()?;
    let output = quick_start.run(&[]).await?;
    let page = text(&output);
    ensure!(output.status.success(), "{page}");
    let (_, page) = page.split_once("What happened").with_context(|| page.clone())?;
    let all = bytes_before(page, "1st backup", "read")?;
    let changed = bytes_before(page, "2nd backup", "read")?;
    assert!(changed > 0.0 && changed < all / 5.0, "{page}");
    assert!(bytes_before(page, "1st backup", "written")? < all, "{page}");
    for line in ["equal the originals, bit for bit", "file systems are clean", "no errors", "6 restore points"] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
    // What follows names folders, and these are as long as they are.
    let (page, _) = page.split_once("Nothing is left running").with_context(|| page.to_owned())?;
    assert!(page.lines().count() <= 24 && page.lines().all(|line| line.chars().count() <= 120), "{page}");
    assert_eq!(quick_start.processes()?, Vec::<String>::new());
    assert_eq!(quick_start.files()?, LEFT);
    Ok(())
}

#[tokio::test]
async fn a_quick_start_that_is_kept_can_be_looked_at_is_not_started_twice_and_is_stopped() -> Result<()> {
    let quick_start = QuickStart::new()?;
    let output = quick_start.run(&["--keep"]).await?;
    let page = text(&output);
    ensure!(output.status.success(), "{page}");
    assert_eq!(quick_start.processes()?.len(), 2);

    let hint = page.lines().find(|line| line.contains("COFFER_SERVER=")).with_context(|| page.clone())?;
    let script = format!("{hint}\ncoffer backup list --vm db-restored; coffer backup list --output json --vm db");
    let shown = Command::new("bash").args(["-ec", &script]).output().await?;
    let shown = text(&shown);
    assert!(shown.starts_with("No restore points"), "{shown}");
    assert_eq!(shown.matches("\"vm_label\": \"db\"").count(), 2, "{shown}");

    let twice = quick_start.run(&[]).await?;
    assert_eq!(twice.status.code(), Some(65), "{}", text(&twice));
    assert!(text(&twice).contains("--stop"), "{}", text(&twice));
    assert_eq!(quick_start.processes()?.len(), 2);

    let stopped = quick_start.run(&["--stop"]).await?;
    ensure!(stopped.status.success(), "{}", text(&stopped));
    assert_eq!(quick_start.processes()?, Vec::<String>::new());
    assert_eq!(quick_start.files()?, LEFT);
    Ok(())
}

#[tokio::test]
async fn a_folder_with_something_of_somebody_else_in_it_is_refused_and_stays_as_it_is() -> Result<()> {
    let quick_start = QuickStart::new()?;
    let thesis = quick_start.folder.path().join("thesis.txt");
    std::fs::write(&thesis, "the only copy")?;
    for options in [&[][..], &["--keep"], &["--stop"]] {
        let refused = quick_start.run(options).await?;
        assert_eq!(refused.status.code(), Some(64), "{}", text(&refused));
        assert!(text(&refused).contains(&quick_start.folder.path().display().to_string()), "{}", text(&refused));
        assert_eq!(
            (quick_start.files()?, std::fs::read_to_string(&thesis)?),
            (vec!["thesis.txt".into()], "the only copy".into())
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_interrupted_quick_start_leaves_nothing_running() -> Result<()> {
    let quick_start = QuickStart::new()?;
    // Ctrl-C goes to all processes of the terminal's group.
    let mut command = quick_start.command(&["--keep"]);
    let mut child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let log = quick_start.folder.path().join("log");
    eventually("a backup to be under way", async || {
        ensure!(child.try_wait()?.is_none(), "it has ended: {:?}", std::fs::read_to_string(&log));
        Ok(std::fs::read_to_string(&log).is_ok_and(|log| log.contains("backup of nightly")))
    })
    .await?;
    let id = i32::try_from(child.id().context("it runs")?)?;
    kill_process_group(Pid::from_raw(id).context("an id is positive")?, Signal::INT)?;
    assert_eq!(child.wait().await?.code(), Some(130));
    assert_eq!(quick_start.processes()?, Vec::<String>::new());
    assert_eq!(quick_start.files()?, LEFT);
    Ok(())
}
