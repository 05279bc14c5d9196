//! Requests to the kernel's rtnetlink: links, addresses, routes. It passes on what the kernel says; what is ours, it does
//! not know.

use std::{io, net::IpAddr};

use futures_util::StreamExt;
use rtnetlink::{
    LinkBridge, LinkMessageBuilder, LinkUnspec,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, Stats64},
        route::RouteMessage,
    },
    sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

use super::NetError;

/// Groups of events (linux/rtnetlink.h): links, IPv4 addresses, IPv6 addresses.
const GROUPS: [u32; 3] = [1, 5, 9];

/// A connection to the kernel, in the network namespace of whoever opened it.
#[derive(Clone)]
pub struct Netlink(rtnetlink::Handle);

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
    pub loopback: bool,
    pub ethernet: bool,
    pub kind: Option<InfoKind>,
    pub stats: Option<Stats64>,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// The kernel checks the right to change anything before it looks at what is to be changed.
    pub async fn may_change(&self) -> bool {
        let nothing = LinkUnspec::new_with_name("qherd-nothing").build();
        let answer = self.ask(RouteNetlinkMessage::DelLink(nothing), NLM_F_ACK).await;
        !matches!(answer, Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }

    async fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut answers = self.0.clone().request(request).map_err(|e| io::Error::other(e.to_string()))?;
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => found.push(message),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Every interface.
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        let all = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP).await;
        let all = all.map_err(|e| NetError::failed("list the interfaces of the host", e))?;
        Ok(all.into_iter().filter_map(link).collect())
    }

    /// The interface of this name, if there is one.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        let wanted = LinkUnspec::new_with_name(name).build();
        match self.ask(RouteNetlinkMessage::GetLink(wanted), 0).await {
            Ok(found) => Ok(found.into_iter().find_map(link)),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(NetError::failed(format!("look at the interface {name}"), error)),
        }
    }

    pub async fn add_bridge(&self, name: &str, mac: &[u8]) -> io::Result<()> {
        let bridge = LinkBridge::new(name).address(mac.to_vec()).build();
        self.ask(RouteNetlinkMessage::NewLink(bridge), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).await.map(drop)
    }

    /// Changes an interface in one request.
    pub async fn set(
        &self,
        index: u32,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> io::Result<()> {
        let message = change(LinkUnspec::new_with_index(index)).build();
        self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).await.map(drop)
    }

    /// Removes an interface; one that is gone already is no error.
    pub async fn remove(&self, index: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).build();
        gone(self.ask(RouteNetlinkMessage::DelLink(message), NLM_F_ACK).await, &[nix::libc::ENODEV])
    }

    /// Addresses of all interfaces, in the kernel's order.
    pub async fn addresses(&self) -> Result<Vec<AddressMessage>, NetError> {
        let all = self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP).await;
        let all = all.map_err(|e| NetError::failed("list the addresses of the host", e))?;
        let address = |message| match message {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        };
        Ok(all.into_iter().filter_map(address).collect())
    }

    /// Adds an address; one that is there already is no error.
    pub async fn add_address(&self, address: AddressMessage) -> io::Result<()> {
        let added = self.ask(RouteNetlinkMessage::NewAddress(address), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).await;
        gone(added, &[nix::libc::EEXIST])
    }

    /// Removes an address; one that is gone already is no error.
    pub async fn remove_address(&self, address: AddressMessage) -> io::Result<()> {
        let removed = self.ask(RouteNetlinkMessage::DelAddress(address), NLM_F_ACK).await;
        gone(removed, &[nix::libc::EADDRNOTAVAIL, nix::libc::ENODEV])
    }

    /// Routes of all tables.
    pub async fn routes(&self) -> Result<Vec<RouteMessage>, NetError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut wanted = RouteMessage::default();
            wanted.header.address_family = family;
            let all = self.ask(RouteNetlinkMessage::GetRoute(wanted), NLM_F_DUMP).await;
            let all = all.map_err(|e| NetError::failed("list the routes of the host", e))?;
            routes.extend(all.into_iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => Some(route),
                _ => None,
            }));
        }
        Ok(routes)
    }

    /// Puts a route in the place of one with the same destination and metric, at once: there is no moment without.
    pub async fn replace_route(&self, route: RouteMessage) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewRoute(route), flags).await.map(drop)
    }

    /// Removes a route; one that is gone already is no error.
    pub async fn remove_route(&self, route: RouteMessage) -> io::Result<()> {
        let removed = self.ask(RouteNetlinkMessage::DelRoute(route), NLM_F_ACK).await;
        gone(removed, &[nix::libc::ESRCH, nix::libc::ENODEV])
    }
}

/// Events of links and addresses. Their content is not looked at: whoever follows them looks at the whole anyway, and
/// so an overrun loses nothing.
pub struct Events(TokioSocket);

impl Events {
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.socket_mut().add_membership(group)?;
        }
        Ok(Self(socket))
    }

    /// Returns when something has happened, also when so much happened that the kernel lost count.
    pub async fn next(&self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(64 << 10);
        match self.0.recv(&mut buffer).await {
            Err(error) if error.raw_os_error() != Some(nix::libc::ENOBUFS) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The address itself of an address message.
pub fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // Of a point-to-point link, `Address` is the other end.
    find(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None })
        .or_else(|| find(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None }))
}

fn gone<T>(result: io::Result<T>, fine: &[i32]) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error().is_some_and(|code| fine.contains(&code)) => Ok(()),
        other => other.map(drop),
    }
}

fn link(message: RouteNetlinkMessage) -> Option<Link> {
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
        loopback: header.flags.contains(LinkFlags::Loopback),
        ethernet: header.link_layer_type == LinkLayerType::Ether,
        kind: None,
        stats: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Stats64(stats) => link.stats = Some(stats),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(link)
}
