//! Network cards.

use serde_json::{Value, json};

use super::{address, root_bus, slot};
use crate::model::{Nic, NicBackend, VmSpec};

fn netdev_id(nic: &Nic) -> String {
    format!("{}-host", nic.name)
}

/// The host's side.
pub fn netdev(nic: &Nic) -> Value {
    match nic.backend {
        NicBackend::User => json!({ "type": "user", "id": netdev_id(nic) }),
    }
}

/// The card. Without its boot ROM: nothing boots from the network here, and loading it costs start time.
pub fn nic(nic: &Nic, index: usize, spec: &VmSpec) -> Value {
    json!({
        "driver": "virtio-net-pci", "id": nic.name, "netdev": netdev_id(nic), "mac": nic.mac, "romfile": "",
        "bus": root_bus(spec), "addr": address(slot::FIRST_NIC + index as u8),
    })
}
