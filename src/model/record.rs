//! What is stored: definitions, and the facts of a run that a daemon needs to find its VMs again.
//! The status that a client sees is derived from these and from the process, never stored.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Ending, Moment, Upkeep, VmSpec};

/// One VM on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Shared with what is published of it.
    pub spec: Arc<VmSpec>,
    pub run: Run,
    #[serde(default)]
    pub upkeep: Upkeep,
}

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

/// How far the VM's run had come when this was written. Every value is one that a crash can leave behind, and
/// `vm::adopt` has an answer to each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Run {
    /// Its disks are being made; nobody was told that it exists.
    Creating,
    /// No process.
    Down {
        last: Ending,
    },
    /// A process may have been spawned; its guest may not have run yet, and nobody was told that it does.
    Starting {
        process: Option<ProcessId>,
        /// It is being created as well: nobody was told that it exists.
        #[serde(default)]
        new: bool,
    },
    Live(LiveRun),
    /// Everything it has is being removed.
    Deleting,
}

/// A running VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRun {
    pub process: ProcessId,
    /// The start of the process, as the clock on the wall said then, in milliseconds since 1970.
    pub started_at: u64,
    pub intent: Intent,
    /// What QEMU has right now; differs from the definition by what takes effect at the next start.
    pub in_effect: Arc<VmSpec>,
    /// MiB that QEMU was started with; what is above comes through virtio-mem, what is below through the balloon.
    pub boot_memory: u64,
    /// MiB that its virtio-mem can add to that.
    pub hotplug_memory: u64,
    /// vCPUs that this QEMU has ever had, once it has lost one: an emulating QEMU can make only so many.
    #[serde(default)]
    pub vcpus_made: u32,
}

/// What the daemon is about to do with a live VM; the deadlines hold over its restart (ruling 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "intent")]
pub enum Intent {
    Run,
    /// The guest was asked to power off; at `deadline` (ms since 1970) it is cut.
    Stop {
        deadline: u64,
        /// The same by `monotonic_ms`, which is what counts: a live QEMU is of this boot of the host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        monotonic: Option<u64>,
        /// Only its agent is asked, and at the deadline it is left running (ruling 27).
        #[serde(default)]
        agent_only: bool,
    },
    /// The guest was asked to reboot; at `deadline` (ms since 1970) it is reset.
    Reboot {
        deadline: u64,
        /// As with a stop.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        monotonic: Option<u64>,
        /// As with a stop.
        #[serde(default)]
        agent_only: bool,
    },
    /// Its process is being ended: a client cut its power (`by_client`), or the guest has powered off.
    Off {
        #[serde(rename = "asked")]
        by_client: bool,
    },
}

impl Intent {
    pub fn stop(deadline: Moment, agent_only: bool) -> Self {
        Self::Stop { deadline: deadline.at, monotonic: deadline.monotonic, agent_only }
    }

    pub fn reboot(deadline: Moment, agent_only: bool) -> Self {
        Self::Reboot { deadline: deadline.at, monotonic: deadline.monotonic, agent_only }
    }

    /// When the guest's time is over.
    pub fn deadline(self) -> Option<Moment> {
        match self {
            Self::Stop { deadline, monotonic, .. } | Self::Reboot { deadline, monotonic, .. } => {
                Some(Moment { at: deadline, monotonic })
            }
            Self::Run | Self::Off { .. } => None,
        }
    }

    /// The same with [`Moment::fixed`].
    pub fn fixed(self) -> Self {
        match (self, self.deadline().map(Moment::fixed)) {
            (Self::Stop { agent_only, .. }, Some(deadline)) => Self::stop(deadline, agent_only),
            (Self::Reboot { agent_only, .. }, Some(deadline)) => Self::reboot(deadline, agent_only),
            _ => self,
        }
    }

    /// A client wants it stopped.
    pub fn is_stop(self) -> bool {
        matches!(self, Self::Stop { .. } | Self::Off { by_client: true })
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
