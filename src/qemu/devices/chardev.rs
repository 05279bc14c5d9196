//! Devices that a character device feeds: the serial console and the guest agent's channel.

use serde_json::{Value, json};

use super::{address, root_bus, slot};
use crate::model::VmSpec;

/// The first serial port; every firmware and kernel can write to it.
pub fn serial(chardev: &str) -> Value {
    json!({ "driver": "isa-serial", "id": "com1", "chardev": chardev })
}

/// A virtio-serial bus with the port that qemu-ga listens on.
pub fn agent_channel(chardev: &str, spec: &VmSpec) -> [Value; 2] {
    [
        json!({
            "driver": "virtio-serial-pci", "id": "virtio-serial0",
            "bus": root_bus(spec), "addr": address(slot::VIRTIO_SERIAL),
        }),
        json!({
            "driver": "virtserialport", "id": "agent-port", "bus": "virtio-serial0.0",
            "chardev": chardev, "name": "org.qemu.guest_agent.0",
        }),
    ]
}
