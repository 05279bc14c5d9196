//! Two clocks. The one on the wall is for what is told, and for what holds over a boot of the host; somebody may set it.
//! How long something took, or may take, is counted by the host's own, which goes on evenly from its boot.

use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock in milliseconds since 1970, as it stands in records and views.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Milliseconds from the boot of the host, by the clock of every timer: it stands still while the host sleeps.
pub fn monotonic_ms() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Milliseconds from the boot of the host, its sleep included: what the kernel dates processes by.
pub fn uptime_ms() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> u64 {
    // Linux has both, so the error cannot be.
    clock_gettime(clock).map_or(0, |now| Duration::from(now).as_millis() as u64)
}

/// A moment ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since 1970, as it stood on the wall when this was made.
    pub at: u64,
    /// The same by [`monotonic_ms`]; older records have none.
    pub monotonic: Option<u64>,
}

impl Moment {
    pub fn after(wait: Duration) -> Self {
        let wait = wait.as_millis() as u64;
        Self { at: now_ms().saturating_add(wait), monotonic: Some(monotonic_ms().saturating_add(wait)) }
    }

    /// How long it is until then.
    pub fn left(self) -> Duration {
        Duration::from_millis(match self.monotonic {
            Some(at) => at.saturating_sub(monotonic_ms()),
            None => self.at.saturating_sub(now_ms()),
        })
    }

    /// The same, from now on by the clock that nobody sets.
    pub fn fixed(self) -> Self {
        Self { monotonic: Some(monotonic_ms().saturating_add(self.left().as_millis() as u64)), ..self }
    }

    pub fn is_before(self, other: Self) -> bool {
        match (self.monotonic, other.monotonic) {
            (Some(one), Some(other)) => one < other,
            _ => self.at < other.at,
        }
    }
}
