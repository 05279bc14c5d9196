//! An interface as the kernel tells of it.

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo,
        LinkLayerType, Stats64,
    },
};

use super::{
    bridge::{of_bridge, of_port},
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
    /// What it would have to be told to be a bridge of ours.
    pub bridge: Vec<InfoBridge>,
    /// Of a bridge, where the kernel can keep VLANs apart.
    pub filtering: Option<Filtering>,
    /// What it would have to be told to be a port of one of ours, beside whether it is isolated.
    pub port: Vec<InfoBridgePort>,
    /// As a port of a bridge it reaches no other isolated one.
    pub isolated: bool,
    /// How what it sends is queued.
    pub queue: Option<String>,
    /// In bytes per second, where its queue keeps to one and somebody asked ([`super::Netlink::rates`]).
    pub rate: Option<u64>,
    pub stats: Option<Stats64>,
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
        bridge: Vec::new(),
        filtering: None,
        port: Vec::new(),
        isolated: false,
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
    /// What it is to be told to be a port of the bridge of this index, isolated or not. One that is no port of it yet will be
    /// as every new one is.
    pub fn to_be_told(&self, bridge: u32, isolated: bool) -> Vec<InfoBridgePort> {
        let is_port = self.master == Some(bridge);
        let mut settings = if is_port { self.port.clone() } else { Vec::new() };
        if (is_port && self.isolated) != isolated {
            settings.push(InfoBridgePort::Isolated(isolated));
        }
        settings
    }

    fn learn(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind),
            LinkInfo::Data(InfoData::Bridge(settings)) => self.bridge = of_bridge(&settings),
            LinkInfo::PortData(InfoPortData::BridgePort(settings)) => {
                self.port = of_port(&settings, self.up && self.carrier);
                self.isolated = settings.contains(&InfoBridgePort::Isolated(true));
            }
            _ => {}
        }
    }
}
