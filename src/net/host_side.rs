//! What the host's side of switches and ports is to be, computed from their definitions alone: links, addresses, sysctls.
//! The rules are `rules`', the configuration of dnsmasq is `dhcp`'s. Nothing here looks at the host.

use std::net::{IpAddr, Ipv6Addr};

use super::adapter;
use crate::model::{Moved, Nic, Switch, SwitchKind, SwitchPort};

/// Also decides whether the host takes routes from IPv6 routers.
pub const FORWARDING6: &str = "ipv6/conf/all/forwarding";

/// A switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchSide {
    pub bridge: String,
    /// The mark of the bridge.
    pub alias: String,
    /// Of the bridge; one with an adapter has the adapter's.
    pub mac: [u8; 6],
    /// Bytes that a frame may have; none for what the adapter has, or the kernel's default.
    pub mtu: Option<u32>,
    pub sysctls: Vec<Sysctl>,
    /// The host's own on the bridge, with their lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Physical.
    pub adapter: Option<String>,
    /// Of the host's, on the bridge instead of the adapter.
    pub moved: Option<Moved>,
}

impl SwitchSide {
    /// The host's addresses in the networks of its guests, with their lengths.
    pub fn networks(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let of_link = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        self.addresses.iter().copied().filter(move |(address, _)| !of_link(*address))
    }
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSide {
    pub tap: String,
    pub alias: String,
    /// It reaches no other isolated port.
    pub isolated: bool,
    pub sysctls: Vec<Sysctl>,
    /// Towards the guest, in bytes per second.
    pub rate: Option<u64>,
    /// It is in no network but its VLANs.
    pub in_vlan: bool,
}

/// A setting of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Below `/proc/sys/net`.
    pub path: String,
    pub value: &'static str,
    /// What does not work without it; none where the kernel may lack it.
    pub needed: Option<&'static str>,
}

/// `state` tells this daemon's from another's.
pub fn switch(state: &str, switch: &Switch, moved: Option<&Moved>) -> SwitchSide {
    let bridge = switch.bridge();
    let adapter = match &switch.kind {
        SwitchKind::External { adapter, .. } => Some(adapter.clone()),
        SwitchKind::Private | SwitchKind::Internal { .. } => None,
    };
    let v4 = switch.subnet().map(|subnet| (subnet.gateway().into(), subnet.prefix));
    let mac = stable_mac(switch);
    let v6 = switch.subnet().and_then(|subnet| subnet.ipv6.as_ref());
    // The guests' IPv6 router goes by the latter. The kernel gives it to the bridge, and not a second time.
    let v6 = v6.map(|ipv6| [ipv6.gateway(), link_local(mac)].map(|address| (address.into(), 64)));
    SwitchSide {
        alias: mark(state, &switch.id.to_string()),
        mac,
        mtu: switch.mtu,
        sysctls: switch_sysctls(switch, &bridge),
        addresses: v4.into_iter().chain(v6.into_iter().flatten()).collect(),
        adapter,
        moved: moved.cloned(),
        bridge,
    }
}

pub fn port(state: &str, nic: &Nic) -> PortSide {
    let tap = nic.tap();
    // The host itself has nothing to say to the guest over the tap, nor to hear: whatever gets past the bridge, such as
    // frames to its own group addresses, ends here.
    let sysctls = vec![
        set(&format!("ipv6/conf/{tap}/disable_ipv6"), "1"),
        set(&format!("ipv4/conf/{tap}/arp_ignore"), "8"),
        set(&format!("ipv4/conf/{tap}/rp_filter"), "1"),
    ];
    let isolated = nic.port().is_some_and(|port| port.isolated);
    let rate = nic.port().and_then(|port| port.bandwidth.inbound).map(|bits| bits / 8);
    let in_vlan = nic.port().is_some_and(SwitchPort::is_in_vlan);
    PortSide { alias: mark(state, &nic.id.to_string()), isolated, sysctls, rate, in_vlan, tap }
}

