//! Whether the host's reverse-path filter drops what comes for a port forward: with several ways out, strict filtering (RFC
//! 3704) refuses on one what the host would answer over another.

#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
};

use rtnetlink::packet_route::{
    AddressFamily,
    address::AddressMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage},
};

use super::netlink::{Link, address_of};
use crate::model::Switch;

const MAIN: u8 = 254;
const STRICT: u8 = 1;
/// Of the half of the world that a VPN's 0.0.0.0/1 has, and of the other.
const FAR: [Ipv4Addr; 2] = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(203, 0, 112, 1)];

/// What is dropped, with what to do.
pub fn in_the_way(switch: &Switch, routes: &[RouteMessage], links: &[Link], all: &[AddressMessage]) -> Option<String> {
    if switch.forwards.is_empty() {
        return None;
    }
    let ways: Vec<Way> = routes.iter().filter_map(Way::of).collect();
    let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.as_str());
    FAR.into_iter().find_map(|far| {
        let leading: Vec<&Way> = ways.iter().filter(|way| way.leads_to(far)).collect();
        let back = leading.iter().min_by_key(|way| (32 - way.prefix, way.metric))?;
        let strict = leading.iter().find(|way| {
            let bears = |ip: Ipv4Addr| {
                all.iter().any(|a| a.header.index == way.interface && address_of(a) == Some(IpAddr::V4(ip)))
            };
            let comes = |address: Option<Ipv4Addr>| address.is_none_or(|ip| ip.is_unspecified() || bears(ip));
            way.interface != back.interface
                && switch.forwards.iter().any(|forward| comes(forward.host_address))
                && name(way.interface).is_some_and(is_strict)
        })?;
        let (strict, back) = (name(strict.interface)?, name(back.interface)?);
        Some(format!(
            "the host's reverse-path filter drops what comes by {strict} for port forwards, because it would answer by {back}; \
             sysctl net.ipv4.conf.{strict}.rp_filter=2 lets it through"
        ))
    })
}

/// The larger of what is set for all and for the interface is in force.
fn is_strict(name: &str) -> bool {
    let set = |name: &str| {
        let value = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).unwrap_or_default();
        value.trim().parse::<u8>().unwrap_or(0)
    };
    set("all").max(set(name)) == STRICT
}

/// A route out of the host.
struct Way {
    destination: Ipv4Addr,
    prefix: u8,
    metric: u32,
    interface: u32,
}

impl Way {
    fn of(route: &RouteMessage) -> Option<Self> {
        let ours = route.header.address_family == AddressFamily::Inet && route.header.table == MAIN;
        let mut way = Self {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix: route.header.destination_prefix_length,
            metric: 0,
            interface: 0,
        };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => way.destination = *ip,
                RouteAttribute::Priority(metric) => way.metric = *metric,
                RouteAttribute::Oif(index) => way.interface = *index,
                _ => {}
            }
        }
        (ours && way.interface != 0).then_some(way)
    }

    fn leads_to(&self, address: Ipv4Addr) -> bool {
        let different = u32::from(self.destination) ^ u32::from(address);
        different.leading_zeros() >= u32::from(self.prefix)
    }
}
