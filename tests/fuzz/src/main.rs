//! Feeds every parser of what comes from outside with input made of good input gone bad, for a bounded time.
//!
//! A parser may refuse or accept; it may not panic, hang, or take memory without bound. What it was fed then is written
//! to a file and named, and `--replay FILE` feeds it again. The same seed gives the same inputs. Good input must be
//! accepted, or a target would never get behind the first check of its parser.

mod memory;
mod mutate;
mod targets;
mod trial;
mod watchdog;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use targets::Target;

/// Longest input, bytes.
const LIMIT: usize = 1 << 20;

/// Feed parsers with bad input.
#[derive(Debug, Parser)]
#[command(name = "coffer-fuzz", version)]
struct Arguments {
    /// Seconds spent on each target.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds after which a parser that has not come back hangs.
    #[arg(long, default_value_t = 10)]
    patience: u64,
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
    let chosen = match &arguments.target {
        None => targets,
        Some(name) => {
            let mut known = targets.into_iter().chain(targets::fakes());
            vec![known.find(|target| target.name == name).context("no such target; see --list")?]
        }
    };
    trial::notice_panics();
    watchdog::start(Duration::from_secs(arguments.patience));
    if let (Some(file), [target]) = (&arguments.replay, chosen.as_slice()) {
        let input = std::fs::read(file).with_context(|| file.display().to_string())?;
        let accepted = trial::feed(target, None, &input);
        return say(if accepted { "accepted" } else { "refused" });
    }
    let duration = Duration::try_from_secs_f64(arguments.seconds)?;
    let seed = arguments.seed.unwrap_or_else(rand::random);
    say(&format!("seed {seed}"))?;
    for target in chosen {
        let fed = fuzz(&target, duration, seed)?;
        let peak = memory::peak() >> 10;
        say(&format!("{:<28} {fed:>9} inputs, {peak:>7} KiB at most", target.name))?;
    }
    Ok(())
}

/// Feeds a target for so long; returns the number of inputs.
fn fuzz(target: &Target, duration: Duration, seed: u64) -> Result<u64> {
    memory::forget_peak();
    for (number, good) in target.good.iter().enumerate() {
        ensure!(trial::feed(target, Some(seed), good), "{}: good input {number} is refused", target.name);
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let start = Instant::now();
    let mut fed = 0;
    while start.elapsed() < duration {
        for seed_input in target.good.iter().chain(&target.odd) {
            let mut input = seed_input.clone();
            mutate::mutate(&mut input, LIMIT, &mut random);
            trial::feed(target, Some(seed), &input);
            fed += 1;
        }
    }
    Ok(fed)
}

fn say(line: &str) -> Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}
