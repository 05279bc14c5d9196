//! What tells a boot of the host, and a process, from every other one. They are stored.

use serde::{Deserialize, Serialize};

/// The boot of the host that the VMs with autostart were last started after, or not: stored once, for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// The life of this system or container within that boot (`host::process::init`); an older qherd did not look.
    #[serde(default)]
    pub init: Option<String>,
}

impl Boot {
    /// Whether nothing has been restarted in between. What cannot be told is not taken for a restart.
    pub fn is(&self, now: &Self) -> bool {
        self.boot_id == now.boot_id && self.init.as_ref().zip(now.init.as_ref()).is_none_or(|(then, now)| then == now)
    }
}

/// A process that cannot be mistaken for another one, also after its pid was used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat, in clock ticks since boot (proc(5)).
    pub starttime: u64,
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
}

/// Clock ticks in a second, as /proc counts them on every architecture with KVM.
const USER_HZ: u64 = 100;

impl ProcessId {
    /// When it was started, by `uptime_ms` of its boot of the host.
    pub fn started(&self) -> u64 {
        self.starttime.saturating_mul(1000 / USER_HZ)
    }
}
