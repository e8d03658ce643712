//! One table of medians, and the ratios that the project holds itself to.

use std::io::Write;

use anyhow::Result;
use comfy_table::{CellAlignment, Table};

use crate::measure::Cost;
use crate::rounds::{Memory, Rounds, Side};

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

impl Side {
    fn label(self) -> &'static str {
        match self {
            Self::NbdCopy => "nbdcopy, host to file (transport only)",
            Self::ResticBackup => "restic backup, from file",
            Self::Backup => "coffer backup, from host",
            Self::Unchanged => "coffer backup, nothing changed",
            Self::Upload => "curl, VHD file to host (transport only)",
            Self::ResticDump => "restic dump, to file",
            Self::Export => "coffer export, to sparse raw file",
            Self::Restore => "coffer restore, to host",
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn wall(cost: &Cost) -> f64 {
    cost.wall
}

fn cpu(cost: &Cost) -> f64 {
    cost.cpu
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

/// Median of the ratios round by round: what slows a round slows both sides of it.
fn ratio(rounds: &Rounds, (ours, theirs): (Side, Side), figure: fn(&Cost) -> f64) -> f64 {
    let of = |side| rounds.get(&side).into_iter().flatten();
    median(of(ours).zip(of(theirs)).map(|(ours, theirs)| figure(ours) / figure(theirs)))
}

/// Tells how far the work is.
pub(crate) fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr(), "{line}")?)
}

/// A figure that is to be reached.
struct Target {
    what: &'static str,
    figure: f64,
    unit: &'static str,
    limit: f64,
    at_least: bool,
}

impl Target {
    fn line(&self) -> String {
        let Self { what, figure, unit, limit, at_least } = self;
        let (bound, met) = if *at_least { ("at least", figure >= limit) } else { ("at most", figure <= limit) };
        let verdict = if met { "reached" } else { "MISSED" };
        format!("{what}: {figure:.2} {unit} ({bound} {limit}: {verdict})")
    }
}

fn targets(rounds: &Rounds, memory: &Memory) -> Vec<Target> {
    let at_least = |what, figure, unit| Target { what, figure, unit, limit: 2.0, at_least: true };
    let at_most = |what, figure, unit, limit| Target { what, figure, unit, limit, at_least: false };
    let faster = |sides| 1.0 / ratio(rounds, sides, wall);
    let (backup, restore) = ((Side::Backup, Side::ResticBackup), (Side::Restore, Side::ResticDump));
    let (speed, thrift) = ("times restic's throughput", "of restic's CPU seconds");
    vec![
        at_least("backup", faster(backup), speed),
        at_most("backup", ratio(rounds, backup, cpu), thrift, 0.5),
        at_least("restore", faster(restore), speed),
        at_most("restore", ratio(rounds, restore, cpu), thrift, 0.5),
        at_most(
            "nothing changed",
            100.0 * ratio(rounds, (Side::Unchanged, Side::Backup), cpu),
            "% of the first run's CPU seconds",
            1.0,
        ),
        at_most("memory of a backup", mib(memory.backup_bytes), "MiB", 256.0),
        at_most("memory of a restore", mib(memory.restore_bytes), "MiB", 256.0),
    ]
}

pub(crate) fn print(disk_bytes: u64, rounds: &Rounds, memory: &Memory) -> Result<()> {
    let gib = mib(disk_bytes) * MIB / GIB;
    let mut table = Table::new();
    table.set_header(["", "wall s", "GiB/s", "CPU s per GiB", "peak MiB"]);
    for (side, costs) in rounds {
        // The median of each figure on its own.
        let of = |figure: fn(&Cost) -> f64| median(costs.iter().map(figure));
        table.add_row([
            side.label().to_owned(),
            format!("{:.2}", of(wall)),
            format!("{:.2}", gib / of(wall)),
            format!("{:.2}", of(cpu) / gib),
            format!("{:.0}", of(|cost| mib(cost.peak_bytes))),
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    let transport = |sides| 1.0 / ratio(rounds, sides, wall);

    let mut out = std::io::stdout().lock();
    let played = rounds.values().map(Vec::len).max().unwrap_or(0);
    writeln!(out, "{gib} GiB disk, half of it random; medians of {played} rounds; GiB of the disk, zeros included")?;
    writeln!(out, "{table}")?;
    for target in targets(rounds, memory) {
        writeln!(out, "{}", target.line())?;
    }
    writeln!(
        out,
        "Memory is of {} disks at once. Of the transport's throughput, backup has {:.2} and restore {:.2}.",
        memory.disks,
        transport((Side::Backup, Side::NbdCopy)),
        transport((Side::Restore, Side::Upload)),
    )?;
    Ok(())
}
