//! Backup and restore of one disk, against what others do with the same bytes on the same machine in the same run.
//!
//! Prints one table; the figures that count are the ratios. `nbdcopy` only moves bytes: it shows what the transport
//! allows. `restic` hashes, compresses and encrypts as we do, but reads a plain file, which is easier than reading a
//! host.

mod measure;
mod report;
mod rounds;

use clap::Parser;

/// Compare Coffer with nbdcopy and restic on the same disk, in turns, and print medians and ratios.
#[derive(Debug, Parser)]
#[command(name = "coffer-bench", version)]
struct Arguments {
    /// Size of the disk in MiB; half of it is random data, the rest is empty.
    #[arg(long, default_value_t = 4096)]
    size_mib: u64,
    /// Rounds that count; one more comes first and warms up.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Disks that are backed up at once for the figure of memory.
    #[arg(long, default_value_t = 4)]
    disks: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let size = arguments.size_mib << 20;
    let rounds = rounds::play(size, arguments.rounds).await?;
    let memory = rounds::peak_memory_of_many_disks(size, arguments.disks).await?;
    report::print(size, &rounds, &memory)
}
