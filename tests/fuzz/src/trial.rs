//! One input fed to one target: what is being fed is known to whoever finds out that it went wrong.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::memory;
use crate::targets::Target;

/// What is being fed.
struct Trial {
    target: &'static str,
    seed: Option<u64>,
    input: Vec<u8>,
    /// `None` between two trials.
    began: Option<Instant>,
}

static NOW: Mutex<Trial> = Mutex::new(Trial { target: "", seed: None, input: Vec::new(), began: None });

fn now() -> MutexGuard<'static, Trial> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on a panic in a trial ends the process, also one in a task or thread whose end nobody looks at.
pub(crate) fn notice_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // A backtrace takes more memory than any parser may.
        memory::no_limit();
        tell(panic);
        if elapsed().is_some() {
            fail("panicked");
        }
    }));
}

/// Feeds an input; returns whether it was accepted. A panic, a hang, or too much memory ends the process.
pub(crate) fn feed(target: &Target, seed: Option<u64>, input: &[u8]) -> bool {
    let mut trial = now();
    (trial.target, trial.seed) = (target.name, seed);
    trial.input.clear();
    trial.input.extend_from_slice(input);
    trial.began = Some(Instant::now());
    drop(trial);
    memory::limit(input.len());
    let accepted = (target.feed)(input);
    memory::no_limit();
    now().began = None;
    accepted
}

/// How long the trial under way has taken; `None` when none is.
pub(crate) fn elapsed() -> Option<Duration> {
    now().began.map(|began| began.elapsed())
}

/// Keeps the input, says what happened to whom, and ends the process at once: it may hang in a parser, or inside of the
/// allocator, where nothing else can be relied on.
pub(crate) fn fail(what: &str) -> ! {
    // To tell takes memory too.
    memory::no_limit();
    let trial = now();
    let file = match keep(&trial) {
        Ok(file) => file.display().to_string(),
        Err(error) => format!("(the input cannot be kept: {error})"),
    };
    let (target, seed) = (trial.target, trial.seed.map_or_else(|| "none".to_owned(), |seed| seed.to_string()));
    let told = format!("{target} {what}; seed {seed}; replay with --target {target} --replay {file}\n");
    // Nobody is left to tell when this fails.
    drop(std::io::stderr().write_all(told.as_bytes()));
    std::process::abort()
}

/// Writes the input to a file beneath `target/fuzz`.
fn keep(trial: &Trial) -> std::io::Result<PathBuf> {
    let folder = std::env::current_dir()?.join("target/fuzz");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}-{}.bin", trial.target, trial.input.len()));
    std::fs::write(&file, &trial.input)?;
    Ok(file)
}
