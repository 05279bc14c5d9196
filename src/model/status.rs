//! What a VM is doing, in one word.

use serde::{Deserialize, Serialize};

/// The status of ruling 22.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Stopped,
    Starting,
    Running,
    Paused,
    Stopping,
    Rebooting,
    /// The process ended unasked, or the guest panicked.
    Crashed,
    /// The process lives, its monitor does not answer.
    Unresponsive,
}

impl Status {
    pub const ALL: [Self; 8] = [
        Self::Stopped,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Rebooting,
        Self::Crashed,
        Self::Unresponsive,
    ];

    /// As it is written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Rebooting => "rebooting",
            Self::Crashed => "crashed",
            Self::Unresponsive => "unresponsive",
        }
    }
}
