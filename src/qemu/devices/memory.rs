//! Memory: what the VM boots with, and the virtio-mem device that more of it comes through.

use serde_json::{Value, json};

use super::{address, root_bus, slot};
use crate::model::VmSpec;

/// QEMU's id of the virtio-mem device.
pub const VIRTIO_MEM_ID: &str = "vmem0";
/// virtio-mem gives and takes in blocks of 2 MiB.
const BLOCK: u64 = 2;
const MIB: u64 = 1 << 20;

/// MiB that can be added to what the VM boots with.
pub fn hotplug_size(spec: &VmSpec) -> u64 {
    if spec.machine.virtio_mem { spec.max_memory.saturating_sub(spec.memory) / BLOCK * BLOCK } else { 0 }
}

/// The value of `-m`. The region for hot-plug is aligned to 1 GiB inside QEMU, hence the spare room.
pub fn memory_argument(spec: &VmSpec) -> String {
    match hotplug_size(spec) {
        0 => format!("size={}M", spec.memory),
        more => format!("size={}M,slots=1,maxmem={}M", spec.memory, spec.memory.next_multiple_of(BLOCK) + more),
    }
}

/// The backend and the device. Nothing of it is used or reserved on the host before it is asked for.
pub fn memory(spec: &VmSpec) -> Option<(Value, Value)> {
    let size = hotplug_size(spec);
    (size > 0).then(|| {
        let backend =
            json!({ "qom-type": "memory-backend-ram", "id": "vmem0-ram", "size": size * MIB, "reserve": false });
        let device = json!({
            "driver": "virtio-mem-pci", "id": VIRTIO_MEM_ID, "memdev": "vmem0-ram", "requested-size": 0,
            "bus": root_bus(spec), "addr": address(slot::VIRTIO_MEM),
        });
        (backend, device)
    })
}

/// Bytes to ask of virtio-mem for `more` MiB above the boot size: rounded up to whole blocks.
pub fn requested_size(more: u64) -> u64 {
    more.next_multiple_of(BLOCK) * MIB
}
