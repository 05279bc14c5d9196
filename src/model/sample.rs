//! One reading of a running VM's counters, and the rates between two of them. What could not be measured is `None`,
//! never 0.

use super::NicId;

/// Figures of one moment. Rates are over [`Self::interval`], the time since the sample before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub at: u64,
    /// Seconds since the sample before; `None` in the first one, which has no rates.
    pub interval: Option<f64>,
    /// Percent of the whole vCPU capacity, 0 to 100.
    pub cpu_usage: Option<f64>,
    /// Percent of the whole vCPU capacity that was wanted but not had, because the host's cores were busy.
    pub cpu_wait: Option<f64>,
    /// In their order.
    pub vcpus: Vec<VcpuSample>,
    /// Resident memory of the process, MiB.
    pub resident: Option<u64>,
    /// `None` for a VM without a balloon.
    pub balloon: Option<BalloonSample>,
    /// All disks together.
    pub disk: Option<DiskSample>,
    /// The NICs that QEMU has.
    pub nics: Vec<NicSample>,
    /// All NICs together, also those that are gone; `None` unless each can be measured.
    pub network: Option<NetworkSample>,
    /// Seconds since the VM was started.
    pub uptime: u64,
}

/// One vCPU's thread.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VcpuSample {
    /// Percent of one core, 0 to 100.
    pub usage: Option<f64>,
    /// Percent of the time that it could have run but waited for a core of the host: what a guest calls steal time.
    pub wait: Option<f64>,
    /// The host's core that it runs on, or last ran on.
    pub core: Option<u32>,
}

/// What the guest's balloon driver reports, as far as it can be true; memory in MiB, totals since the guest booted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BalloonSample {
    /// The guest's memory without what the balloon holds, as QEMU tells.
    pub actual: Option<u64>,
    /// What the guest's kernel can use.
    pub total: Option<u64>,
    pub free: Option<u64>,
    /// What the guest could use without swapping.
    pub available: Option<u64>,
    pub disk_caches: Option<u64>,
    /// Bytes.
    pub swap_in: Option<u64>,
    /// Bytes.
    pub swap_out: Option<u64>,
    pub major_faults: Option<u64>,
    pub minor_faults: Option<u64>,
    /// Seconds since 1970; `None` when it never reported.
    pub updated_at: Option<u64>,
}

impl BalloonSample {
    /// Memory in use as the guest sees it, MiB, as `free` in the guest counts: without what it could give back at once.
    pub fn used(&self) -> Option<u64> {
        Some(self.total?.saturating_sub(self.available.or(self.free)?))
    }
}

/// Totals since start, and what happened since the sample before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiskSample {
    pub read_bytes: u64,
    pub write_bytes: u64,
    /// Per second.
    pub read_iops: Option<u64>,
    /// Per second.
    pub write_iops: Option<u64>,
    /// Milliseconds that a read took on average, as the guest saw it (with any throttling); `None` without reads.
    pub read_latency: Option<f64>,
    pub write_latency: Option<f64>,
    pub flush_latency: Option<f64>,
    /// Requests that were under way on average; `None` when none was completed.
    pub queue: Option<f64>,
}

/// One NIC.
#[derive(Clone, Debug, PartialEq)]
pub struct NicSample {
    pub id: NicId,
    pub name: String,
    /// `None` for a NIC whose traffic nobody counts: one on the user-mode network.
    pub traffic: Option<NetworkSample>,
}

/// Totals since start, and rates since the sample before. In is towards the guest (ruling 23).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NetworkSample {
    pub in_bytes: u64,
    pub out_bytes: u64,
    /// Per second.
    pub in_packets: Option<u64>,
    /// Per second.
    pub out_packets: Option<u64>,
    /// Packets in either direction that were lost on the way, in total.
    pub dropped: u64,
}