/// The alias of a device of ours.
pub fn mark(state: &str, id: &str) -> String {
    format!("qherd:{state}:{id}")
}

/// Of which state directory a device of some daemon is.
pub fn state_in(alias: &str) -> Option<&str> {
    alias.strip_prefix("qherd:")?.split(':').next()
}

/// The host takes no part in it.
pub fn closed(switch: &Switch) -> bool {
    matches!(switch.kind, SwitchKind::Private | SwitchKind::External { allow_management_os: false, .. })
}

/// The addresses that the host has on a switch: what it is to have there, and what was `seen` of it; before that, what is to
/// move there.
pub fn host_addresses(side: &SwitchSide, seen: Option<Vec<IpAddr>>) -> Vec<IpAddr> {
    let wanted = side.addresses.iter().map(|(address, _)| *address);
    let moved = || side.moved.as_ref().map(adapter::addresses).unwrap_or_default();
    let mut all: Vec<IpAddr> = wanted.chain(seen.unwrap_or_else(moved)).collect();
    all.sort();
    all.dedup();
    all
}

fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    eui64([0xfe, 0x80, 0, 0, 0, 0, 0, 0], mac).into()
}

/// The address that an interface makes of its MAC address (RFC 4291, appendix A).
pub fn eui64(net: [u8; 8], [a, b, c, d, e, f]: [u8; 6]) -> [u8; 16] {
    let mut address = [0; 16];
    address[..8].copy_from_slice(&net);
    address[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    address
}

fn switch_sysctls(switch: &Switch, bridge: &str) -> Vec<Sysctl> {
    let v4 = |name: &str, value| set(&format!("ipv4/conf/{bridge}/{name}"), value);
    let v6 = |name: &str, value| set(&format!("ipv6/conf/{bridge}/{name}"), value);
    if let SwitchKind::External { allow_management_os: true, .. } = &switch.kind {
        return vec![v4("send_redirects", "0")];
    }
    let subnet = switch.subnet();
    let ipv6 = subnet.and_then(|subnet| subnet.ipv6.as_ref());
    let mut sysctls = vec![
        // Its own link-local address would open the host's services to the guests.
        v6("disable_ipv6", if ipv6.is_some() { "0" } else { "1" }),
        // A guest does not tell the host where to send its traffic, nor what addresses to have.
        v6("accept_ra", "0"),
        v6("autoconf", "0"),
        v4("accept_redirects", "0"),
        v4("send_redirects", "0"),
        // The kernel answers for any of its addresses on any interface otherwise.
        v4("arp_ignore", if closed(switch) { "8" } else { "1" }),
        v4("rp_filter", "1"),
    ];
    if subnet.is_some_and(|subnet| subnet.nat) {
        let needed = "the host forwards nothing of its guests (net.ipv4.ip_forward is 0)";
        sysctls.push(Sysctl { path: "ipv4/ip_forward".into(), value: "1", needed: Some(needed) });
        // Which each interface has for itself, too.
        sysctls.push(v4("forwarding", "1"));
    }
    if ipv6.is_some() {
        let needed = "the host forwards no IPv6 of its guests (net.ipv6.conf.all.forwarding is 0)";
        sysctls.push(Sysctl { path: FORWARDING6.into(), value: "1", needed: Some(needed) });
        // Without it the guests do not take the host for a router.
        sysctls.push(v6("forwarding", "1"));
    }
    sysctls
}

fn set(path: &str, value: &'static str) -> Sysctl {
    Sysctl { path: path.into(), value, needed: None }
}

/// Stays the same when the bridge is made again, whichever taps are on it.
fn stable_mac(switch: &Switch) -> [u8; 6] {
    let short = switch.id.short();
    let byte = |at: usize| short.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or_default();
    // Locally administered.
    [0x02, byte(0), byte(2), byte(4), byte(6), byte(8)]
}
