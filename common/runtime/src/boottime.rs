//! The clock that deadlines of agents are measured on: time since boot, time spent suspended included.
//!
//! `std::time::Instant` stands still while a machine is suspended (or a virtual machine is paused in some ways), so an
//! agent that wakes up would believe that its lease still holds. This clock goes on.

use std::ops::Add;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Longest sleep before the clock is looked at again, because tokio's timer stands still during a suspension.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// An instant of the boot-time clock. Means nothing on another machine or after a reboot: see [`boot_id`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        // The clock counts up from zero at boot, hence both parts are positive.
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
        Self(Duration::new(seconds, nanoseconds))
    }

    /// An instant this long after boot; for tests of pure code that takes instants.
    #[must_use]
    pub const fn since_boot(duration: Duration) -> Self {
        Self(duration)
    }

    /// Time since `earlier`; zero when that is later.
    #[must_use]
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Time that has passed since this instant; zero when it is still to come.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().saturating_since(self)
    }

    /// Time until this instant; zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.saturating_since(Self::now())
    }

    /// True when this instant has come.
    #[must_use]
    pub fn has_passed(self) -> bool {
        Self::now() >= self
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// Waits until an instant of the boot-time clock has come; notices the end of a suspension within half a second.
pub async fn sleep_until(instant: BootInstant) {
    loop {
        let remaining = instant.remaining();
        if remaining.is_zero() {
            return;
        }
        tokio::time::sleep(remaining.min(LOOK_AGAIN)).await;
    }
}

/// The kernel's id of this boot, random at each.
///
/// # Errors
/// When the kernel does not say.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_backwards_and_counts_from_boot() {
        let first = BootInstant::now();
        let second = BootInstant::now();
        assert!(second >= first);
        let uptime: f64 = std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
        let now = BootInstant::now().saturating_since(BootInstant::since_boot(Duration::ZERO)).as_secs_f64();
        assert!((now - uptime).abs() < 5.0, "{now} against {uptime}");
    }

    #[tokio::test]
    async fn a_sleep_ends_when_its_instant_has_come_and_not_before() {
        let instant = BootInstant::now() + Duration::from_millis(30);
        assert!(!instant.has_passed());
        sleep_until(instant).await;
        assert!(instant.has_passed() && instant.remaining().is_zero());
    }

    #[test]
    fn the_boot_id_stays_the_same() {
        let id = boot_id().unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(id, boot_id().unwrap());
    }
}
