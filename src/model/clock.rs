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

/// When something happened that the kernel dates by [`uptime_ms`], by the clock on the wall as it stands now.
pub fn wall_at_uptime(uptime: u64) -> u64 {
    now_ms().saturating_sub(uptime_ms()).saturating_add(uptime)
}

/// Two readings of two clocks, and what is corrected of one bit by bit, differ by less: nobody has set it.
const SET: u64 = 1000;

/// What the clock on the wall says now of a moment for which it once `said` something: the same, unless it has been set.
pub fn wall_time_of(said: u64, says: u64) -> u64 {
    if said.abs_diff(says) < SET { said } else { says }
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
    /// When it is, by the clock on the wall as it stands now, for people.
    pub fn wall_time(self) -> u64 {
        match self.monotonic {
            Some(monotonic) => wall_time_of(self.at, now_ms().saturating_add(monotonic).saturating_sub(monotonic_ms())),
            None => self.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_moment_is_told_as_it_was_until_the_clock_is_set() {
        let noted = Moment { at: now_ms() + 30_000, monotonic: Some(monotonic_ms() + 30_000) };
        assert_eq!(noted.wall_time(), noted.at);
        // As it stands when the clock was put forward, or back, after it was noted.
        for said in [noted.at - HOUR, noted.at + HOUR] {
            let message = Moment { at: said, ..noted }.wall_time();
            assert!(message.abs_diff(noted.at) < SET, "{message}, not {}", noted.at);
        }
        assert_eq!(Moment { at: 7, monotonic: None }.wall_time(), 7, "an older record's");
        assert!(wall_at_uptime(uptime_ms()).abs_diff(now_ms()) < SET);
    }
}
