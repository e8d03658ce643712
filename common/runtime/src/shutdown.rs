//! Ending a program in order: a signal asks, a second one insists.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Watches for SIGTERM and SIGINT: the first cancels the token, a second one ends the process at once with
/// `128 + signal`. To be called inside a tokio runtime, once.
///
/// # Errors
/// When the operating system does not let signals be watched.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        let first = signals.next().await;
        tracing::info!(signal = first.as_raw_value(), "stopping in order; a second signal stops at once");
        asked.cancel();
        let second = signals.next().await;
        std::process::exit(128 + second.as_raw_value());
    });
    Ok(token)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}
