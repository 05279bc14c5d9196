//! The definition of the VM that a history is about.

use std::sync::{Arc, OnceLock};

use qherd::model::{
    Autostart, MacAddr, NewDisk, NewNic, NicBackend, NicId, OnIoError, Policy, RestartPolicy, SwitchId, SwitchPort,
    VmSpec,
};
use serde_json::json;
use uuid::Uuid;

use super::history::History;

fn plain() -> &'static VmSpec {
    static PLAIN: OnceLock<VmSpec> = OnceLock::new();
    PLAIN.get_or_init(|| {
        let machine = json!({
            "profile": "q35", "machine_type": "pc-q35-7.2", "bus": { "kind": "pcie", "hotplug_ports": 8 },
            "rng": true, "balloon": true, "pvpanic": true, "virtio_mem": true,
        });
        let root = json!({
            "name": "root", "layer": Uuid::nil(), "file": "/i/root.qcow2", "size": 1, "clone": "linked", "base": null,
            "io_limits": null,
        });
        let spec = json!({
            "id": "1b2c3d4e-5f60-4b7c-9d8e-9fa0b1c2d3e4", "name": "a", "created_at": 0, "machine": machine, "vcpus": 2,
            "max_vcpus": 4, "max_vcpus_given": false, "memory": 64, "max_memory": 512, "max_memory_given": true,
            "cpu_pinning": null, "disks": [root], "nics": [], "nics_added": 0,
        });
        serde_json::from_value(spec).expect("a definition")
    })
}

/// As a client has asked for it.
pub fn definition(history: &History) -> Arc<VmSpec> {
    let mut spec = plain().clone();
    spec.policy = policy(history.policy);
    for number in 0..history.disks {
        spec.add_disk(new_disk(u64::from(number)), "/i".as_ref(), None).expect("a slot");
    }
    for number in 0..history.switches {
        spec.add_nic(nic(u64::from(number), true), None).expect("a slot");
    }
    Arc::new(spec)
}

pub fn policy(number: u8) -> Policy {
    Policy {
        restart: [RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::Always][usize::from(number % 3)],
        max_restarts: number.is_multiple_of(2).then_some(2),
        autostart: Autostart { enabled: number.is_multiple_of(4), ..Autostart::default() },
        on_io_error: [OnIoError::Pause, OnIoError::Retry, OnIoError::Report][usize::from(number / 4 % 3)],
    }
}

/// What a request of this number is known by.
pub fn request(number: u64) -> Uuid {
    Uuid::from_u128(0x1000_4000_8000_0000_0000 + u128::from(number))
}

pub fn new_disk(number: u64) -> NewDisk {
    let (request, layer) = (Some(request(number)), request(number).into());
    NewDisk { request, layer, file: None, size: 1, base: None, clone: Default::default(), io_limits: None }
}

pub fn nic(number: u64, on_switch: bool) -> NewNic {
    let mac = format!("52:54:00:00:{:02x}:{:02x}", number / 256 % 256, number % 256);
    let switch = SwitchId::from(request(7));
    let backend = if on_switch {
        NicBackend::Switch(SwitchPort {
            switch,
            address: None,
            allow_spoofing: false,
            max_addresses: None,
            isolated: false,
            vlan: None,
            trunk: Vec::new(),
            bandwidth: Default::default(),
        })
    } else {
        NicBackend::User { forwards: Vec::new() }
    };
    NewNic {
        id: NicId::from(request(1_000 + number)),
        label: format!("nic{number}"),
        mac: MacAddr::parse(&mac).expect("a MAC address"),
        queues: if number % 3 == 2 && on_switch { 2 } else { 1 },
        backend,
    }
}
