//! Reads the counters of a running VM and turns two readings into rates. What cannot be measured stays `None`.
//!
//! It runs for every VM every two seconds, so it is made to be cheap: all questions to QEMU go out together, what
//! hardly ever changes is asked once, a vCPU costs two small files of /proc, and VMs take turns.
//! `benches/sampler_cost.rs` measures it.

mod balloon;
mod disks;
mod nics;

use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::{
    host::tasks::{self, Times},
    model::{Sample, VcpuSample, now_ms, uptime_ms},
    qemu::devices::BALLOON_ID,
    qmp::{BlockStats, GuestStats, QmpError, Session},
};
use balloon::Bounds;
use disks::Totals;

/// How often counters are read.
const PERIOD: Duration = Duration::from_secs(2);
/// The first look at a VM that has just been started is not in the way of the answer.
const FIRST: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

/// What QEMU answered.
pub(super) struct Readings {
    blocks: Vec<BlockStats>,
    guest: Option<GuestStats>,
    bounds: Option<Bounds>,
}

/// What to ask QEMU this time.
#[derive(Clone, Copy)]
pub(super) struct Questions {
    balloon: bool,
    bounds: bool,
}

/// What the sample is to be seen with.
pub(super) struct Circumstances {
    /// By `uptime_ms`.
    pub started: u64,
    /// A paused guest cannot report, and what it reported last stays true.
    pub running: bool,
    pub balloon: bool,
    /// The NICs that QEMU has.
    pub nics: Vec<nics::Reading>,
}

/// Keeps the reading before.
pub(super) struct Sampler {
    process: i32,
    threads: Vec<i32>,
    ticks: Ticks,
    /// `None` until QEMU was asked, and again when the answer may have changed.
    bounds: Option<Bounds>,
    before: Option<Counters>,
    counted: nics::Counted,
}

struct Counters {
    at: Instant,
    vcpus: Vec<Option<Times>>,
    disks: Option<Totals>,
}

/// The first sampling is soon, the following ones at a time of the VM's own: fifty VMs that were taken over together
/// do not ask for the processor together for ever after.
struct Ticks {
    interval: Interval,
    stagger: Option<Duration>,
}

impl Ticks {
    fn new(process: i32) -> Self {
        let mut interval = interval_at((Instant::now() + FIRST).into(), PERIOD);
        // After a delay the full time again: a rate over a few milliseconds says nothing.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, stagger: Some(PERIOD / 2 + PERIOD.mul_f64(phase(process))) }
    }

    /// May be dropped and called again.
    async fn next(&mut self) {
        self.interval.tick().await;
        if let Some(stagger) = self.stagger.take() {
            self.interval.reset_after(stagger);
        }
    }
}

/// From 0 to 1; multiples of the golden ratio spread numbers that follow each other evenly.
pub(super) fn phase(process: i32) -> f64 {
    (f64::from(process) * 0.618_033_988_749_895).rem_euclid(1.0)
}

impl Sampler {
    pub fn new(process: i32, threads: Vec<i32>) -> Self {
        Self {
            process,
            threads,
            ticks: Ticks::new(process),
            bounds: None,
            before: None,
            counted: nics::Counted::default(),
        }
    }

    /// Returns when the next sampling is due. May be dropped and called again.
    pub async fn due(&mut self) {
        self.ticks.next().await;
    }

    /// The guest's memory has changed: QEMU is asked about it next time.
    pub fn memory_changed(&mut self) {
        self.bounds = None;
    }

    pub fn questions(&self, balloon: bool) -> Questions {
        Questions { balloon, bounds: balloon && self.bounds.is_none() }
    }

    /// Measures these threads from now on; the next usage is that of a first reading.
    pub fn set_threads(&mut self, threads: Vec<i32>) {
        if self.threads != threads {
            self.threads = threads;
            self.before = None;
        }
    }

    /// The part that needs the monitor.
    pub async fn ask(session: &Session, questions: Questions) -> Result<Readings, QmpError> {
        let path = format!("/machine/peripheral/{BALLOON_ID}");
        let guest = async {
            match questions.balloon {
                true => session.guest_stats(&path).await.ok(),
                false => None,
            }
        };
        let bounds = async {
            match questions.bounds {
                true => Bounds::ask(session).await.ok(),
                false => None,
            }
        };
        let (blocks, guest, bounds) = tokio::join!(session.query_blockstats(), guest, bounds);
        Ok(Readings { blocks: blocks?, guest, bounds })
    }

    /// The part that /proc tells, and the rates.
    pub fn take(&mut self, readings: Readings, circumstances: Circumstances) -> Sample {
        let now = Counters {
            at: Instant::now(),
            vcpus: self.threads.iter().map(|&thread| tasks::times(self.process, thread)).collect(),
            disks: disks::totals(&readings.blocks),
        };
        self.bounds = readings.bounds.or(self.bounds.take());
        let balloon = circumstances.balloon.then(|| {
            let at = now_ms() / 1000;
            let (sample, plausible) =
                balloon::sample(readings.guest.as_ref(), self.bounds.as_ref(), at, circumstances.running);
            if !plausible {
                // Perhaps it has more memory than before.
                self.bounds = None;
            }
            sample
        });
        let mut sample = rates(self.before.as_ref(), &now);
        sample.at = now_ms();
        sample.uptime = uptime_ms().saturating_sub(circumstances.started) / 1000;
        sample.resident = tasks::resident(self.process).map(|bytes| bytes / MIB);
        sample.balloon = balloon;
        (sample.nics, sample.network) = self.counted.take(circumstances.nics);
        self.before = Some(now);
        sample
    }
}

