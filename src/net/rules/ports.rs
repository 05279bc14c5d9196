//! The bridge table: where the frames of a port are judged, what no port may send, and which ports the host keeps out of.

use std::{collections::BTreeSet, time::Duration};

use super::{
    GUEST, OnHost, RuledPort, closed, goto,
    wire::{ARP, DESTINATION, DHCP_SERVER, FRAGMENT, HOP_BY_HOP, ICMP6, IP, IP6, PROVIDER_VLAN, ROUTING, UDP, VLAN},
};
use crate::{
    model::{Subnet6, Switch, SwitchKind},
    net::nft::{Base, Chain, ChainKind, Datum, Form, Hook, Key, Rate, Rule, Table, Type, field::*, ifname},
};

/// Before everybody else's.
const FIRST: i32 = -300;
/// How long a port's pace is remembered.
const PACE: Duration = Duration::from_secs(600);
/// New addresses a minute, once the allowance is used up.
const A_MINUTE: u64 = 10;
/// Bytes that a port may send at once beside those of a second: the kernel gives these anyway, but at a low rate they are
/// less than one of the large packets that virtio hands over in one piece.
const BURST: u32 = 128 << 10;
const FASTEST: u64 = 14_000_000_000;
/// IPv6 addresses change by themselves: nobody gets along with fewer.
const LEAST6: u16 = 20;

/// What is there without any switch.
pub fn frame(table: &mut Table, allowances: &BTreeSet<u16>) {
    let tap = || Form::of([Type::IfName]);
    // Every port of ours, and what it was refused.
    table.set("tally", tap().counted());
    // Where the frames of a port are judged: its segment's chain.
    table.set("ports", Form::verdicts([Type::IfName]));
    table.set("macs", Form::of([Type::IfName, Type::Ether]));
    table.set("own_macs", Form::of([Type::Ether]));
    // Ports with an address that was given to them, and that address.
    table.set("fixed", tap());
    table.set("given4", Form::of([Type::IfName, Type::Ip4]));
    table.set("given6", Form::of([Type::IfName, Type::Ip6]));
    // Ports of switches that the host takes no part in.
    table.set("closed", tap());
    // Where what a port hands to the host is judged: its switch's chain.
    table.set("handed", Form::verdicts([Type::IfName]));
    // Ports of switches that the host shares, of guests that speak under any MAC address.
    table.set("masked", tap());
    // VLANs that a port carries tagged.
    table.set("trunks", Form::of([Type::IfName, Type::Service]));
    constants(table);

    table.chain("refuse").rules = vec![Rule::when().within([IIFNAME], "tally").drop(), Rule::when().drop()];
    table.set("taps", tap());
    // Bridges keep these to themselves, and give them to whatever listens on the host (IEEE 802.1D, 7.12.6).
    let group = || {
        let groups = Rule::when().masked(ETHER_DADDR, [255, 255, 255, 255, 255, 0xf0], [1, 0x80, 0xc2, 0, 0, 0]);
        groups.within([IIFNAME], "taps").goto("refuse")
    };
    let base = |hook| Some(Base { kind: ChainKind::Filter, hook, priority: FIRST, drop: false });
    // What is above a port's bandwidth is lost, as on a full link.
    table.set("outbound", tap());
    let above = Rule::when().within([IIFNAME], "outbound").drop();
    let mark = Rule::when().within([IIFNAME], "masked").mark(GUEST);
    let prerouting = vec![group(), above, mark, Rule::when().dispatch([IIFNAME], "ports")];
    *table.chain("prerouting") = Chain { base: base(Hook::Prerouting), rules: prerouting };
    let input =
        vec![group(), Rule::when().within([IIFNAME], "closed").drop(), Rule::when().dispatch([IIFNAME], "handed")];
    *table.chain("input") = Chain { base: base(Hook::Input), rules: input };
    let output = vec![Rule::when().within([OIFNAME], "closed").drop()];
    *table.chain("output") = Chain { base: base(Hook::Output), rules: output };

    dhcp(table);
    tagged(table);
    pace(table, allowances);
}

fn constants(table: &mut Table) {
    let numbers = |numbers: &[u8]| numbers.iter().map(|number| (Key::of([&[*number]]), None)).collect::<Vec<_>>();
    table.set("discovery", Form::of([Type::Icmp6])).extend(numbers(&[133, 134, 135, 136, 137]));
    table.set("routers", Form::of([Type::Icmp6])).extend(numbers(&[134, 137]));
    // What a guest says before it has an address.
    table.set("early", Form::of([Type::Icmp6])).extend(numbers(&[131, 133, 143]));
    // Headers behind a fragment's that hide what the packet is.
    let hiding = [HOP_BY_HOP, ROUTING, FRAGMENT, 51, DESTINATION, 135, 139, 140];
    table.set("hiding", Form::of([Type::Protocol])).extend(numbers(&hiding));
}

