//! What the host lets guests do, from the definitions of switches and ports: a pure value for `nft` to bring about.
//!
//! ```text
//!  ports      what a port may send, by its tap            (table bridge)    segment   who may use which address
//!  routed     what reaches the host and other networks    (table inet)      asking    the host's answers to ARP (table arp)
//!  refused    what each port was refused, read            claims            frees what a port had laid claim to
//! ```
//! A port is a handful of set elements, and a frame finds them by hash, however many ports there are. A switch has chains
//! of its own. Everything here refuses: another table's `accept` opens nothing, as the kernel asks every table.

mod asking;
mod claims;
mod ports;
mod refused;
mod routed;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

pub use claims::{claimed, claims_of};
pub use refused::{Refusals, refused};

use super::{
    host_side::eui64,
    nft::{Datum, Family, Key, Ruleset, Table, TableName, Verdict},
    vlans,
};
use crate::model::{Nic, NicId, Subnet6, Switch, SwitchId, SwitchKind, SwitchPort};
use segment::Segment;

/// Addresses that a port may lay claim to at once, where nothing else is said.
const ADDRESSES: u16 = 20;

/// The bit of a packet's mark that says: of a guest, under whatever MAC address (ADR 0045).
const GUEST: u32 = 0x0800_0000;

/// A switch, and what of the host is on it.
#[derive(Clone, Copy, Debug)]
pub struct OnHost<'a> {
    pub switch: &'a Switch,
    /// Addresses of the host on its bridge, whoever gave them.
    pub host: &'a [IpAddr],
}

/// The name of this daemon's tables: several on one host do not meet.
pub fn table(state: &str) -> String {
    format!("qherd_{state}")
}

/// All tables that a ruleset may have.
pub fn tables(state: &str) -> Vec<TableName> {
    [Family::Arp, Family::Bridge, Family::Inet].map(|family| TableName { family, name: table(state) }).to_vec()
}

/// All rules for these switches and the NICs that are plugged into them. Without any it is empty.
pub fn ruleset(state: &str, switches: &[OnHost], nics: &[Nic]) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let by_id: HashMap<SwitchId, &OnHost> = switches.iter().map(|on| (on.switch.id, on)).collect();
    let mut ports: Vec<RuledPort> = nics.iter().filter_map(|nic| RuledPort::new(nic, &by_id)).collect();
    if switches.is_empty() && ports.is_empty() {
        return ruleset;
    }
    ports.sort_by_key(|port| port.nic.id);
    let mut segments: BTreeMap<String, Segment> = BTreeMap::new();
    for on in switches {
        let base = Segment::new(on, None).with_native(native(&ports, on));
        segments.insert(base.name.clone(), base);
    }
    for port in &ports {
        if let Some(on) = port.on {
            segments.entry(port.segment.clone()).or_insert_with(|| Segment::new(on, port.settings.vlan));
        }
    }
    let name = table(state);
    let bridge = ruleset.table(Family::Bridge, &name);
    ports::frame(bridge, &allowances(&ports));
    segments.values().for_each(|segment| segment.write(bridge));
    switches.iter().for_each(|on| ports::switch(bridge, on));
    ports.iter().for_each(|port| ports::port(&mut into(bridge), port));
    let inet = ruleset.table(Family::Inet, &name);
    routed::frame(inet);
    switches.iter().for_each(|on| routed::switch(inet, on));
    forwards(switches, &ports).iter().for_each(|forward| routed::forward(&mut into(inet), forward));
    ports.iter().for_each(|port| routed::port(&mut into(inet), port));
    let arp = ruleset.table(Family::Arp, &name);
    asking::frame(arp);
    switches.iter().for_each(|on| asking::switch(arp, on));
    ports.iter().for_each(|port| asking::port(&mut into(arp), port));
    ruleset
}

