//! Reads the counters of a running VM and turns two readings into rates. What cannot be measured stays `None`.

use std::time::Instant;

use procfs::process::Process;

use crate::{
    model::{DiskSample, Sample, now_ms},
    qemu::devices::BALLOON_ID,
    qmp::{BlockStats, GuestStats, QmpError, Session},
};

const MIB: u64 = 1 << 20;

/// What QEMU answered.
pub(super) struct Readings {
    blocks: Vec<BlockStats>,
    balloon: Option<GuestStats>,
}

/// Keeps the reading before.
pub(super) struct Sampler {
    process: i32,
    threads: Vec<i32>,
    before: Option<Counters>,
}

struct Counters {
    at: Instant,
    /// Clock ticks of all vCPU threads.
    ticks: Option<u64>,
    reads: u64,
    writes: u64,
}

impl Sampler {
    pub fn new(process: i32, threads: Vec<i32>) -> Self {
        Self { process, threads, before: None }
    }

    /// Measures these threads from now on; the next usage is that of a first reading.
    pub fn set_threads(&mut self, threads: Vec<i32>) {
        if self.threads != threads {
            self.threads = threads;
            self.before = None;
        }
    }

    /// The part that needs the monitor.
    pub async fn ask(session: &Session, balloon: bool) -> Result<Readings, QmpError> {
        let blocks = session.query_blockstats().await?;
        let balloon = match balloon {
            true => session.guest_stats(&format!("/machine/peripheral/{BALLOON_ID}")).await.ok(),
            false => None,
        };
        Ok(Readings { blocks, balloon })
    }

    /// The part that /proc tells, and the rates. `started_at` is in milliseconds since 1970.
    pub fn take(&mut self, readings: Readings, started_at: u64) -> Sample {
        let disk = disks(&readings.blocks);
        let now = Counters {
            at: Instant::now(),
            ticks: self.ticks(),
            reads: disk.read_operations,
            writes: disk.write_operations,
        };
        let since = self.before.as_ref().map(|before| (before, (now.at - before.at).as_secs_f64()));
        let rate = |now: u64, before: u64, seconds: f64| (now.saturating_sub(before) as f64 / seconds).round() as u64;
        let sample = Sample {
            cpu_usage: since.and_then(|(before, seconds)| {
                let used = now.ticks?.saturating_sub(before.ticks?) as f64 / procfs::ticks_per_second() as f64;
                Some((100.0 * used / (seconds * self.threads.len() as f64)).clamp(0.0, 100.0))
            }),
            resident: Process::new(self.process)
                .and_then(|p| p.statm())
                .ok()
                .map(|m| m.resident * procfs::page_size() / MIB),
            guest_used: readings
                .balloon
                .and_then(|stats| Some(stats.total_memory?.saturating_sub(stats.free_memory?) / MIB)),
            disk: Some(DiskSample {
                read_iops: since.map(|(before, seconds)| rate(now.reads, before.reads, seconds)),
                write_iops: since.map(|(before, seconds)| rate(now.writes, before.writes, seconds)),
                ..disk
            }),
            uptime: now_ms().saturating_sub(started_at) / 1000,
        };
        self.before = Some(now);
        sample
    }

    /// `None` while a thread's figures cannot be read.
    fn ticks(&self) -> Option<u64> {
        let process = Process::new(self.process).ok()?;
        self.threads.iter().map(|&t| process.task_from_tid(t).ok()?.stat().ok().map(|s| s.utime + s.stime)).sum()
    }
}

/// All disks of the VM together; other block devices have no place in `disk_*`.
fn disks(blocks: &[BlockStats]) -> DiskSample {
    let mut all = DiskSample::default();
    for block in blocks.iter().filter(|b| b.qdev.as_deref().is_some_and(|q| q.contains("/disk-"))) {
        all.read_bytes += block.stats.rd_bytes;
        all.write_bytes += block.stats.wr_bytes;
        all.read_operations += block.stats.rd_operations;
        all.write_operations += block.stats.wr_operations;
    }
    all
}