/// A guest asks for its own lease only, in one piece.
fn dhcp(table: &mut Table) {
    table.chain("dhcp").rules = vec![
        Rule::when().masked_isnt(IP_FRAGMENT, [0x3f, 0xff], [0, 0]).goto("refuse"),
        Rule::when().is(DHCP_HEAD, [1, 1, 6]).is(DHCP_RELAY, [0; 4]).within([IIFNAME, DHCP_CHADDR], "macs").leave(),
        Rule::when().goto("refuse"),
    ];
    // Of a port that may send under other names: not under those of its neighbours.
    let to_server = || Rule::when().is(ETHER_TYPE, IP).is(L4PROTO, UDP).is(DPORT, DHCP_SERVER);
    // Without the tag the host takes such frames for what they are behind it.
    let priority = |kind| Rule::when().is(ETHER_TYPE, kind).is(VLAN_ID, [0, 0]).goto("refuse");
    table.chain("free").rules = vec![
        priority(VLAN),
        priority(PROVIDER_VLAN),
        to_server().masked_isnt(IP_FRAGMENT, [0x3f, 0xff], [0, 0]).goto("refuse"),
        to_server().within([IIFNAME, DHCP_CHADDR], "macs").accept(),
        to_server().within([DHCP_CHADDR], "own_macs").goto("refuse"),
        Rule::when().accept(),
    ];
}

/// Frames with a tag, which hides who speaks: the port's own VLANs and MAC address, and nobody plays the router.
fn tagged(table: &mut Table) {
    let kind = |kind: [u8; 2]| Rule::when().is(VLAN_TYPE, kind);
    table.chain("tagged").rules = vec![
        Rule::when().outside([IIFNAME, VLAN_ID], "trunks").goto("refuse"),
        kind(ARP).outside([IIFNAME, ARP_SADDR_ETHER], "macs").goto("refuse"),
        kind(ARP).leave(),
        kind(IP).is(L4PROTO, UDP).is(SPORT, DHCP_SERVER).goto("refuse"),
        kind(IP).is(L4PROTO, UDP).is(DPORT, DHCP_SERVER).jump("dhcp"),
        kind(IP).leave(),
        kind(IP6).jump("unhidden"),
        kind(IP6).leave(),
        Rule::when().goto("refuse"),
    ];
    // What plays the router, also in pieces or behind other headers (RFC 6980, RFC 7113).
    table.chain("unhidden").rules = vec![
        Rule::when().is(L4PROTO, ICMP6).within([ICMP6_TYPE], "routers").goto("refuse"),
        Rule::when().has_extension(FRAGMENT).within([FRAGMENT_NEXT], "hiding").goto("refuse"),
        Rule::when().has_extension(FRAGMENT).has_extension(HOP_BY_HOP).goto("refuse"),
        Rule::when().has_extension(FRAGMENT).has_extension(DESTINATION).goto("refuse"),
        Rule::when().has_extension(FRAGMENT).has_extension(ROUTING).goto("refuse"),
        Rule::when().has_extension(FRAGMENT).is(L4PROTO, ICMP6).within([ICMP6_TYPE], "discovery").goto("refuse"),
        Rule::when().is(L4PROTO, UDP).is(SPORT, super::wire::DHCP6_SERVER).goto("refuse"),
    ];
}

/// How fast a port may lay claim to addresses: its allowance at once, then a few a minute.
fn pace(table: &mut Table, allowances: &BTreeSet<u16>) {
    for allowance in allowances {
        table.set(upto(*allowance), Form::of([Type::IfName]));
        for (version, burst) in [("4", *allowance), ("6", (*allowance).max(LEAST6))] {
            let claiming = claiming(version, *allowance);
            table.learned(&claiming, Form::of([Type::IfName]).learned(PACE));
            let rate = Rate { a_minute: A_MINUTE, burst: burst.into() };
            let over = Rule::when().within([IIFNAME], upto(*allowance)).above(claiming, [IIFNAME], rate);
            table.chain(format!("pace{version}")).rules.push(over.goto("refuse"));
        }
    }
}

/// Keeps count of the claims of ports with this allowance.
pub fn claiming(version: &str, allowance: u16) -> String {
    format!("claiming{version}_{allowance}")
}

