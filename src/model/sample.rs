//! One reading of a running VM's counters, and the rates between two of them.

/// Figures of one moment. What could not be measured is `None`, never 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Percent of the whole vCPU capacity since the sample before, 0 to 100.
    pub cpu_usage: Option<f64>,
    /// Resident memory of the process, MiB.
    pub resident: Option<u64>,
    /// Memory in use as the guest sees it, MiB; only where its balloon driver reports.
    pub guest_used: Option<u64>,
    /// All disks together.
    pub disk: Option<DiskSample>,
    /// Seconds since the VM was started.
    pub uptime: u64,
}

/// Totals since start, and operations per second since the sample before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiskSample {
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub read_operations: u64,
    pub write_operations: u64,
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}
