//! Feeds every parser of what comes from outside with input made of good input gone bad, for a bounded time.
//!
//! A parser may refuse or accept; it may not panic, hang, or take memory without bound. What a panic was fed is written to
//! a file and named, and `--replay FILE` feeds it again. The same seed gives the same inputs.

mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use targets::Target;

/// Longest input, bytes.
const LIMIT: usize = 1 << 20;
/// A single input that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Feed parsers with bad input.
#[derive(Debug, Parser)]
#[command(name = "coffer-fuzz", version)]
struct Arguments {
    /// Seconds spent on each target.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    /// Seed of all inputs; a random one when absent. It is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Feed this file to the target instead.
    #[arg(long, requires = "target")]
    replay: Option<PathBuf>,
    /// Show the names of the targets.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let targets = targets::all()?;
    if arguments.list {
        for target in &targets {
            say(target.name)?;
        }
        return Ok(());
    }
    let chosen: Vec<&Target> = match &arguments.target {
        None => targets.iter().collect(),
        Some(name) => vec![targets.iter().find(|target| target.name == name).context("no such target; see --list")?],
    };
    if let (Some(file), [target]) = (&arguments.replay, chosen.as_slice()) {
        (target.feed)(&std::fs::read(file)?);
        return Ok(());
    }
    let seed = arguments.seed.unwrap_or_else(rand::random);
    say(&format!("seed {seed}"))?;
    for target in chosen {
        let fed = fuzz(target, Duration::from_secs(arguments.seconds), seed)?;
        say(&format!("{:<28} {fed:>9} inputs", target.name))?;
    }
    Ok(())
}

fn fuzz(target: &Target, duration: Duration, seed: u64) -> Result<u64> {
    let mut random = SmallRng::seed_from_u64(seed);
    let start = Instant::now();
    let mut fed = 0;
    while start.elapsed() < duration {
        for good in &target.good {
            let mut input = good.clone();
            mutate::mutate(&mut input, LIMIT, &mut random);
            let began = Instant::now();
            if catch_unwind(AssertUnwindSafe(|| (target.feed)(&input))).is_err() {
                bail!(
                    "{} panicked; replay with --target {} --replay {}",
                    target.name,
                    target.name,
                    keep(target, &input)?
                );
            }
            if began.elapsed() > PATIENCE {
                bail!("{} took {:?} for {}", target.name, began.elapsed(), keep(target, &input)?);
            }
            fed += 1;
        }
    }
    Ok(fed)
}

/// Writes an input to a file beneath `target/fuzz`.
fn keep(target: &Target, input: &[u8]) -> Result<String> {
    let folder = PathBuf::from("target/fuzz");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}-{}.bin", target.name, input.len()));
    std::fs::write(&file, input)?;
    Ok(file.display().to_string())
}

fn say(line: &str) -> Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}
