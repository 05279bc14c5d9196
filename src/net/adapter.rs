//! The adapter of an External switch: whether a bridge may have it, and the move of the host's addresses and routes
//! between the two. Each address is on one of them at every moment, so that a move that was interrupted anywhere is
//! finished, or taken back, by making it again.

#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::{collections::HashSet, io, net::IpAddr, path::Path};

use rtnetlink::{
    packet_core::{Emitable, Parseable},
    packet_route::{
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
        link::InfoKind,
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType},
    },
};

use super::{
    NetError,
    netlink::{Link, Netlink, address_of},
};
use crate::{
    host::process::boot_id,
    model::{BRIDGE_PREFIX, Moved, TAP_PREFIX},
};

/// Addresses and routes that are moved at most: a router with thousands is not a case for this.
const MOST: usize = 60;

/// The adapter, if it can be part of the bridge of that name.
///
/// # Errors
/// [`NetError::Adapter`].
pub fn check<'a>(links: &'a [Link], name: &str, bridge: &str) -> Result<&'a Link, NetError> {
    let refuse = |must: String| Err(NetError::Adapter(must));
    let usable = |link: &&Link| unusable(link).is_none() && link.master.is_none();
    let Some(link) = links.iter().find(|link| link.name == name) else {
        let names: Vec<&str> = links.iter().filter(usable).map(|link| link.name.as_str()).collect();
        let known = if names.is_empty() { "it has none that can be used".into() } else { names.join(", ") };
        return refuse(format!("be a network adapter of this host ({known}), not {name:?}"));
    };
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@-".contains(&b)) {
        return refuse(format!("have a name of letters, digits, '.', '_', '@' and '-'; rename {name:?}"));
    }
    if let Some(why) = unusable(link) {
        return refuse(format!("be an Ethernet adapter; {name} is {why}"));
    }
    if let Some(master) = link.master
        && let Some(master) = links.iter().find(|link| link.index == master)
        && master.name != bridge
    {
        return refuse(format!("be free; {name} belongs to {}", master.name));
    }
    Ok(link)
}

fn unusable(link: &Link) -> Option<&'static str> {
    if link.loopback {
        return Some("the loopback device");
    }
    if link.name.starts_with(BRIDGE_PREFIX) || link.name.starts_with(TAP_PREFIX) {
        return Some("a device of qherd");
    }
    if !link.ethernet {
        return Some("of another kind");
    }
    match &link.kind {
        Some(InfoKind::Bridge) => return Some("a bridge"),
        Some(InfoKind::Tun) => return Some("a tap"),
        _ => {}
    }
    // An access point drops frames of any station but the one that has logged in.
    Path::new("/sys/class/net").join(&link.name).join("phy80211").exists().then_some("wireless")
}

/// What of the host's is on the adapter, and on the bridge.
pub struct Carried {
    addresses: Vec<AddressMessage>,
    routes: Vec<RouteMessage>,
}

