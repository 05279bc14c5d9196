//! Requests to the kernel's rtnetlink: links, addresses, routes, queues. It passes on what the kernel says; what is ours,
//! it does not know.

mod bridge;
mod events;
mod link;
mod queue;
mod sockets;
mod vlans;

use std::{io, net::IpAddr};

use super::NetError;
pub use events::{Events, News};
pub use link::Link;
pub use queue::{BUCKET, is_queued};
use rtnetlink::{
    LinkBridge, LinkMessageBuilder, LinkUnspec,
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{InfoBridge, InfoBridgePort, LinkAttribute, LinkExtentMask, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage},
    },
};
use sockets::Sockets;
pub use vlans::{Carried, Form};

/// Times that a list is asked for that changes meanwhile.
const LISTINGS: usize = 20;

/// The way to the kernel, in the network namespace of whoever opened it. How long a request may take is decided by whoever
/// asks: one that is given up goes on in the kernel.
pub struct Netlink(Sockets);

impl Netlink {
    pub fn open() -> io::Result<Self> {
        Sockets::open().map(Self)
    }

    /// The kernel checks the right to change anything before it looks at what is to be changed.
    pub async fn may_change(&self) -> bool {
        let nothing = LinkUnspec::new_with_name("qherd-nothing").build();
        let answer = self.ask(RouteNetlinkMessage::DelLink(nothing), NLM_F_ACK).await;
        !matches!(answer, Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Asks for everything of a kind. What changes meanwhile may be in the answer twice or not at all, and then the kernel
    /// says so.
    async fn list(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..LISTINGS {
            match self.ask(message.clone(), NLM_F_DUMP).await {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                listed => return listed,
            }
        }
        Err(io::Error::other("it changes all the time"))
    }

    async fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        self.0.ask(request).await
    }

    /// Every interface, without what has gone through it.
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        self.list_links(without_figures(LinkMessage::default())).await
    }

    /// Every interface, with what has gone through it, which the kernel has to add up.
    pub async fn links_with_figures(&self) -> Result<Vec<Link>, NetError> {
        self.list_links(LinkMessage::default()).await
    }

    async fn list_links(&self, wanted: LinkMessage) -> Result<Vec<Link>, NetError> {
        let all = self.list(RouteNetlinkMessage::GetLink(wanted)).await;
        let all = all.map_err(|e| NetError::failed("list the interfaces of the host", e))?;
        Ok(all.into_iter().filter_map(link::read).collect())
    }

    /// The interface of this name, if there is one.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        let found = self.find(LinkUnspec::new_with_name(name).build()).await;
        found.map_err(|error| NetError::failed(format!("look at the interface {name}"), error))
    }

    /// The interface of this index, if there is one.
    pub async fn link_at(&self, index: u32) -> Result<Option<Link>, NetError> {
        let found = self.find(LinkUnspec::new_with_index(index).build()).await;
        found.map_err(|error| NetError::failed(format!("look at the interface {index}"), error))
    }

    async fn find(&self, wanted: LinkMessage) -> io::Result<Option<Link>> {
        match self.ask(RouteNetlinkMessage::GetLink(without_figures(wanted)), 0).await {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            found => Ok(found?.into_iter().find_map(link::read)),
        }
    }

    /// Makes a bridge that is down.
    pub async fn add_bridge(&self, name: &str, mac: &[u8]) -> io::Result<()> {
        let message = LinkMessageBuilder::<LinkBridge>::new(name).address(mac.to_vec()).mcast_snooping(false).build();
        self.ask(RouteNetlinkMessage::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).await.map(drop)
    }

    /// Gives a bridge settings.
    pub async fn set_bridge(&self, index: u32, settings: &[InfoBridge]) -> io::Result<()> {
        let change = bridge::change_bridge(index, settings);
        self.ask(RouteNetlinkMessage::NewLink(change), NLM_F_ACK).await.map(drop)
    }

    /// Gives a port of a bridge settings, and sets it up.
    pub async fn set_port(&self, index: u32, settings: Vec<InfoBridgePort>) -> io::Result<()> {
        let change = bridge::change_port(index, settings);
        self.ask(RouteNetlinkMessage::NewLink(change), NLM_F_ACK).await.map(drop)
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

    /// Gives an interface another name. Kernels before 6.2 do that only while it is down.
    pub async fn rename(&self, index: u32, name: &str) -> io::Result<()> {
        match self.set(index, |link| link.name(name.to_owned())).await {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
                self.set(index, LinkMessageBuilder::down).await?;
                self.set(index, |link| link.name(name.to_owned())).await
            }
            done => done,
        }
    }

    /// Removes an interface; one that is gone already is no error.
    pub async fn remove(&self, index: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).build();
        gone(self.ask(RouteNetlinkMessage::DelLink(message), NLM_F_ACK).await, &[nix::libc::ENODEV])
    }

    /// Addresses of all interfaces, in the kernel's order.
    pub async fn addresses(&self) -> Result<Vec<AddressMessage>, NetError> {
        let all = self.list(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await;
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

    /// Adds an address, or gives the one that is there this lifetime.
    pub async fn replace_address(&self, address: AddressMessage) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewAddress(address), flags).await.map(drop)
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
            let all = self.list(RouteNetlinkMessage::GetRoute(wanted)).await;
            let all = all.map_err(|e| NetError::failed("list the routes of the host", e))?;
            routes.extend(all.into_iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => Some(route),
                _ => None,
            }));
        }
        Ok(routes)
    }

    /// The interface by which the host's packets to an address leave.
    pub async fn way(&self, to: IpAddr) -> Result<Option<u32>, NetError> {
        let mut wanted = RouteMessage::default();
        let (family, length, address) = match to {
            IpAddr::V4(ip) => (AddressFamily::Inet, 32, RouteAddress::Inet(ip)),
            IpAddr::V6(ip) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(ip)),
        };
        wanted.header.address_family = family;
        wanted.header.destination_prefix_length = length;
        wanted.attributes.push(RouteAttribute::Destination(address));
        let unreachable = [nix::libc::ENETUNREACH, nix::libc::EHOSTUNREACH, nix::libc::EACCES, nix::libc::EINVAL];
        let found = match self.ask(RouteNetlinkMessage::GetRoute(wanted), 0).await {
            Err(error) if error.raw_os_error().is_some_and(|code| unreachable.contains(&code)) => return Ok(None),
            found => found.map_err(|e| NetError::failed(format!("look for the way to {to}"), e))?,
        };
        let interface = |message| match message {
            RouteNetlinkMessage::NewRoute(route) => route
                .attributes
                .iter()
                .find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None }),
            _ => None,
        };
        Ok(found.into_iter().find_map(interface))
    }

    /// Adds a route; one that is there already is no error.
    pub async fn add_route(&self, route: RouteMessage) -> io::Result<()> {
        let added = self.ask(RouteNetlinkMessage::NewRoute(route), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).await;
        gone(added, &[nix::libc::EEXIST])
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

fn without_figures(mut message: LinkMessage) -> LinkMessage {
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

/// About an interface that is known by its index.
fn nameless(mut message: LinkMessage) -> LinkMessage {
    message.attributes.retain(|a| !matches!(a, LinkAttribute::IfName(_)));
    message
}
