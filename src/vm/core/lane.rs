//! What a step is about. Each has a lane of its own, and lanes run side by side.

use serde::{Deserialize, Serialize};

use crate::model::NicId;

/// The number of a disk, which is never used again: 0 is the root disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiskNo(pub u32);

impl DiskNo {
    /// By its name, `root` or `disk1`…
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "root" => Some(Self(0)),
            other => other.strip_prefix("disk")?.parse().ok().filter(|number| *number > 0).map(Self),
        }
    }

    pub fn name(self) -> String {
        if self.0 == 0 { "root".to_owned() } else { format!("disk{}", self.0) }
    }
}

/// What has one step at a time. Lanes run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Store,
    /// Waits for nothing, and nothing waits for it.
    Kill,
    Strays,
    Power,
    Monitor,
    /// Questions that change nothing.
    Look,
    Agent,
    Files,
    RunFiles,
    Disk(DiskNo),
    Nic(NicId),
    Vcpus,
    Pin,
    Memory,
    MemoryLook,
    Medium,
}