impl Carried {
    pub async fn read(netlink: &Netlink, index: u32) -> Result<Self, NetError> {
        let addresses = netlink.addresses().await?.into_iter().filter(|a| a.header.index == index && movable(a));
        let routes = netlink.routes().await?.into_iter();
        let mut carried = Self { addresses: addresses.collect(), routes: Vec::new() };
        for route in routes {
            let multipath = route.attributes.iter().any(
                |a| matches!(a, RouteAttribute::MultiPath(hops) if hops.iter().any(|hop| hop.interface_index == index)),
            );
            if multipath {
                let why = "be an adapter without multipath routes; remove them first".to_owned();
                return Err(NetError::Adapter(why));
            }
            if oif(&route) == Some(index) && own(&route) {
                carried.routes.push(route);
            }
        }
        if carried.addresses.len() + carried.routes.len() > MOST {
            return Err(NetError::Adapter(format!("be an adapter with at most {MOST} addresses and routes")));
        }
        Ok(carried)
    }

    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routes.is_empty()
    }

    /// "10.0.0.1/24, the default route": for people.
    pub fn describe(&self) -> String {
        let address = |a: &AddressMessage| address_of(a).map(|ip| format!("{ip}/{}", a.header.prefix_len));
        let mut parts: Vec<String> = self.addresses.iter().filter_map(address).collect();
        if self.routes.iter().any(|route| route.header.destination_prefix_length == 0) {
            parts.push("the default route".into());
        }
        let others = self.routes.iter().filter(|route| route.header.destination_prefix_length != 0).count();
        match others {
            0 => {}
            1 => parts.push("a route".into()),
            n => parts.push(format!("{n} routes")),
        }
        parts.join(", ")
    }

    /// "192.0.2.7/24, for another 3000 s": an address that goes by itself unless somebody renews it. Of IPv6 only one that
    /// a DHCP server gave: what routers advertise, the kernel renews on the bridge as it does on an adapter.
    pub fn leased(&self) -> Option<String> {
        self.addresses.iter().find_map(|address| {
            let ip = address_of(address)?;
            let left = lifetime(address)?;
            let by_dhcp = ip.is_ipv4() || address.header.prefix_len == 128;
            by_dhcp.then(|| format!("{ip}/{}, for another {left} s", address.header.prefix_len))
        })
    }

    /// Adds what stands in `moved` and is not in here.
    pub fn join(&mut self, moved: &Moved) {
        let (addresses, routes) = parse(moved);
        let here: HashSet<_> = self.addresses.iter().filter_map(address_of).collect();
        self.addresses.extend(addresses.into_iter().filter(|a| address_of(a).is_some_and(|ip| !here.contains(&ip))));
        let here: HashSet<_> = self.routes.iter().map(key).collect();
        self.routes.extend(routes.into_iter().filter(|route| !here.contains(&key(route))));
    }

    /// Adds what of `moved` goes by itself and is not in here, so that it is told of when it is gone.
    pub fn join_leased(&mut self, moved: &Moved) {
        let here: HashSet<_> = self.addresses.iter().filter_map(address_of).collect();
        let leased = parse(moved).0.into_iter().filter(|a| lifetime(a).is_some());
        self.addresses.extend(leased.filter(|a| address_of(a).is_some_and(|ip| !here.contains(&ip))));
    }

    /// As it is stored.
    pub fn to_moved(&self) -> Result<Moved, NetError> {
        let boot_id = boot_id().map_err(|e| NetError::failed("tell one boot of the host from another", e))?;
        Ok(Moved {
            boot_id,
            addresses: self.addresses.iter().map(hex).collect(),
            routes: self.routes.iter().map(hex).collect(),
        })
    }
}

/// Whether it was written down since the host was last started: after that the adapter has its own again.
pub fn is_of_this_boot(moved: &Moved) -> bool {
    boot_id().is_ok_and(|now| now == moved.boot_id)
}

/// The addresses with a lifetime in `moved`.
pub fn leased(moved: &Moved) -> Vec<IpAddr> {
    parse(moved).0.iter().filter(|a| lifetime(a).is_some()).filter_map(address_of).collect()
}

/// The same address as an interface has it.
fn on<'a>(all: &'a [AddressMessage], index: u32, address: &AddressMessage) -> Option<&'a AddressMessage> {
    all.iter().find(|other| other.header.index == index && address_of(other) == address_of(address))
}

/// Seconds that an address has left; none for one that stays.
pub fn lifetime(address: &AddressMessage) -> Option<u32> {
    let valid = address.attributes.iter().find_map(|a| match a {
        AddressAttribute::CacheInfo(info) => Some(info.ifa_valid),
        _ => None,
    });
    valid.filter(|left| *left != u32::MAX)
}

/// The addresses in `moved`.
pub fn addresses(moved: &Moved) -> Vec<IpAddr> {
    parse(moved).0.iter().filter_map(address_of).collect()
}

