//! What every program needs at its edge: configuration, telemetry, retry policies, the boot-time clock, shutdown, exit
//! codes. Knows nothing of backups.

pub mod boottime;
pub mod exit;
pub mod retry;
pub mod secret_file;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

pub use tokio_util::sync::CancellationToken;
