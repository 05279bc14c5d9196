//! Switches and NICs as values, for the tests of this layer.

use crate::model::{MacAddr, Nic, NicBackend, NicId, Switch, SwitchId, SwitchKind, SwitchPort};

pub fn switch(kind: SwitchKind) -> Switch {
    Switch {
        id: SwitchId::random(),
        name: "lan".into(),
        created_at: 0,
        kind,
        notes: String::new(),
        mtu: None,
        forwards: Vec::new(),
    }
}

pub fn nic(port: SwitchPort) -> Nic {
    Nic {
        id: NicId::random(),
        name: "net0".into(),
        label: "a".into(),
        mac: MacAddr::random(),
        slot: None,
        queues: 1,
        backend: NicBackend::Switch(port),
    }
}
