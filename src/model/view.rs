//! What is known of a VM right now, as its task last published it. Reads take this and never wait for a VM.

use std::sync::Arc;

use super::{Status, Upkeep, VmSpec, uptime_ms};

/// One VM as published.
#[derive(Clone, Debug)]
pub struct VmView {
    pub spec: Arc<VmSpec>,
    /// What QEMU has, while it runs.
    pub in_effect: Option<Arc<VmSpec>>,
    pub status: Status,
    /// Why it is paused, crashed or unresponsive.
    pub reason: Option<String>,
    /// It is paused by an I/O or internal error.
    pub critical: bool,
    /// QEMU's process, while there is one.
    pub pid: Option<i32>,
    /// Milliseconds since 1970, while it runs.
    pub started_at: Option<u64>,
    /// The start of its process, by `uptime_ms`: no setting of the clock makes it younger or older.
    pub started: Option<u64>,
    /// Starts that it is owed.
    pub upkeep: Upkeep,
    /// Its guest agent has opened its port.
    pub agent: bool,
    /// Deleted: the VM is gone for good, its id answers 404.
    pub gone: bool,
}

impl VmView {
    /// For how many seconds it has been running.
    pub fn uptime(&self) -> Option<u64> {
        self.started.map(|since| uptime_ms().saturating_sub(since) / 1000)
    }
}