/// What all switches have in common, and nothing else.
pub fn frame(state: &str) -> Ruleset {
    let (mut frame, name) = (Ruleset::default(), table(state));
    ports::frame(frame.table(Family::Bridge, &name), &allowances(&[]));
    routed::frame(frame.table(Family::Inet, &name));
    asking::frame(frame.table(Family::Arp, &name));
    frame
}

/// Whether a switch has anything in the rules.
pub fn is_in(there: &Ruleset, state: &str, switch: &Switch) -> bool {
    let bridge = TableName { family: Family::Bridge, name: table(state) };
    there.tables.get(&bridge).is_some_and(|table| table.chains.contains_key(&switch.bridge()))
}

/// Whether what a switch's rules have in common with those of the others is `there` as it is for it alone.
pub fn is_framed(there: &Ruleset, alone: &Ruleset, switch: &Switch) -> bool {
    let bridge = switch.bridge();
    alone.tables.iter().all(|(name, alone)| {
        let Some(there) = there.tables.get(name) else { return false };
        let chain = |(name, chain): (&String, _)| name.starts_with(&bridge) || there.chains.get(name) == Some(chain);
        let form = |name: &String| there.sets.get(name).map(|set| &set.form);
        alone.chains.iter().all(chain)
            && alone.sets.iter().all(|(name, set)| name.starts_with(&bridge) || form(name) == Some(&set.form))
    })
}

fn into(table: &mut Table) -> impl FnMut(&str, Key, Option<Datum>) {
    move |set, key, value| ports::insert(table, set, key, value)
}

/// What a NIC's port has in the rules: some elements, to be added to what is `there` when it is plugged and taken away
/// when it goes, without a look at all the others. None where that is not all that it needs.
pub fn part(there: &Ruleset, state: &str, on: &OnHost, nic: &Nic) -> Option<Ruleset> {
    let port = RuledPort::new(nic, &HashMap::from([(on.switch.id, on)]))?;
    if port.settings.is_in_vlan() {
        // What it says of frames without a tag is not its own.
        return None;
    }
    let forwards = forwards(&[*on], std::slice::from_ref(&port));
    let (mut part, mut whole) = (Ruleset::default(), true);
    for family in [Family::Arp, Family::Bridge, Family::Inet] {
        let sets = &there.tables.get(&TableName { family, name: table(state) })?.sets;
        let made = part.table(family, &table(state));
        let mut put = |name: &str, key: Key, value: Option<Datum>| match sets.get(name) {
            Some(set) => _ = made.set(name, set.form.clone()).insert(key, value),
            None => whole = false,
        };
        match family {
            Family::Arp => asking::port(&mut put, &port),
            Family::Bridge => ports::port(&mut put, &port),
            _ => {
                routed::port(&mut put, &port);
                forwards.iter().for_each(|forward| routed::forward(&mut put, forward));
            }
        }
    }
    whole.then_some(part)
}

/// A NIC's port of a switch, with what the rules need of it.
struct RuledPort<'a> {
    nic: &'a Nic,
    settings: &'a SwitchPort,
    /// None for a live NIC whose switch is not there at the moment: it sends nothing.
    on: Option<&'a OnHost<'a>>,
    tap: String,
    mac: [u8; 6],
    segment: String,
}

impl<'a> RuledPort<'a> {
    fn new(nic: &'a Nic, switches: &HashMap<SwitchId, &'a OnHost<'a>>) -> Option<Self> {
        let settings = nic.port()?;
        let on = switches.get(&settings.switch).copied();
        let segment = on.map(|on| segment::name(on.switch, settings.vlan)).unwrap_or_default();
        Some(Self { nic, settings, on, tap: nic.tap(), mac: nic.mac.octets(), segment })
    }

    fn allowance(&self) -> u16 {
        self.settings.max_addresses.unwrap_or(ADDRESSES)
    }

