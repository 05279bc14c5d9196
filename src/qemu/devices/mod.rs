//! The devices of a VM, one JSON value each: the same value goes behind `-device` on the command line and into
//! `device_add` on a running VM, so a device is described once. Addresses are fixed, because a guest names its
//! disks and NICs by them and a device that came later must not move the others.

mod cdrom;
mod chardev;
mod disk;
mod files;
mod memory;
mod nic;
mod platform;
mod root_ports;
mod seed;

pub use cdrom::{CDROM_ID, cdrom, cdrom_blockdev, cdrom_file, cdrom_nodes, first_cdrom_blockdev};
pub use chardev::{agent_channel, serial};
pub use disk::{blockdev, blockdev_by_path, device_id, disk, node_name, throttle, throttle_id};
pub use files::{FileUse, HostFile, disk_files, files, log_file, set_of};
pub use memory::{VIRTIO_MEM_ID, hotplug_size, memory, memory_argument, requested_size};
pub use nic::{netdev, netdev_id, nic};
pub use platform::{BALLOON_ID, objects, platform};
pub use root_ports::root_ports;
pub use seed::{seed, seed_blockdev};

use crate::model::{Bus, VmSpec};

/// Slots on the root bus. 0x1 is the PIIX3 on `pc`, 0x1f the ICH9 on `q35`; 0x10 and up hold the root ports.
mod slot {
    pub const ROOT_DISK: u8 = 0x2;
    pub const FIRST_NIC: u8 = 0x3;
    pub const VIRTIO_SERIAL: u8 = 0x4;
    pub const BALLOON: u8 = 0x5;
    pub const RNG: u8 = 0x6;
    pub const PVPANIC: u8 = 0x7;
    pub const VIRTIO_MEM: u8 = 0x8;
    pub const SEED: u8 = 0x9;
    pub const ROOT_PORTS: u8 = 0x10;
}

/// Name of the root bus.
fn root_bus(spec: &VmSpec) -> &'static str {
    match spec.machine.bus {
        Bus::Pcie { .. } => "pcie.0",
        Bus::Pci => "pci.0",
    }
}

/// Bus and address of a hot-plug slot, numbered from 1: a root port's only place, or a late slot of `pci.0`.
fn hotplug_slot(number: u8, spec: &VmSpec) -> (String, String) {
    match spec.machine.bus {
        Bus::Pcie { .. } => (root_ports::id(number), address(0)),
        Bus::Pci => ("pci.0".to_owned(), address(slot::ROOT_PORTS + number - 1)),
    }
}

fn address(slot: u8) -> String {
    format!("{slot:#x}")
}
