//! PCI Express root ports: `pcie.0` itself takes no hot-plug, a port does.

use serde_json::{Value, json};

use super::slot;

/// QEMU's id of a port, numbered from 1.
pub fn id(number: u8) -> String {
    format!("rp{number}")
}

/// `count` ports `rp1`…, eight to a slot as functions of one device, so that they do not use up the bus.
pub fn root_ports(count: u8) -> impl Iterator<Item = Value> {
    (0..count).map(|i| {
        let (slot, function) = (slot::ROOT_PORTS + i / 8, i % 8);
        json!({
            "driver": "pcie-root-port", "id": id(i + 1), "bus": "pcie.0", "chassis": i + 1, "port": i,
            "addr": format!("{slot:#x}.{function:#x}"), "multifunction": function == 0,
        })
    })
}
