//! Switches and NICs as values, for tests that give them to `net` without a daemon; and whether a frame arrives.

use std::net::Ipv4Addr;

use qherd::model::{Nic, Switch, SwitchKind, SwitchPort};

use super::netns::{Guest, arp};

pub fn switch(kind: SwitchKind) -> Switch {
    Switch::new("lan", kind)
}

pub fn nic(port: SwitchPort) -> Nic {
    Nic::on(port)
}

pub fn nic_on(switch: &Switch, address: Option<Ipv4Addr>) -> Nic {
    nic(SwitchPort { address, ..SwitchPort::on(switch.id) })
}

/// Whether `frame` from one guest reaches the other: one that is known to pass is sent after it.
pub async fn arrives(from: &Guest, own: [u8; 4], to: &Guest, frame: &[u8]) -> bool {
    static SERIAL: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
    let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let marker = arp(from.mac, from.mac, own, [192, 0, 2, serial]);
    from.send(frame);
    from.send(&marker);
    let seen = to.until(|seen| seen.starts_with(&marker)).await;
    seen.iter().any(|seen| seen.starts_with(frame))
}
