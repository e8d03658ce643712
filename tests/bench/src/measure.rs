//! What one side of a comparison cost: wall time, processor time, peak memory, all from the kernel's own books.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// Clock ticks a second in `/proc`; fixed by the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// What something cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Seconds on the wall.
    pub(crate) wall: f64,
    /// Seconds of processor time, user and system.
    pub(crate) cpu: f64,
    /// Most memory resident at once, bytes.
    pub(crate) peak_bytes: u64,
}

/// Runs a command to its end. Give it a standard output of its own unless it is quiet.
pub(crate) async fn command(command: &mut Command) -> Result<Cost> {
    let shown = format!("{:?}", command.as_std());
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| shown.clone())?;
    let id = child.id().context("a child has an id")?;
    let mut cost = Cost::default();
    let status = loop {
        // The peak never falls, so the last look before the end is the peak, but for what grew in the last moment.
        if let Ok(process) = Process::read(id) {
            cost.peak_bytes = cost.peak_bytes.max(process.peak_bytes);
            cost.cpu = cost.cpu.max(process.cpu);
        }
        tokio::select! {
            status = child.wait() => break status?,
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    };
    ensure!(status.success(), "{shown} ended with {status}");
    cost.wall = start.elapsed().as_secs_f64();
    Ok(cost)
}

/// A running process as `/proc` shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    cpu: f64,
    peak_bytes: u64,
}

impl Process {
    pub(crate) fn read(id: u32) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The name in parentheses may hold anything; what follows it does not.
        let fields: Vec<&str> = stat.rsplit(") ").next().context("fields after the name")?.split(' ').collect();
        let ticks = |field: usize| -> Result<f64> { Ok(fields.get(field).context("a short stat")?.parse()?) };
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM: it has ended")?;
        let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { cpu: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND, peak_bytes: peak_kib << 10 })
    }

    /// What the process spent since an earlier look, over `wall` seconds.
    pub(crate) fn since(self, earlier: Self, wall: f64) -> Cost {
        Cost { wall, cpu: self.cpu - earlier.cpu, peak_bytes: self.peak_bytes }
    }
}
