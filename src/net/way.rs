//! That what the host sends to the guests of a switch goes to its bridge. The kernel makes the route to a network with the host's
//! address in it; somebody may take it away and leave the address, or lead elsewhere by a rule or a narrower route.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::{Inner, NetError, host_side::SwitchSide};

impl Inner {
    /// Whether all of a switch's networks are reached by its bridge.
    ///
    /// # Errors
    /// [`NetError::Failed`].
    pub async fn leads_home(&self, side: &SwitchSide, bridge: u32) -> Result<bool, NetError> {
        for (address, _) in side.networks() {
            if self.netlink()?.way(next(address)).await? != Some(bridge) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts routes in again that were taken away.
    ///
    /// # Errors
    /// [`NetError::Failed`], also where another route or rule leads elsewhere.
    pub async fn put_ways(&self, side: &SwitchSide, bridge: u32) -> Result<(), NetError> {
        let netlink = self.netlink()?;
        for (address, prefix) in side.networks() {
            let guest = next(address);
            if netlink.way(guest).await? == Some(bridge) {
                continue;
            }
            let failed = |error| NetError::failed(format!("make the route to {address}/{prefix}"), error);
            netlink.add_route(connected(address, prefix, bridge)).await.map_err(failed)?;
            let leads_to = netlink.way(guest).await?;
            if leads_to != Some(bridge) {
                let by = match leads_to {
                    Some(index) => netlink.link_at(index).await?.map_or_else(|| "another way".into(), |link| link.name),
                    None => "no way at all".into(),
                };
                let why = format!(
                    "the host sends to {guest} by {by}, as a route or a rule of somebody else says; `ip route get {guest}` and `ip rule` tell more"
                );
                return Err(NetError::failed(format!("reach the guests on {}", side.bridge), why));
            }
        }
        Ok(())
    }
}

/// The first address of guests, behind the host's.
fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_add(1)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_add(1)).into(),
    }
}

/// As the kernel makes it, so that it goes with the address.
fn connected(address: IpAddr, prefix: u8, index: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.destination_prefix_length = prefix;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Kernel;
    route.header.kind = RouteType::Unicast;
    let beyond = u32::from(if address.is_ipv4() { 32 } else { 128 } - prefix);
    match address {
        IpAddr::V4(ip) => {
            route.header.address_family = AddressFamily::Inet;
            route.header.scope = RouteScope::Link;
            let network = u32::from(ip).checked_shr(beyond).and_then(|bits| bits.checked_shl(beyond)).unwrap_or(0);
            route.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(network.into())));
            route.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(ip)));
        }
        IpAddr::V6(ip) => {
            route.header.address_family = AddressFamily::Inet6;
            let network = u128::from(ip).checked_shr(beyond).and_then(|bits| bits.checked_shl(beyond)).unwrap_or(0);
            route.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(network.into())));
            route.attributes.push(RouteAttribute::Priority(256));
        }
    }
    route.attributes.push(RouteAttribute::Oif(index));
    route
}
