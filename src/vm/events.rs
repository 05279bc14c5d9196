//! What QEMU's events mean to the core.

use super::{
    core::{Device, DiskNo, Facts, Sight},
    perform::{Hands, IoError},
};
use crate::qmp::Event;

/// QEMU's id of the guest agent's port.
const AGENT_PORT: &str = "agent-port";
/// What QEMU's ids of hot-added vCPUs begin with.
const VCPU: &str = "vcpu";

/// What the core is to know of an event; nothing of most.
pub(super) fn sight(facts: &Facts, hands: &Hands, event: Event) -> Option<Sight> {
    match event {
        Event::Reset { .. } => Some(Sight::Reset),
        // Why it halts is looked at: a guest that has powered off or panicked is halted as well, and no QEMU is told to
        // quit for an event that something may have overtaken.
        Event::Stop => Some(Sight::Halted),
        Event::Resume => Some(Sight::Resumed),
        Event::DeviceDeleted { device: Some(id), .. } if id.starts_with(VCPU) => Some(Sight::VcpuDeleted),
        Event::DeviceDeleted { device: Some(id), .. } => device(facts, &id).map(Sight::Deleted),
        Event::DeviceUnplugGuestError { device: Some(id), .. } => device(facts, &id).map(Sight::Kept),
        Event::VserportChange { id, open } if id == AGENT_PORT => Some(Sight::Agent(open)),
        Event::BalloonChange { .. } | Event::MemoryDeviceSizeChange { .. } => {
            hands.memory_has_changed();
            Some(Sight::MemoryMoved)
        }
        // A halt that follows is explained with it.
        Event::BlockIoError { device, node_name, nospace, operation, .. } => {
            let error = IoError::of(&node_name.unwrap_or(device), nospace);
            let disk = error.disk.clone();
            hands.set_io_error(Some(error));
            Some(Sight::IoError { disk, operation, no_space: nospace })
        }
        Event::Watchdog { action } => Some(Sight::Watchdog(action)),
        _ => None,
    }
}

/// By QEMU's id of it.
fn device(facts: &Facts, id: &str) -> Option<Device> {
    if let Some(no) = id.strip_prefix("disk-").and_then(DiskNo::of) {
        return Some(Device::Disk(no));
    }
    let up = facts.up()?;
    let nics = up.in_effect.nics.iter().chain(facts.record.run.held.ports.values().map(|nic| &**nic));
    nics.into_iter().find(|nic| nic.name == id).map(|nic| Device::Nic(nic.id))
}
