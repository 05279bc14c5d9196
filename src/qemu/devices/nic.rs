//! NICs.

use serde_json::{Value, json};

use super::{address, hotplug_slot, root_bus, slot};
use crate::model::{Forward, Nic, NicBackend, Protocol, VmSpec};

/// QEMU's id of the host's side.
pub fn netdev_id(nic: &Nic) -> String {
    format!("{}-host", nic.name)
}

/// The host's side, with the descriptors that it is handed: numbers that QEMU inherits, or names that `getfd` gave them. A NIC on a
/// switch takes one for each queue of its tap device. One on the user-mode network takes a listening socket, by its number alone, where
/// somebody else carries it: who that is may be exchanged, and the guest sees nothing of it (docs/adr/0037).
pub fn netdev(nic: &Nic, descriptors: &[String]) -> Value {
    match (&nic.backend, descriptors) {
        (NicBackend::User { .. }, [listener, ..]) => {
            json!({ "type": "stream", "id": netdev_id(nic), "server": true, "addr": { "type": "fd", "str": listener } })
        }
        (NicBackend::User { forwards }, []) => {
            let mut netdev = json!({ "type": "user", "id": netdev_id(nic) });
            if !forwards.is_empty() {
                netdev["hostfwd"] = forwards.iter().map(|f| json!({ "str": forward(f) })).collect();
            }
            netdev
        }
        (NicBackend::Switch(_), tap) => {
            let mut netdev = json!({ "type": "tap", "id": netdev_id(nic), "vhost": false });
            match tap {
                [only] => netdev["fd"] = only.as_str().into(),
                many => netdev["fds"] = many.join(":").into(),
            }
            netdev
        }
    }
}

/// As qemu(1) has it: `tcp:127.0.0.1:2222-:22`.
fn forward(forward: &Forward) -> String {
    let protocol = match forward.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{protocol}:{}:{}-:{}", forward.host_address, forward.host_port, forward.guest_port)
}

/// The NIC. Without its boot ROM: nothing boots from the network here, and loading it costs start time.
pub fn nic(nic: &Nic, spec: &VmSpec) -> Value {
    let (bus, addr) = match nic.slot {
        None => (root_bus(spec).to_owned(), address(slot::FIRST_NIC)),
        Some(number) => hotplug_slot(number, spec),
    };
    let mut device = json!({
        "driver": "virtio-net-pci", "id": nic.name, "netdev": netdev_id(nic), "mac": nic.mac, "romfile": "",
        "bus": bus, "addr": addr,
    });
    if nic.queues > 1 {
        // One vector for each queue, one for changes of the configuration, one for the control queue.
        device["mq"] = true.into();
        device["vectors"] = (2 * u32::from(nic.queues) + 2).into();
    }
    device
}
