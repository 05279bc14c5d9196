//! Whether a subnet is free on this host: nothing that the host has or reaches by a route of its own is cut off by it.

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};

use super::{
    NetError,
    netlink::{Netlink, address_of},
};
use crate::model::Subnet;

/// `own` is the index of the bridge that has the subnet already, or another one that it is to leave.
///
/// # Errors
/// [`NetError::Overlap`] where the host has an address in the subnet, reaches a router in it, or has a route that is as
/// narrow or narrower. A wider one goes on leading to all the rest.
pub async fn check_overlap(netlink: &Netlink, subnet: &Subnet, own: Option<u32>) -> Result<(), NetError> {
    let refuse = |with: String| Err(NetError::Overlap { subnet: subnet.to_string(), with });
    for address in netlink.addresses().await? {
        if let Some(IpAddr::V4(ip)) = address_of(&address)
            && own != Some(address.header.index)
            && subnet.contains(ip)
        {
            return refuse(format!("the address {ip}/{}", address.header.prefix_len));
        }
    }
    for route in netlink.routes().await? {
        let Some(way) = Way::of(&route) else { continue };
        if own.is_some() && way.interface == own {
            continue;
        }
        let Way { destination, prefix, .. } = way;
        if prefix >= subnet.prefix && subnet.contains(destination) {
            return refuse(format!("the route to {destination}/{prefix}"));
        }
        if let Some(gateway) = way.gateways.into_iter().find(|gateway| subnet.contains(*gateway)) {
            return refuse(format!("{gateway}, the gateway of the route to {destination}/{prefix}"));
        }
    }
    Ok(())
}

/// What of a route matters here.
struct Way {
    destination: Ipv4Addr,
    prefix: u8,
    gateways: Vec<Ipv4Addr>,
    interface: Option<u32>,
}

impl Way {
    fn of(route: &RouteMessage) -> Option<Self> {
        if route.header.kind != RouteType::Unicast || route.header.address_family != AddressFamily::Inet {
            return None;
        }
        let mut way = Self {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix: route.header.destination_prefix_length,
            gateways: Vec::new(),
            interface: None,
        };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => way.destination = *ip,
                RouteAttribute::Oif(index) => way.interface = Some(*index),
                RouteAttribute::Gateway(RouteAddress::Inet(ip)) => way.gateways.push(*ip),
                RouteAttribute::MultiPath(hops) => {
                    let gateway = |attribute: &RouteAttribute| match attribute {
                        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(*ip),
                        _ => None,
                    };
                    way.gateways.extend(hops.iter().flat_map(|hop| hop.attributes.iter().filter_map(gateway)));
                }
                _ => {}
            }
        }
        Some(way)
    }
}
