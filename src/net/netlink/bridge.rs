//! The settings of a bridge and of its ports: all by which one of ours could do otherwise than to lead frames between its ports,
//! with the value that it is to have. What a kernel does not tell of, it does not have, and is not asked for. VLANs are `vlans`'
//! matter.

use std::mem::discriminant;

use rtnetlink::{
    LinkBridge, LinkBridgePort, LinkMessageBuilder,
    packet_route::link::{BridgePortState, BridgeStpState, InfoBridge, InfoBridgePort, LinkMessage, VlanProtocol},
};

use super::nameless;

const BRIDGE: [InfoBridge; 11] = [
    // Without anybody who asks who wants which multicast, a bridge that learns it forgets, and drops what is wanted.
    InfoBridge::MulticastSnooping(false),
    // It says nothing by itself, to guests or to the network of its adapter.
    InfoBridge::MulticastQuerier(false),
    InfoBridge::StpState(BridgeStpState::Disabled),
    InfoBridge::GroupFwdMask(0),
    InfoBridge::GroupAddr([1, 0x80, 0xc2, 0, 0, 0]),
    // Hundredths of a second: one that forgets at once where a MAC address is sends every frame to every port.
    InfoBridge::AgeingTime(30_000),
    InfoBridge::FdbMaxLearned(0),
    // Frames are not filtered as if the host routed them.
    InfoBridge::NfCallIpTables(false),
    InfoBridge::NfCallIp6Tables(false),
    InfoBridge::NfCallArpTables(false),
    InfoBridge::VlanProtocol(VlanProtocol::Ieee8021Q),
];

/// As every new port is, beside whether it is isolated.
const PORT: [InfoBridgePort; 18] = [
    // What comes from it does not go back to it.
    InfoBridgePort::HairpinMode(false),
    // The bridge knows who is behind it, and leads there what is for nobody whom it knows.
    InfoBridgePort::Learning(true),
    InfoBridgePort::UnicastFlood(true),
    InfoBridgePort::MulticastFlood(true),
    InfoBridgePort::BroadcastFlood(true),
    InfoBridgePort::MulticastToUnicast(false),
    InfoBridgePort::FastLeave(false),
    InfoBridgePort::GroupFwdMask(0),
    InfoBridgePort::Locked(false),
    InfoBridgePort::Mab(false),
    InfoBridgePort::Guard(false),
    InfoBridgePort::Protect(false),
    // The host does not answer for others.
    InfoBridgePort::ProxyARP(false),
    InfoBridgePort::ProxyARPWifi(false),
    InfoBridgePort::NeighSupress(false),
    InfoBridgePort::NeighVlanSuppress(false),
    InfoBridgePort::VlanTunnel(false),
    InfoBridgePort::BackupPort(0),
];

/// Of a port that is up, and has somebody at its other end.
const LEADS: InfoBridgePort = InfoBridgePort::State(BridgePortState::Forwarding);

/// What a bridge has otherwise, as it is to have it.
pub(super) fn of_bridge(settings: &[InfoBridge]) -> Vec<InfoBridge> {
    let other =
        |wanted: &InfoBridge| settings.iter().any(|is| discriminant(is) == discriminant(wanted) && is != wanted);
    BRIDGE.into_iter().filter(other).collect()
}

/// What a port has otherwise, as it is to have it.
pub(super) fn of_port(settings: &[InfoBridgePort], can_lead: bool) -> Vec<InfoBridgePort> {
    let other =
        |wanted: &InfoBridgePort| settings.iter().any(|is| discriminant(is) == discriminant(wanted) && is != wanted);
    PORT.into_iter().chain(can_lead.then_some(LEADS)).filter(other).collect()
}

/// Gives a bridge settings.
pub(super) fn change_bridge(index: u32, settings: &[InfoBridge]) -> LinkMessage {
    let bridge = LinkMessageBuilder::<LinkBridge>::new("");
    let bridge = settings.iter().cloned().fold(bridge, |bridge, setting| bridge.append_info_data(setting));
    nameless(bridge.index(index).build())
}

/// Gives a port settings, and sets it up.
pub(super) fn change_port(index: u32, settings: Vec<InfoBridgePort>) -> LinkMessage {
    let port = settings.into_iter().fold(LinkBridgePort::new(index), |port, setting| port.append_info_data(setting));
    port.up().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_as_it_is_to_be_and_nothing_that_the_kernel_does_not_know() {
        let is =
            [InfoBridge::StpState(BridgeStpState::KernelStp), InfoBridge::AgeingTime(30_000), InfoBridge::HelloTime(7)];
        assert_eq!(of_bridge(&is), [InfoBridge::StpState(BridgeStpState::Disabled)]);
        let blocked = InfoBridgePort::State(BridgePortState::Blocking);
        let is =
            [InfoBridgePort::Learning(false), InfoBridgePort::Cost(2), blocked, InfoBridgePort::HairpinMode(false)];
        assert_eq!(of_port(&is, false), [InfoBridgePort::Learning(true)]);
        assert_eq!(of_port(&is, true), [InfoBridgePort::Learning(true), LEADS]);
    }
}
