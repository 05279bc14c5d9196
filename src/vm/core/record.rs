//! What is stored of a VM.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Ms, goal::Goal, held::Held, lane::DiskNo, reported::Reported};
use crate::model::{Ending, FailedStart, ProcessId, Sandbox, Upkeep, VmSpec};

/// What is stored of a VM: `vm/<id>` and `run/<id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// As its owner wants it.
    pub definition: Arc<VmSpec>,
    pub run: RunRecord,
}

/// The bookkeeping of a VM, apart from its definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    pub state: Run,
    pub goal: Goal,
    pub upkeep: Upkeep,
    pub held: Held,
    /// Disks of the definition whose image is not made yet.
    #[serde(default)]
    pub unmade: BTreeSet<DiskNo>,
    /// What is told of it, with the batch that this was stored in.
    #[serde(default)]
    pub reported: Reported,
    /// The guest's file systems may be frozen: when they thaw, by the clock of the host's boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Ms>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_start: Option<Arc<FailedStart>>,
}

/// How far its run has come. Every value is one that a crash can leave behind; [`super::recover()`] has an answer to each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Run {
    /// Its disks are being made; nobody knows that it exists.
    Making {
        /// It exists once it runs.
        start: bool,
    },
    /// No process.
    Down {
        last: Ending,
    },
    /// A process may have been spawned; its guest may not have run yet, and nobody knows that it does.
    Starting {
        process: Option<ProcessId>,
        /// It is being created as well: nobody knows that it exists.
        new: bool,
        /// What it was before.
        last: Ending,
    },
    Up(Box<Up>),
}

/// A VM that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Up {
    pub process: ProcessId,
    /// Milliseconds since 1970.
    pub started_at: u64,
    /// What QEMU has; differs from the definition by what is under way and by what takes effect at the next start.
    pub in_effect: Arc<VmSpec>,
    /// MiB that QEMU was started with; what is above comes through virtio-mem, what is below through the balloon.
    pub boot_memory: u64,
    /// MiB that its virtio-mem can add to that.
    pub hotplug_memory: u64,
    /// What it was started in; `None` of one that an earlier version started.
    #[serde(default)]
    pub sandbox: Option<Sandbox>,
    /// vCPUs that this QEMU has ever had, once it has lost one: an emulating QEMU can make only so many.
    #[serde(default)]
    pub vcpus_made: u32,
    /// As it was last seen: a daemon that comes later shows it until it knows better.
    pub guest: Guest,
}

/// Whether a guest executes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "guest")]
pub enum Guest {
    Running,
    Paused {
        reason: Option<String>,
        /// By an I/O or internal error.
        critical: bool,
    },
}

impl RunRecord {
    /// Of a VM of which nothing else is to be known.
    pub fn new(state: Run, goal: Goal) -> Self {
        let (upkeep, held) = (Upkeep::default(), Held::default());
        let reported = Reported::default();
        Self { state, goal, upkeep, held, unmade: BTreeSet::new(), reported, frozen: None, failed_start: None }
    }

    pub fn up(&self) -> Option<&Up> {
        match &self.state {
            Run::Up(up) => Some(up),
            Run::Making { .. } | Run::Down { .. } | Run::Starting { .. } => None,
        }
    }

    pub fn is_down(&self) -> bool {
        matches!(self.state, Run::Down { .. })
    }
}