fn upto(allowance: u16) -> String {
    format!("upto_{allowance}")
}

/// What of a switch is not a port of a guest.
pub fn switch(table: &mut Table, on: &OnHost) {
    if let SwitchKind::External { adapter, .. } = &on.switch.kind {
        let adapter = ifname(adapter);
        insert(table, "ports", Key::of([&adapter]), Some(goto(format!("{}_lan", on.switch.bridge()))));
        if closed(on.switch) {
            insert(table, "closed", Key::of([&adapter]), None);
        }
    }
    if let Some(rules) = handed(on.switch) {
        table.chain(handed_chain(on.switch)).rules = rules;
    }
}

fn handed_chain(switch: &Switch) -> String {
    format!("{}_handed", switch.bridge())
}

/// What the host takes from ports to be routed. Where it shares a network it is no router for guests; and to isolated
/// guests none within their own network, where they would meet.
fn handed(switch: &Switch) -> Option<Vec<Rule>> {
    let own = |version: &str| format!("{}_host{version}", switch.bridge());
    let (four, six) = (|| Rule::when().is(ETHER_TYPE, IP), || Rule::when().is(ETHER_TYPE, IP6));
    let mut rules = vec![
        // To everybody.
        Rule::when().masked(ETHER_DADDR, [1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]).accept(),
        four().within([IP_DADDR], own("4")).accept(),
        six().within([IP6_DADDR], own("6")).accept(),
    ];
    match &switch.kind {
        SwitchKind::External { allow_management_os: true, .. } => {
            rules.extend([four().goto("refuse"), six().goto("refuse")]);
        }
        SwitchKind::Internal { subnet: Some(subnet) } => {
            let mask = subnet.network.to_bits() ^ subnet.broadcast().to_bits();
            rules.push(four().masked(IP_DADDR, (!mask).to_be_bytes(), subnet.network.octets()).goto("refuse"));
            let net = |six: &Subnet6| six.network.octets();
            let half = (u128::MAX << 64).to_be_bytes();
            rules.extend(subnet.ipv6.as_ref().map(|it| six().masked(IP6_DADDR, half, net(it)).goto("refuse")));
        }
        _ => return None,
    }
    Some(rules)
}

/// The elements of a port.
pub fn port(put: &mut Put, port: &RuledPort) {
    let tap = ifname(&port.tap);
    let alone = || Key::of([&tap]);
    for set in ["tally", "taps"] {
        put(set, alone(), None);
    }
    put("own_macs", Key::of([&port.mac]), None);
    put("macs", Key::of([&tap, &port.mac]), None);
    let Some(on) = port.on else {
        put("ports", alone(), Some(goto("refuse")));
        return;
    };
    if closed(on.switch) {
        put("closed", alone(), None);
    }
    let shared = matches!(on.switch.kind, SwitchKind::External { allow_management_os: true, .. });
    if shared || port.settings.isolated && on.switch.subnet().is_some() {
        put("handed", alone(), Some(goto(handed_chain(on.switch))));
    }
    if shared && port.settings.allow_spoofing {
        put("masked", alone(), None);
    }
    if let Some(bits) = port.settings.bandwidth.outbound {
        // The kernel counts in nanoseconds of 64 bits.
        let bytes = (bits / 8).clamp(1, FASTEST);
        put("outbound", alone(), Some(Datum::Above { bytes, burst: BURST }));
    }
    if port.settings.allow_spoofing {
        put("ports", alone(), Some(goto("free")));
        return;
    }
    put("ports", alone(), Some(goto(&port.segment)));
    for vlan in &port.settings.trunk {
        put("trunks", Key::of([&tap, &vlan.to_be_bytes()]), None);
    }
    if let Some(address) = port.settings.address {
        put("fixed", alone(), None);
        put("given4", Key::of([&tap, &address.octets()]), None);
        put(&format!("{}_assigned4", port.segment), Key::of([&address.octets()]), None);
    }
    put(&upto(port.allowance()), alone(), None);
    for address in port.own6() {
        put("given6", Key::of([&tap, &address]), None);
        put(&format!("{}_assigned6", port.segment), Key::of([&address]), None);
    }
}

/// Puts an element into the set of this name.
pub type Put<'a> = dyn FnMut(&str, Key, Option<Datum>) + 'a;

/// Into a set that is there.
pub fn insert(table: &mut Table, set: &str, key: Key, value: Option<Datum>) {
    if let Some(elements) = table.sets.get_mut(set).and_then(|set| set.elements.as_mut()) {
        elements.insert(key, value);
    }
}
