//! How this dialect tells what a VM is doing (ruling 26): fewer states than there are statuses, and what they leave out
//! in `Health`.

use schemars::JsonSchema;
use serde::Serialize;

use crate::model::{Status, VmView};

/// The states of the dialect. `Saved` and `Saving` are for VMs that are saved to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum State {
    Off,
    Starting,
    Running,
    Paused,
    /// Halted by an I/O or internal error.
    PausedCritical,
    Stopping,
}

impl State {
    pub fn of(view: &VmView) -> Self {
        match Self::from(view.status) {
            Self::Paused if view.critical => Self::PausedCritical,
            state => state,
        }
    }
}

impl From<Status> for State {
    fn from(status: Status) -> Self {
        match status {
            Status::Stopped | Status::Crashed => Self::Off,
            Status::Starting => Self::Starting,
            Status::Running | Status::Rebooting | Status::Unresponsive => Self::Running,
            Status::Paused => Self::Paused,
            Status::Stopping => Self::Stopping,
        }
    }
}

/// `Ok`, or what the state does not say, with the reason.
pub fn health(view: &VmView) -> String {
    let health = match view.status {
        Status::Stopped | Status::Starting | Status::Running | Status::Paused | Status::Stopping => None,
        Status::Rebooting => Some("the guest is rebooting"),
        Status::Crashed => Some("crashed"),
        Status::Unresponsive => Some("unresponsive"),
    };
    match (health, view.reason()) {
        (None, None) => "Ok".to_owned(),
        (Some(health), None) => health.to_owned(),
        (None, Some(reason)) => reason,
        (Some(health), Some(reason)) => format!("{health}: {reason}"),
    }
}

/// `hh:mm:ss`, from a day on `d.hh:mm:ss`.
pub fn uptime(seconds: u64) -> String {
    let (days, hours, minutes, seconds) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let clock = format!("{hours:02}:{minutes:02}:{seconds:02}");
    if days == 0 { clock } else { format!("{days}.{clock}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_counts_days_apart() {
        for (seconds, text) in [
            (0, "00:00:00"),
            (312, "00:05:12"),
            (86_399, "23:59:59"),
            (86_400, "1.00:00:00"),
            (123 * 86_400 + 3_661, "123.01:01:01"),
        ] {
            assert_eq!(uptime(seconds), text);
        }
    }
}