/// Brings addresses and routes to `to`, and away from `from`. Idempotent.
pub async fn carry(netlink: &Netlink, moved: &Moved, from: Option<&Link>, to: &Link) -> Result<(), NetError> {
    let failed = |what: &str, error: io::Error| NetError::failed(format!("{what} {}", to.name), error);
    let (addresses, mut routes) = parse(moved);
    let all = netlink.addresses().await?;
    for address in &addresses {
        let brought = match lifetime(address) {
            None => netlink.add_address(put_on(address, to.index)).await,
            // It may have been renewed, or run out: what is written down is old.
            Some(_) => match from.and_then(|from| on(&all, from.index, address)) {
                Some(fresh) => netlink.replace_address(put_on(fresh, to.index)).await,
                None => Ok(()),
            },
        };
        brought.map_err(|e| failed("bring an address of the host to", e))?;
    }
    // Gateways are reached over the routes that have none.
    routes.sort_by_key(|route| route.attributes.iter().any(|a| matches!(a, RouteAttribute::Gateway(_))));
    for route in &routes {
        let there = lead_over(route, to.index);
        netlink.replace_route(there).await.map_err(|e| failed("bring a route of the host to", e))?;
    }
    let Some(from) = from else { return Ok(()) };
    let failed = |error| NetError::failed(format!("take an address of the host from {}", from.name), error);
    // Secondary addresses first: they go along with their primary one.
    for address in addresses.iter().rev() {
        let here = put_on(address, from.index);
        netlink.remove_address(here).await.map_err(failed)?;
    }
    // An IPv6 route stays beside the one that replaced it.
    for route in netlink.routes().await?.iter().filter(|route| oif(route) == Some(from.index) && own(route)) {
        if routes.iter().any(|moved| key(moved) == key(route)) {
            netlink.remove_route(route.clone()).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// Not those that every interface makes for itself.
pub fn movable(address: &AddressMessage) -> bool {
    match address_of(address) {
        Some(IpAddr::V6(ip)) => !ip.is_unicast_link_local() && !ip.is_multicast(),
        Some(IpAddr::V4(_)) => true,
        None => false,
    }
}

/// A route that somebody set, not one that comes with an address or an interface.
fn own(route: &RouteMessage) -> bool {
    let link_local =
        |ip: &RouteAddress| matches!(ip, RouteAddress::Inet6(ip) if ip.is_unicast_link_local() || ip.is_multicast());
    route.header.protocol != RouteProtocol::Kernel
        && route.header.kind == RouteType::Unicast
        && !route.attributes.iter().any(|a| matches!(a, RouteAttribute::Destination(ip) if link_local(ip)))
}

fn oif(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None })
}

/// What makes a route the same one, whatever interface it leads over.
fn key(route: &RouteMessage) -> String {
    let telling = |a: &&RouteAttribute| {
        matches!(
            a,
            RouteAttribute::Destination(_)
                | RouteAttribute::Gateway(_)
                | RouteAttribute::Priority(_)
                | RouteAttribute::Table(_)
        )
    };
    let header = &route.header;
    let mut attributes: Vec<_> = route.attributes.iter().filter(telling).map(|a| format!("{a:?}")).collect();
    attributes.sort();
    format!("{:?}/{} {} {attributes:?}", header.address_family, header.destination_prefix_length, header.tos)
}

fn put_on(address: &AddressMessage, index: u32) -> AddressMessage {
    let mut address = address.clone();
    address.header.index = index;
    // Marks of the kernel's own, and a label that begins with the interface's name.
    address.attributes.retain(|a| !matches!(a, AddressAttribute::Label(_)));
    let v6 = matches!(address_of(&address), Some(IpAddr::V6(_)));
    let mut flags = AddressFlags::empty();
    for attribute in &mut address.attributes {
        if let AddressAttribute::Flags(kept) = attribute {
            kept.remove(AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Secondary);
            // It is ours already; asking whether it is free would only leave it unusable for a second.
            kept.set(AddressFlags::Nodad, v6);
            flags = *kept;
        }
    }
    address.header.flags = AddressHeaderFlags::from_bits_retain((flags.bits() & 0xff) as u8);
    address
}

fn lead_over(route: &RouteMessage, index: u32) -> RouteMessage {
    let mut route = route.clone();
    route.header.flags &= RouteFlags::Onlink;
    route.attributes.retain(|a| !matches!(a, RouteAttribute::CacheInfo(_)));
    for attribute in &mut route.attributes {
        if let RouteAttribute::Oif(oif) = attribute {
            *oif = index;
        }
    }
    route
}

fn hex(message: &impl Emitable) -> String {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(moved: &Moved) -> (Vec<AddressMessage>, Vec<RouteMessage>) {
    fn all<T: Parseable<[u8]>>(texts: &[String]) -> Vec<T> {
        let bytes = |text: &String| {
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
                .collect::<Option<Vec<u8>>>()
        };
        texts.iter().filter_map(bytes).filter_map(|bytes| T::parse(&bytes).ok()).collect()
    }
    (all(&moved.addresses), all(&moved.routes))
}
