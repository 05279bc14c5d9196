//! What the guest's balloon driver says, and how much of it to believe: the guest writes these figures itself, and may
//! write any. QEMU's own figures bound them.

use crate::{
    model::BalloonSample,
    qmp::{GuestStats, QmpError, Session},
};

use super::MIB;

/// A guest that has not reported for this long (it is asked every two seconds) is in its firmware, has lost its driver,
/// or hangs.
const STALE: u64 = 30;
/// Larger counters than any guest reaches, and than JSON carries everywhere.
const MOST: u64 = 1 << 53;

/// What the host knows of the guest's memory, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// All memory that the guest has been given.
    memory: u64,
    /// Of that, what the balloon has left to it.
    actual: u64,
}

impl Bounds {
    pub async fn ask(session: &Session) -> Result<Self, QmpError> {
        let (memory, balloon) = tokio::join!(session.query_memory_size_summary(), session.query_balloon());
        let memory = memory?;
        let memory = memory.base_memory.saturating_add(memory.plugged_memory.unwrap_or(0));
        // QEMU computes it out of a number that the guest writes.
        Ok(Self { memory, actual: balloon?.min(memory) })
    }
}

/// The statistics as a sample, and whether they fit the guest's memory. `now` is in seconds since 1970.
pub(super) fn sample(
    stats: Option<&GuestStats>,
    bounds: Option<&Bounds>,
    now: u64,
    running: bool,
) -> (BalloonSample, bool) {
    let actual = bounds.map(|bounds| bounds.actual / MIB);
    let updated_at = stats.and_then(|stats| stats.last_update);
    let silent = BalloonSample { actual, updated_at, ..BalloonSample::default() };
    let (Some(stats), Some(updated_at), Some(bounds)) = (stats, updated_at, bounds) else { return (silent, true) };
    if running && now.saturating_sub(updated_at) > STALE {
        return (silent, true);
    }
    let total = match stats.total_memory {
        // Without a size the other figures have nothing to be measured by but the guest's whole memory.
        None => bounds.memory,
        Some(total) if (1..=bounds.memory).contains(&total) => total,
        // Who lies about one figure is not believed the others.
        Some(_) => return (silent, false),
    };
    let part = |value: Option<u64>| value.filter(|&value| value <= total).map(|value| value / MIB);
    let count = |value: Option<u64>| value.filter(|&value| value <= MOST);
    let sample = BalloonSample {
        total: stats.total_memory.map(|total| total / MIB),
        free: part(stats.free_memory),
        available: part(stats.available_memory),
        disk_caches: part(stats.disk_caches),
        swap_in: count(stats.swap_in),
        swap_out: count(stats.swap_out),
        major_faults: count(stats.major_faults),
        minor_faults: count(stats.minor_faults),
        ..silent
    };
    (sample, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const BOUNDS: Bounds = Bounds { memory: 256 * MIB, actual: 200 * MIB };

    fn honest() -> GuestStats {
        GuestStats {
            last_update: Some(NOW - 1),
            total_memory: Some(213 * MIB),
            free_memory: Some(150 * MIB),
            available_memory: Some(160 * MIB),
            disk_caches: Some(20 * MIB),
            swap_in: Some(4096),
            swap_out: Some(0),
            major_faults: Some(7),
            minor_faults: Some(1000),
        }
    }

    fn of(stats: GuestStats) -> BalloonSample {
        sample(Some(&stats), Some(&BOUNDS), NOW, true).0
    }

    #[test]
    fn an_honest_guest_is_believed() {
        let (sample, plausible) = sample(Some(&honest()), Some(&BOUNDS), NOW, true);
        assert!(plausible);
        assert_eq!((sample.actual, sample.total, sample.used()), (Some(200), Some(213), Some(53)));
        assert_eq!((sample.free, sample.available, sample.disk_caches), (Some(150), Some(160), Some(20)));
        assert_eq!((sample.swap_in, sample.swap_out), (Some(4096), Some(0)));
        assert_eq!((sample.major_faults, sample.minor_faults), (Some(7), Some(1000)));
        let old_driver = of(GuestStats { available_memory: None, ..honest() });
        assert_eq!(old_driver.used(), Some(63), "total without free");
    }

    #[test]
    fn more_memory_than_the_guest_has_is_not_believed_and_nothing_else_is() {
        for total in [0, 256 * MIB + 1, u64::MAX - 1] {
            let lie = GuestStats { total_memory: Some(total), ..honest() };
            let (sample, plausible) = sample(Some(&lie), Some(&BOUNDS), NOW, true);
            let silent = BalloonSample { actual: Some(200), updated_at: Some(NOW - 1), ..BalloonSample::default() };
            assert_eq!((sample, plausible), (silent, false), "{total}");
        }
    }

    #[test]
    fn a_part_larger_than_the_whole_is_left_out() {
        let lie = of(GuestStats {
            free_memory: Some(214 * MIB),
            available_memory: Some(u64::MAX - 1),
            disk_caches: Some(1 << 60),
            swap_in: Some(u64::MAX - 1),
            minor_faults: Some((1 << 53) + 1),
            ..honest()
        });
        assert_eq!((lie.free, lie.available, lie.disk_caches, lie.used()), (None, None, None, None));
        assert_eq!((lie.swap_in, lie.minor_faults, lie.major_faults), (None, None, Some(7)));
        let no_total = of(GuestStats { total_memory: None, free_memory: Some(257 * MIB), ..honest() });
        assert_eq!((no_total.total, no_total.free, no_total.available, no_total.used()), (None, None, Some(160), None));
    }

    #[test]
    fn what_was_reported_long_ago_is_no_longer_true_unless_the_guest_is_paused() {
        let old = GuestStats { last_update: Some(NOW - STALE - 1), ..honest() };
        let seen = |running| sample(Some(&old), Some(&BOUNDS), NOW, running).0;
        assert_eq!((seen(true).total, seen(true).updated_at), (None, Some(NOW - STALE - 1)));
        assert_eq!(seen(false).used(), Some(53));
    }

    #[test]
    fn a_guest_that_never_reported_has_no_figures() {
        let never = of(GuestStats { last_update: None, ..honest() });
        assert_eq!(never, BalloonSample { actual: Some(200), ..BalloonSample::default() });
        assert_eq!(sample(None, None, NOW, true), (BalloonSample::default(), true));
    }
}
