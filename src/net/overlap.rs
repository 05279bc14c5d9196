//! Whether the networks of a switch are free on this host: nothing that the host has or reaches by a route of its own is
//! cut off by them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};

use super::{
    NetError,
    netlink::{Netlink, address_of},
};
use crate::model::{Subnet, Subnet6};

/// `own` is the index of the bridge that has the subnet already, or another one that it is to leave.
///
/// # Errors
/// [`NetError::Overlap`] where the host has an address in one of the networks, reaches a router in it, or has a route that
/// is as narrow or narrower. A wider one goes on leading to all the rest.
pub async fn check_overlap(netlink: &Netlink, subnet: &Subnet, own: Option<u32>) -> Result<(), NetError> {
    let (addresses, routes) = (netlink.addresses().await?, netlink.routes().await?);
    let here = |index: u32| own != Some(index);
    let others = addresses.iter().filter(|address| here(address.header.index));
    let addresses: Vec<(IpAddr, u8)> =
        others.filter_map(|address| Some((address_of(address)?, address.header.prefix_len))).collect();
    let ways = routes.iter().filter_map(Way::of).filter(|way| way.interface.is_none_or(here));
    let ways: Vec<Way> = ways.collect();
    [Some(Net::from(subnet)), subnet.ipv6.as_ref().map(Net::from)]
        .into_iter()
        .flatten()
        .try_for_each(|net| net.check(&addresses, &ways))
}

/// A network of either family.
struct Net {
    address: IpAddr,
    prefix: u8,
    name: String,
}

impl From<&Subnet> for Net {
    fn from(subnet: &Subnet) -> Self {
        Self { address: subnet.network.into(), prefix: subnet.prefix, name: subnet.to_string() }
    }
}

impl From<&Subnet6> for Net {
    fn from(subnet: &Subnet6) -> Self {
        Self { address: subnet.network.into(), prefix: 64, name: subnet.to_string() }
    }
}

impl Net {
    fn contains(&self, ip: IpAddr) -> bool {
        let same = |bits: u128, others: u128, length: u8| {
            let beyond = u32::from(length - self.prefix.min(length));
            bits.checked_shr(beyond) == others.checked_shr(beyond)
        };
        match (self.address, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => same(u32::from(own).into(), u32::from(ip).into(), 32),
            (IpAddr::V6(own), IpAddr::V6(ip)) => same(own.into(), ip.into(), 128),
            _ => false,
        }
    }

    fn check(&self, addresses: &[(IpAddr, u8)], ways: &[Way]) -> Result<(), NetError> {
        let refuse = |with: String| Err(NetError::Overlap { subnet: self.name.clone(), with });
        if let Some((ip, prefix)) = addresses.iter().find(|(ip, _)| self.contains(*ip)) {
            return refuse(format!("the address {ip}/{prefix}"));
        }
        for Way { destination, prefix, gateways, .. } in ways {
            if *prefix >= self.prefix && self.contains(*destination) {
                return refuse(format!("the route to {destination}/{prefix}"));
            }
            if let Some(gateway) = gateways.iter().find(|gateway| self.contains(**gateway)) {
                return refuse(format!("{gateway}, the gateway of the route to {destination}/{prefix}"));
            }
        }
        Ok(())
    }
}

/// What of a route matters here.
struct Way {
    destination: IpAddr,
    prefix: u8,
    gateways: Vec<IpAddr>,
    interface: Option<u32>,
}

impl Way {
    fn of(route: &RouteMessage) -> Option<Self> {
        if route.header.kind != RouteType::Unicast {
            return None;
        }
        let everywhere = match route.header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let mut way = Self {
            destination: everywhere,
            prefix: route.header.destination_prefix_length,
            gateways: Vec::new(),
            interface: None,
        };
        let gateway = |attribute: &RouteAttribute| match attribute {
            RouteAttribute::Gateway(ip) => ip_of(ip),
            _ => None,
        };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(ip) => way.destination = ip_of(ip)?,
                RouteAttribute::Oif(index) => way.interface = Some(*index),
                RouteAttribute::MultiPath(hops) => {
                    way.gateways.extend(hops.iter().flat_map(|hop| hop.attributes.iter().filter_map(gateway)));
                }
                other => way.gateways.extend(gateway(other)),
            }
        }
        Some(way)
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
