//! One table of medians, and the ratios that the project holds itself to.

use anyhow::Result;
use comfy_table::{CellAlignment, Table};

use crate::measure::Cost;
use crate::rounds::{Memory, Rounds};

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of each figure on its own.
fn typical(costs: &[Cost]) -> (f64, f64, f64) {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let peak = median(costs.iter().map(|cost| cost.peak_bytes as f64));
    (median(costs.iter().map(|cost| cost.wall)), median(costs.iter().map(|cost| cost.cpu)), peak)
}

/// Median of the ratios round by round: what slows a round slows both sides of it.
fn ratio(ours: &[Cost], theirs: &[Cost], figure: fn(&Cost) -> f64) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| figure(ours) / figure(theirs)))
}

/// Tells how far the work is.
pub(crate) fn say(line: &str) -> Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stderr(), "{line}")?)
}

pub(crate) fn print(rounds: &Rounds, memory: &Memory) -> Result<()> {
    use std::io::Write;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let gib = rounds.disk_bytes as f64 / GIB;
    let mut table = Table::new();
    table.set_header(["", "wall s", "GiB/s", "CPU s per GiB", "peak MiB"]);
    let sides = [
        ("nbdcopy, host to file (transport only)", &rounds.nbdcopy),
        ("restic backup, from file", &rounds.restic_backup),
        ("coffer backup, from host", &rounds.coffer_backup),
        ("coffer backup, nothing changed", &rounds.coffer_unchanged),
        ("restic dump", &rounds.restic_dump),
        ("coffer restore, to host", &rounds.coffer_restore),
    ];
    for (name, costs) in sides {
        let (wall, cpu, peak) = typical(costs);
        table.add_row([
            name.to_owned(),
            format!("{wall:.2}"),
            format!("{:.2}", gib / wall),
            format!("{:.2}", cpu / gib),
            format!("{:.0}", peak / MIB),
        ]);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));

    let wall: fn(&Cost) -> f64 = |cost| cost.wall;
    let cpu: fn(&Cost) -> f64 = |cost| cost.cpu;
    let held = |met: bool| if met { "reached" } else { "MISSED" };
    let backup_speed = 1.0 / ratio(&rounds.coffer_backup, &rounds.restic_backup, wall);
    let backup_cpu = ratio(&rounds.coffer_backup, &rounds.restic_backup, cpu);
    let restore_speed = 1.0 / ratio(&rounds.coffer_restore, &rounds.restic_dump, wall);
    let restore_cpu = ratio(&rounds.coffer_restore, &rounds.restic_dump, cpu);
    let unchanged = ratio(&rounds.coffer_unchanged, &rounds.coffer_backup, cpu);
    let unchanged_wall = ratio(&rounds.coffer_unchanged, &rounds.coffer_backup, wall);
    let transport = 1.0 / ratio(&rounds.coffer_backup, &rounds.nbdcopy, wall);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let peak = memory.peak_bytes as f64 / MIB;

    let mut out = std::io::stdout().lock();
    writeln!(out, "{gib} GiB disk, half of it random; medians of {} rounds\n{table}", rounds.nbdcopy.len())?;
    writeln!(
        out,
        "backup:  {backup_speed:.2} times restic's throughput (to reach: 2.00, {})",
        held(backup_speed >= 2.0)
    )?;
    writeln!(out, "backup:  {backup_cpu:.2} of restic's CPU seconds (to reach: 0.50, {})", held(backup_cpu <= 0.5))?;
    writeln!(out, "backup:  {transport:.2} of the transport's throughput")?;
    writeln!(
        out,
        "restore: {restore_speed:.2} times restic's throughput (to reach: 2.00, {})",
        held(restore_speed >= 2.0)
    )?;
    writeln!(out, "restore: {restore_cpu:.2} of restic's CPU seconds (to reach: 0.50, {})", held(restore_cpu <= 0.5))?;
    writeln!(
        out,
        "nothing changed: {:.2} % of the first run's CPU seconds (to reach: 1 %, {}), {:.2} % of its wall time",
        unchanged * 100.0,
        held(unchanged <= 0.01),
        unchanged_wall * 100.0
    )?;
    writeln!(
        out,
        "memory:  {peak:.0} MiB with {} disks at once (to reach: 256, {})",
        memory.disks,
        held(peak <= 256.0)
    )?;
    Ok(())
}
