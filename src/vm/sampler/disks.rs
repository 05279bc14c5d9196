//! The disks of a VM in figures: totals out of `query-blockstats`, and what two of them tell about the time between.

use crate::{
    model::DiskSample,
    qmp::{BlockDeviceStats, BlockStats},
};

/// All disks of the VM together, since QEMU started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    read: Requests,
    write: Requests,
    flush: Requests,
}

/// One kind of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Requests {
    bytes: u64,
    completed: u64,
    /// Nanoseconds from the guest's request to its completion, of all that are completed.
    time: u64,
}

impl Requests {
    fn add(&mut self, bytes: u64, completed: u64, time: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.completed = self.completed.saturating_add(completed);
        self.time = self.time.saturating_add(time);
    }

    /// `None` where a counter went back: a disk was taken away.
    fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            bytes: self.bytes.checked_sub(before.bytes)?,
            completed: self.completed.checked_sub(before.completed)?,
            time: self.time.checked_sub(before.time)?,
        })
    }

    /// Milliseconds that one took on average.
    fn latency(&self) -> Option<f64> {
        (self.completed > 0).then(|| self.time as f64 / self.completed as f64 / 1e6)
    }
}

/// Other block devices have no place in `disk_*`. `None` for a VM without disks.
pub(super) fn totals(blocks: &[BlockStats]) -> Option<Totals> {
    let disks = blocks.iter().filter(|block| block.qdev.as_deref().is_some_and(|qdev| qdev.contains("/disk-")));
    disks.map(|block| &block.stats).fold(None, |sum: Option<Totals>, stats| Some(sum.unwrap_or_default().plus(stats)))
}

impl Totals {
    fn plus(mut self, stats: &BlockDeviceStats) -> Self {
        self.read.add(stats.rd_bytes, stats.rd_operations, stats.rd_total_time_ns);
        self.write.add(stats.wr_bytes, stats.wr_operations, stats.wr_total_time_ns);
        self.flush.add(0, stats.flush_operations, stats.flush_total_time_ns);
        self
    }

    /// `seconds` lie between `before` and this.
    pub fn since(&self, before: Option<&Self>, seconds: Option<f64>) -> DiskSample {
        let passed = |kind: fn(&Self) -> &Requests| kind(self).since(kind(before?));
        let (read, write, flush) = (passed(|t| &t.read), passed(|t| &t.write), passed(|t| &t.flush));
        let rate = |kind: Option<Requests>| Some((kind?.completed as f64 / seconds?).round() as u64);
        DiskSample {
            read_bytes: self.read.bytes,
            write_bytes: self.write.bytes,
            read_iops: rate(read),
            write_iops: rate(write),
            read_latency: read.and_then(|kind| kind.latency()),
            write_latency: write.and_then(|kind| kind.latency()),
            flush_latency: flush.and_then(|kind| kind.latency()),
            queue: (|| queue([read?, write?, flush?], seconds?))(),
        }
    }
}

/// QEMU 7.2 tells no queue depth of a `-blockdev` disk, but the time that all requests took together: over the length
/// of the interval that is how many were under way on average (Little's law). QEMU counts a request's time when it is
/// completed; when none was, an idle disk and one that hangs look alike, and there is nothing to say.
fn queue(kinds: [Requests; 3], seconds: f64) -> Option<f64> {
    let completed = kinds.iter().any(|kind| kind.completed > 0);
    completed.then(|| kinds.iter().map(|kind| kind.time as f64).sum::<f64>() / (seconds * 1e9))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn device(qdev: &str, stats: serde_json::Value) -> BlockStats {
        serde_json::from_value(json!({"qdev": qdev, "stats": stats})).unwrap()
    }

    fn disk(stats: serde_json::Value) -> BlockStats {
        device("/machine/peripheral/disk-root/virtio-backend", stats)
    }

    #[test]
    fn rates_and_latencies_are_of_the_time_between() {
        let before = totals(&[disk(json!({"rd_operations": 10, "rd_bytes": 40960, "rd_total_time_ns": 7_000_000}))]);
        let now = totals(&[
            disk(json!({
                "rd_operations": 110, "rd_bytes": 450_560, "rd_total_time_ns": 257_000_000,
                "wr_operations": 4, "wr_bytes": 16384, "wr_total_time_ns": 2_000_000_000,
                "flush_operations": 1, "flush_total_time_ns": 750_000_000,
            })),
            device("/machine/peripheral/cd0", json!({"rd_operations": 999, "rd_bytes": 999})),
        ]);
        let sample = now.unwrap().since(before.as_ref(), Some(2.0));
        assert_eq!(
            sample,
            DiskSample {
                read_bytes: 450_560,
                write_bytes: 16384,
                read_iops: Some(50),
                write_iops: Some(2),
                read_latency: Some(2.5),
                write_latency: Some(500.0),
                flush_latency: Some(750.0),
                queue: Some(1.5),
            }
        );
    }

    #[test]
    fn an_idle_disk_has_rates_but_neither_latency_nor_queue() {
        let stats = totals(&[disk(json!({"rd_operations": 10, "rd_bytes": 40960, "rd_total_time_ns": 7}))]).unwrap();
        let idle = DiskSample { read_bytes: 40960, read_iops: Some(0), write_iops: Some(0), ..DiskSample::default() };
        assert_eq!(stats.since(Some(&stats), Some(2.0)), idle);
        let first = DiskSample { read_bytes: 40960, ..DiskSample::default() };
        assert_eq!(stats.since(None, None), first);
    }

    #[test]
    fn disks_are_added_up_and_none_is_not_zero() {
        let stats = || disk(json!({"wr_bytes": 1, "rd_bytes": u64::MAX}));
        let both = totals(&[stats(), stats()]).unwrap().since(None, None);
        assert_eq!((both.write_bytes, both.read_bytes), (2, u64::MAX));
        assert_eq!(totals(&[device("/machine/peripheral/cd0", json!({}))]), None);
    }

    #[test]
    fn a_counter_that_went_back_gives_no_rate() {
        let many = totals(&[disk(json!({"rd_operations": 10, "wr_operations": 3}))]).unwrap();
        let few = totals(&[disk(json!({"rd_operations": 5, "wr_operations": 5}))]).unwrap();
        let sample = few.since(Some(&many), Some(2.0));
        assert_eq!((sample.read_iops, sample.write_iops, sample.queue), (None, Some(1), None));
    }
}
