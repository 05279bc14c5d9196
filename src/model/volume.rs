//! Volumes: disks that outlive their VMs. A volume is a layer that owns itself, with a name for people; its id is the layer's.

use serde::{Deserialize, Serialize};

/// What a layer says of itself that is a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Need not be unique.
    pub name: String,
    /// Milliseconds since 1970.
    pub created_at: u64,
}
