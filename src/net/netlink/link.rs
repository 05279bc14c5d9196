//! An interface as the kernel tells of it, and the options of bridges and their ports.

use rtnetlink::{
    LinkBridge, LinkBridgePort, LinkMessageBuilder,
    packet_route::{
        RouteNetlinkMessage,
        link::{
            InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo,
            LinkLayerType, LinkMessage, Stats64,
        },
    },
};

use super::{
    nameless,
    vlans::{Filtering, filtering},
};

/// An interface of the host.
#[derive(Clone, Debug)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub alias: Option<String>,
    pub mac: Vec<u8>,
    pub mtu: u32,
    /// Index of the bridge, bond… that it belongs to.
    pub master: Option<u32>,
    pub up: bool,
    /// It neither asks for the addresses of others nor answers for its own.
    pub mute: bool,
    /// Somebody is at the other end; of a bridge, one of its ports has it.
    pub carrier: bool,
    pub loopback: bool,
    pub ethernet: bool,
    pub kind: Option<InfoKind>,
    /// Of a bridge.
    pub bridge: BridgeOptions,
    /// Of a bridge, where the kernel can keep VLANs apart.
    pub filtering: Option<Filtering>,
    /// Of a port of a bridge.
    pub port: PortOptions,
    /// How what it sends is queued.
    pub queue: Option<String>,
    /// In bytes per second, where its queue keeps to one and somebody asked ([`super::Netlink::rates`]).
    pub rate: Option<u64>,
    pub stats: Option<Stats64>,
}

/// What of a bridge is not as every bridge is by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeOptions {
    /// It learns who wants which multicast; without anybody who asks, it forgets, and drops what is wanted.
    pub snooping: bool,
}

impl BridgeOptions {
    pub(super) fn on(self, message: LinkMessageBuilder<LinkBridge>) -> LinkMessageBuilder<LinkBridge> {
        message.mcast_snooping(self.snooping)
    }

    pub(super) fn change(self, index: u32) -> LinkMessage {
        nameless(self.on(LinkMessageBuilder::<LinkBridge>::new("")).index(index).build())
    }
}

/// What of a port of a bridge is not as every port is by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortOptions {
    /// It reaches no other isolated port.
    pub isolated: bool,
}

impl PortOptions {
    pub(super) fn change(self, index: u32) -> LinkMessage {
        LinkBridgePort::new(index).isolated(self.isolated).up().build()
    }
}

/// Nothing for a message that tells of no interface.
pub fn read(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let header = &message.header;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        alias: None,
        mac: Vec::new(),
        mtu: 0,
        master: None,
        up: header.flags.contains(LinkFlags::Up),
        mute: header.flags.contains(LinkFlags::Noarp),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        loopback: header.flags.contains(LinkFlags::Loopback),
        ethernet: header.link_layer_type == LinkLayerType::Ether,
        kind: None,
        bridge: BridgeOptions::default(),
        filtering: None,
        port: PortOptions::default(),
        queue: None,
        rate: None,
        stats: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Qdisc(queue) => link.queue = Some(queue),
            LinkAttribute::Stats64(stats) => link.stats = Some(stats),
            LinkAttribute::LinkInfo(infos) => {
                link.filtering = filtering(&infos);
                infos.into_iter().for_each(|info| link.learn(info));
            }
            _ => {}
        }
    }
    Some(link)
}

impl Link {
    fn learn(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind),
            LinkInfo::Data(InfoData::Bridge(options)) => {
                for option in options {
                    if let InfoBridge::MulticastSnooping(on) = option {
                        self.bridge.snooping = on;
                    }
                }
            }
            LinkInfo::PortData(InfoPortData::BridgePort(options)) => {
                for option in options {
                    if let InfoBridgePort::Isolated(on) = option {
                        self.port.isolated = on;
                    }
                }
            }
            _ => {}
        }
    }
}
