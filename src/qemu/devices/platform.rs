//! Small devices that a profile switches on: random numbers, the balloon, the panic notifier.

use serde_json::{Value, json};

use super::{address, root_bus, slot};
use crate::model::VmSpec;

/// QEMU's id of the balloon device; its statistics are read at `/machine/peripheral/<id>`.
pub const BALLOON_ID: &str = "balloon0";

/// Objects that devices refer to.
pub fn objects(spec: &VmSpec) -> Vec<Value> {
    if spec.machine.rng { vec![json!({ "qom-type": "rng-builtin", "id": "rng0-source" })] } else { Vec::new() }
}

/// The devices themselves.
pub fn platform(spec: &VmSpec) -> Vec<Value> {
    let machine = &spec.machine;
    let bus = root_bus(spec);
    let mut devices = Vec::new();
    if machine.balloon {
        // Without deflate-on-oom a guest under memory pressure panics instead of taking its memory back.
        devices.push(json!({
            "driver": "virtio-balloon-pci", "id": BALLOON_ID, "deflate-on-oom": true,
            "bus": bus, "addr": address(slot::BALLOON),
        }));
    }
    if machine.rng {
        devices.push(json!({
            "driver": "virtio-rng-pci", "id": "rng0", "rng": "rng0-source", "bus": bus, "addr": address(slot::RNG),
        }));
    }
    if machine.pvpanic {
        devices.push(json!({ "driver": "pvpanic-pci", "id": "pvpanic0", "bus": bus, "addr": address(slot::PVPANIC) }));
    }
    devices
}