/// Everything that two readings tell.
fn rates(before: Option<&Counters>, now: &Counters) -> Sample {
    let seconds = before.map(|before| (now.at - before.at).as_secs_f64()).filter(|&seconds| seconds > 0.0);
    // A vCPU that came since has no rate yet.
    let vcpus: Vec<VcpuSample> = now
        .vcpus
        .iter()
        .enumerate()
        .map(|(index, &times)| {
            vcpu(before.and_then(|before| before.vcpus.get(index).copied().flatten()), times, seconds)
        })
        .collect();
    Sample {
        interval: seconds,
        cpu_usage: mean(vcpus.iter().map(|vcpu| vcpu.usage)),
        cpu_wait: mean(vcpus.iter().map(|vcpu| vcpu.wait)),
        vcpus,
        disk: now.disks.as_ref().map(|disks| disks.since(before.and_then(|before| before.disks.as_ref()), seconds)),
        ..Sample::default()
    }
}

fn vcpu(before: Option<Times>, now: Option<Times>, seconds: Option<f64>) -> VcpuSample {
    let Some(now) = now else { return VcpuSample::default() };
    let percent = |now: u64, before: u64| {
        // Less than before: another thread. The clock is read before the counters, hence the bound.
        let share = now.checked_sub(before)? as f64 / (1e9 * seconds?);
        Some((100.0 * share).clamp(0.0, 100.0))
    };
    VcpuSample {
        usage: before.and_then(|before| percent(now.ran, before.ran)),
        wait: before.and_then(|before| percent(now.waited?, before.waited?)),
        core: now.core,
    }
}

/// `None` unless all are known.
fn mean(values: impl ExactSizeIterator<Item = Option<f64>>) -> Option<f64> {
    let count = values.len();
    let sum = values.sum::<Option<f64>>()?;
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(at: Instant, vcpus: Vec<Option<Times>>) -> Counters {
        Counters { at, vcpus, disks: None }
    }

    fn times(ran_ms: u64, waited_ms: Option<u64>, core: u32) -> Option<Times> {
        Some(Times { ran: ran_ms * 1_000_000, waited: waited_ms.map(|ms| ms * 1_000_000), core: Some(core) })
    }

    #[test]
    fn each_vcpu_has_its_share_and_the_vm_their_mean() {
        let begin = Instant::now();
        let before = counters(begin, vec![times(1000, Some(0), 0), times(500, Some(100), 1)]);
        let now = counters(begin + PERIOD, vec![times(2000, Some(500), 1), times(500, Some(100), 1)]);
        let sample = rates(Some(&before), &now);
        let vcpu = |usage, wait, core| VcpuSample { usage: Some(usage), wait: Some(wait), core: Some(core) };
        assert_eq!(sample.vcpus, [vcpu(50.0, 25.0, 1), vcpu(0.0, 0.0, 1)]);
        assert_eq!((sample.cpu_usage, sample.cpu_wait, sample.interval), (Some(25.0), Some(12.5), Some(2.0)));
    }

    #[test]
    fn the_first_reading_has_cores_but_no_rates() {
        let sample = rates(None, &counters(Instant::now(), vec![times(1000, Some(0), 3)]));
        assert_eq!(sample.vcpus, [VcpuSample { core: Some(3), ..VcpuSample::default() }]);
        assert_eq!((sample.cpu_usage, sample.cpu_wait, sample.interval), (None, None, None));
    }

    #[test]
    fn what_one_vcpu_does_not_tell_the_vm_does_not_tell() {
        let begin = Instant::now();
        let before = counters(begin, vec![times(0, None, 0), times(0, None, 0)]);
        let now = counters(begin + PERIOD, vec![times(100, None, 0), None, times(0, None, 0)]);
        let sample = rates(Some(&before), &now);
        assert_eq!(sample.vcpus[0].usage, Some(5.0));
        assert_eq!(sample.vcpus[1..].iter().map(|v| v.usage).collect::<Vec<_>>(), [None, None], "gone, and new");
        assert_eq!((sample.cpu_usage, sample.cpu_wait), (None, None));
        assert_eq!(rates(Some(&before), &counters(begin + PERIOD, vec![])).cpu_usage, None, "no vCPU is not 0 %");
    }

    #[test]
    fn counters_that_went_back_or_too_far_give_no_nonsense() {
        let begin = Instant::now();
        let before = counters(begin, vec![times(1000, Some(0), 0), times(0, Some(0), 0)]);
        let now = counters(begin + PERIOD, vec![times(900, Some(0), 0), times(9000, Some(0), 0)]);
        let usage = |index: usize| rates(Some(&before), &now).vcpus[index].usage;
        assert_eq!((usage(0), usage(1)), (None, Some(100.0)));
        assert_eq!(rates(Some(&before), &counters(begin, vec![times(2000, None, 0)])).vcpus[0].usage, None);
    }

    #[test]
    fn vms_take_turns() {
        for numbers in [1000..1050, 40_000..40_050] {
            let mut turns: Vec<f64> = numbers.map(phase).collect();
            turns.sort_by(f64::total_cmp);
            assert!(turns[0] >= 0.0 && turns[49] < 1.0);
            let gaps: Vec<f64> = turns.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(gaps.iter().all(|gap| (0.01..0.04).contains(gap)), "{gaps:?}");
        }
    }

    #[tokio::test]
    async fn the_first_sampling_is_at_once_and_the_second_at_the_turn_of_the_vm() {
        let mut ticks = Ticks::new(7);
        let begin = Instant::now();
        ticks.next().await;
        assert!(begin.elapsed() < PERIOD / 4);
        assert_eq!(ticks.interval.period(), PERIOD);
        assert_eq!(ticks.stagger, None);
        ticks.next().await;
        assert!(begin.elapsed() >= PERIOD / 2);
    }
}