    /// The addresses that a guest makes of its MAC address (RFC 4291, appendix A): nobody else's.
    fn own6(&self) -> impl Iterator<Item = [u8; 16]> {
        let link = [0xfe, 0x80, 0, 0, 0, 0, 0, 0];
        let six = self.on.and_then(|on| ipv6(on.switch));
        let net = six.map(|six| six.network.octets()).and_then(|net| net[..8].try_into().ok());
        [Some(link), net].into_iter().flatten().map(|net| eui64(net, self.mac))
    }
}

/// The VLAN that the bridge of a switch has frames without a tag in.
fn native(ports: &[RuledPort], on: &OnHost) -> Option<u16> {
    let on_it = ports.iter().map(|port| port.settings).filter(|port| port.switch == on.switch.id);
    vlans::native(on_it).filter(|id| *id != 0)
}

fn allowances(ports: &[RuledPort]) -> BTreeSet<u16> {
    ports.iter().map(RuledPort::allowance).chain([ADDRESSES]).collect()
}

/// A port of the host that leads to a guest.
struct Forward {
    bridge: String,
    protocol: u8,
    host_address: Option<Ipv4Addr>,
    host_port: u16,
    guest: Ipv4Addr,
    guest_port: u16,
}

/// Those whose NIC is on the switch, with an address.
fn forwards(switches: &[OnHost], ports: &[RuledPort]) -> Vec<Forward> {
    let by_nic: HashMap<NicId, &RuledPort> = ports.iter().map(|port| (port.nic.id, port)).collect();
    let of = |on: &OnHost| {
        let switch = on.switch.id;
        let bridge = on.switch.bridge();
        let leads = |forward: &crate::model::SwitchForward| {
            let port = by_nic.get(&forward.nic).filter(|port| port.settings.switch == switch)?;
            Some(Forward {
                bridge: bridge.clone(),
                protocol: match forward.protocol {
                    crate::model::Protocol::Tcp => 6,
                    crate::model::Protocol::Udp => 17,
                },
                host_address: forward.host_address.filter(|address| !address.is_unspecified()),
                host_port: forward.host_port,
                guest: port.settings.address?,
                guest_port: forward.guest_port,
            })
        };
        on.switch.forwards.iter().filter_map(leads).collect::<Vec<_>>()
    };
    switches.iter().flat_map(of).collect()
}

fn ipv6(switch: &Switch) -> Option<&Subnet6> {
    switch.subnet()?.ipv6.as_ref()
}

/// The host takes no part in it.
fn closed(switch: &Switch) -> bool {
    matches!(switch.kind, SwitchKind::Private | SwitchKind::External { allow_management_os: false, .. })
}

fn goto(chain: impl Into<String>) -> Datum {
    Datum::Verdict(Verdict::Goto(chain.into()))
}

fn host4(host: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> {
    host.iter().filter_map(|address| if let IpAddr::V4(ip) = address { Some(*ip) } else { None })
}

fn host6(host: &[IpAddr]) -> impl Iterator<Item = Ipv6Addr> {
    host.iter().filter_map(|address| if let IpAddr::V6(ip) = address { Some(*ip) } else { None })
}

/// Numbers of the wire.
mod wire {
    pub const IP: [u8; 2] = [8, 0];
    pub const ARP: [u8; 2] = [8, 6];
    pub const VLAN: [u8; 2] = [0x81, 0];
    /// The outer tag of two.
    pub const PROVIDER_VLAN: [u8; 2] = [0x88, 0xa8];
    pub const IP6: [u8; 2] = [0x86, 0xdd];
    pub const ICMP: [u8; 1] = [1];
    pub const TCP: [u8; 1] = [6];
    pub const UDP: [u8; 1] = [17];
    pub const ICMP6: [u8; 1] = [58];
    pub const DNS: [u8; 2] = [0, 53];
    pub const DHCP_SERVER: [u8; 2] = [0, 67];
    pub const DHCP_CLIENT: [u8; 2] = [0, 68];
    pub const DHCP6_SERVER: [u8; 2] = 547u16.to_be_bytes();
    /// Extension headers of IPv6.
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
}
