//! The inet table: what of the host guests reach, what is routed between our networks and others, and under which address.

use super::{
    Forward, GUEST, OnHost, RuledPort, closed, ipv6,
    ports::{Put, insert},
    wire::{DHCP_SERVER, DHCP6_SERVER, DNS, ICMP, ICMP6, TCP, UDP},
};
use crate::{
    model::SwitchKind,
    net::nft::{Base, Chain, ChainKind, Datum, Form, Hook, Key, Rule, Table, Type, When, field::*, ifname},
};

/// Behind the connections' own place, before anybody rewrites an address.
const EARLY: i32 = -160;
const MANGLE: i32 = -150;
const DSTNAT: i32 = -100;
/// Before others judge.
const FILTER: i32 = -10;
const SRCNAT: i32 = 100;

/// Bits of a connection's state and status.
const KNOWN: u32 = 2 | 4;
const REDIRECTED: u32 = 32;

/// Kinds of addresses (linux/rtnetlink.h), in the byte order of the host.
const LOCAL: [u8; 4] = 2u32.to_ne_bytes();
const BROADCAST: [u8; 4] = 3u32.to_ne_bytes();
const MULTICAST: [u8; 4] = 5u32.to_ne_bytes();

const V4: [u8; 1] = [2];
const V6: [u8; 1] = [10];

/// What is there without any switch.
pub fn frame(table: &mut Table) {
    sets(table);
    // By the MAC address, which a port cannot choose: the tap is not known here any more.
    table.chain("refuse").rules = vec![Rule::when().within([ETHER_SADDR], "guests").drop(), Rule::when().drop()];
    prerouting(table);
    host(table);
    forwarding(table);
    rewriting(table);
}

fn sets(table: &mut Table) {
    let bridges = || Form::of([Type::IfName]);
    table.set("taps", bridges());
    table.set("guests", Form::of([Type::Ether]).counted());
    table.set("own_macs", Form::of([Type::Ether]));
    // Bridges of Internal switches, and of those that the host shares with the network behind an adapter.
    table.set("inside", bridges());
    table.set("shared", bridges());
    // Each with itself: where the host has bridged frames filtered as routed ones (br_netfilter), those between two of its
    // ports come by here too.
    table.set("within", Form::of([Type::IfName, Type::IfName]));
    // What of the host is open to guests: everything on the switch's own address, or single ports.
    table.set("open", bridges());
    table.set("services", Form::of([Type::IfName, Type::Protocol, Type::Service]));
    // With IPv6, with NAT, routed.
    table.set("six", bridges());
    table.set("nat", bridges());
    table.set("nat6", bridges());
    table.set("routed6", bridges());
    table.set("nets4", Form::of([Type::Ip4]).intervals());
    table.set("nat_nets4", Form::of([Type::Ip4]).intervals());
    table.set("nat_nets6", Form::of([Type::Ip6]).intervals());
    table.set("routed_nets6", Form::of([Type::Ip6]).intervals());
    // Guests that are kept apart.
    table.set("apart4", Form::of([Type::IfName, Type::Ip4]));
    // Forwards: on every address of the host or on one, where they lead, and who of the guests may use them.
    let to = [Type::Ip4, Type::Service];
    table.set("forwards", Form::map([Type::Protocol, Type::Service], to));
    table.set("forwards_at", Form::map([Type::Protocol, Type::Service, Type::Ip4], to));
    table.set("targets", Form::of([Type::IfName, Type::Protocol, Type::Ip4, Type::Service]));
    table.set("published", Form::of([Type::IfName, Type::Protocol, Type::Service]));
    table.set("published_at", Form::of([Type::IfName, Type::Protocol, Type::Service, Type::Ip4]));
}

fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { base: Some(Base { kind, hook, priority, drop: false }), rules }
}

fn v4() -> When {
    Rule::when().is(NFPROTO, V4)
}

fn v6() -> When {
    Rule::when().is(NFPROTO, V6)
}

fn known() -> Rule {
    Rule::when().any(CT_STATE, KNOWN).accept()
}

/// Before anybody else's rules could lead a guest elsewhere.
fn prerouting(table: &mut Table) {
    // A bridge hands some frames to the host without looking at them: those to 01:80:c2:00:00:0e.
    let taps = vec![Rule::when().within([IIFNAME], "taps").goto("refuse")];
    *table.chain("taps") = base(ChainKind::Filter, Hook::Prerouting, -300, taps);
    let guests = vec![
        known(),
        Rule::when().within([IIFNAME], "inside").is(DADDR_KIND, LOCAL).goto("own"),
        Rule::when().within([IIFNAME], "shared").within([ETHER_SADDR], "own_macs").is(DADDR_KIND, LOCAL).goto("own"),
        Rule::when().within([IIFNAME], "shared").any(MARK, GUEST).is(DADDR_KIND, LOCAL).goto("own"),
    ];
    *table.chain("prerouting") = base(ChainKind::Filter, Hook::Prerouting, EARLY, guests);
}

/// What guests reach of the host itself.
fn host(table: &mut Table) {
    let input = vec![
        known(),
        Rule::when().within([IIFNAME], "inside").goto("local"),
        Rule::when().within([IIFNAME], "shared").within([ETHER_SADDR], "own_macs").goto("local"),
        Rule::when().within([IIFNAME], "shared").any(MARK, GUEST).goto("local"),
    ];
    *table.chain("input") = base(ChainKind::Filter, Hook::Input, EARLY, input);
    table.chain("local").rules = vec![
        v6().is(IP6_DADDR_FIRST, [255]).goto("crowd"),
        v4().is(DADDR_KIND, BROADCAST).goto("crowd"),
        v4().is(DADDR_KIND, MULTICAST).goto("crowd"),
        Rule::when().goto("own"),
    ];
    let service = || Rule::when().within([IIFNAME, L4PROTO, DPORT], "services").accept();
    // What is said to everybody is not refused, but not listened to either.
    table.chain("crowd").rules = vec![
        Rule::when().within([IIFNAME], "open").accept(),
        v6().within([IIFNAME], "six").is(L4PROTO, ICMP6).accept(),
        service(),
        Rule::when().drop(),
    ];
    table.chain("own").rules = vec![
        v4().within([IIFNAME, L4PROTO, DPORT], "published").accept(),
        v4().within([IIFNAME, L4PROTO, DPORT, IP_DADDR], "published_at").accept(),
        // The host's other addresses, on whichever interface.
        Rule::when().isnt(DADDR_KIND_HERE, LOCAL).goto("refuse"),
        v6().outside([IIFNAME], "six").goto("refuse"),
        Rule::when().within([IIFNAME], "open").accept(),
        Rule::when().is(L4PROTO, ICMP).accept(),
        Rule::when().is(L4PROTO, ICMP6).accept(),
        service(),
        Rule::when().goto("refuse"),
    ];
}

/// Outwards from networks with NAT, both ways to those that are routed, inwards where a forward leads, and nothing else.
fn forwarding(table: &mut Table) {
    let from = |set: &str| Rule::when().within([IIFNAME], set);
    let to = |set: &str| Rule::when().within([OIFNAME], set);
    let rules = vec![
        v4().within([IIFNAME, OIFNAME], "within")
            .within([IIFNAME, IP_SADDR], "apart4")
            .within([OIFNAME, IP_DADDR], "apart4")
            .goto("refuse"),
        Rule::when().within([IIFNAME, OIFNAME], "within").accept(),
        // Nobody routes these (RFC 3927); what answers there is a cloud's metadata service.
        from("inside").is(NFPROTO, V4).masked(IP_DADDR, [255, 255, 0, 0], [169, 254, 0, 0]).goto("refuse"),
        from("inside").within([OIFNAME], "inside").goto("refuse"),
        from("inside").any(CT_STATE, KNOWN).accept(),
        to("inside").any(CT_STATE, KNOWN).accept(),
        v4().any(CT_STATUS, REDIRECTED).within([OIFNAME, L4PROTO, IP_DADDR, DPORT], "targets").accept(),
        // Under another address than the network's it would leave as it is.
        from("nat").is(NFPROTO, V4).within([IP_SADDR], "nat_nets4").accept(),
        from("nat6").is(NFPROTO, V6).within([IP6_SADDR], "nat_nets6").accept(),
        from("routed6").is(NFPROTO, V6).within([IP6_SADDR], "routed_nets6").accept(),
        to("routed6").is(NFPROTO, V6).accept(),
        from("inside").goto("refuse"),
        to("inside").drop(),
    ];
    *table.chain("forward") = base(ChainKind::Filter, Hook::Forward, FILTER, rules);
    // Where "fragmentation needed" is lost on the way, TCP would hang.
    let opens = || Rule::when().is(L4PROTO, TCP).masked(TCP_FLAGS, [6], [2]);
    let clamp = vec![opens().within([IIFNAME], "inside").clamp_mss(), opens().within([OIFNAME], "inside").clamp_mss()];
    *table.chain("mss") = base(ChainKind::Filter, Hook::Forward, MANGLE, clamp);
}

fn rewriting(table: &mut Table) {
    let forwards = || {
        [
            v4().is(DADDR_KIND, LOCAL).dnat([L4PROTO, DPORT, IP_DADDR], "forwards_at"),
            v4().is(DADDR_KIND, LOCAL).dnat([L4PROTO, DPORT], "forwards"),
        ]
    };
    *table.chain("dstnat") = base(ChainKind::Nat, Hook::Prerouting, DSTNAT, forwards().into());
    // Of the host itself; loopback addresses do not leave it.
    let loopback = v4().masked(IP_DADDR, [255, 0, 0, 0], [127, 0, 0, 0]).accept();
    let own = [loopback].into_iter().chain(forwards()).collect();
    *table.chain("output") = base(ChainKind::Nat, Hook::Output, DSTNAT, own);
    let outwards = vec![
        v4().within([IP_SADDR], "nat_nets4").outside([OIFNAME], "inside").masquerade(),
        // A guest that takes a forward to its neighbour: the answer comes back by the host.
        v4().any(CT_STATUS, REDIRECTED).within([IP_SADDR], "nets4").within([OIFNAME], "inside").masquerade(),
        v6().within([IP6_SADDR], "nat_nets6").outside([OIFNAME], "inside").masquerade(),
    ];
    *table.chain("srcnat") = base(ChainKind::Nat, Hook::Postrouting, SRCNAT, outwards);
}

pub fn switch(table: &mut Table, on: &OnHost) {
    let bridge = ifname(&on.switch.bridge());
    let mut put = |set: &str, key: Key| insert(table, set, key, None);
    match &on.switch.kind {
        SwitchKind::Internal { .. } => put("inside", Key::of([&bridge])),
        SwitchKind::External { .. } if !closed(on.switch) => {
            put("shared", Key::of([&bridge]));
            put("six", Key::of([&bridge]));
        }
        SwitchKind::Private | SwitchKind::External { .. } => return,
    }
    let Some(subnet) = on.switch.subnet() else { return put("within", Key::of([&bridge, &bridge])) };
    put("within", Key::of([&bridge, &bridge]));
    put("services", Key::of([&bridge, &UDP, &DHCP_SERVER]));
    if subnet.serves_names() {
        put("services", Key::of([&bridge, &UDP, &DNS]));
        put("services", Key::of([&bridge, &TCP, &DNS]));
    }
    if subnet.host_access {
        put("open", Key::of([&bridge]));
    }
    let net = || Key::range(&subnet.network.octets(), &subnet.broadcast().octets());
    net().for_each(|border| put("nets4", border));
    if subnet.nat {
        put("nat", Key::of([&bridge]));
        net().for_each(|border| put("nat_nets4", border));
    }
    if let Some(six) = ipv6(on.switch) {
        put("six", Key::of([&bridge]));
        put("services", Key::of([&bridge, &UDP, &DHCP6_SERVER]));
        let (bridges, nets) = if six.nat { ("nat6", "nat_nets6") } else { ("routed6", "routed_nets6") };
        put(bridges, Key::of([&bridge]));
        let first = six.network.octets();
        let last = (u128::from(six.network) | u128::from(u64::MAX)).to_be_bytes();
        Key::range(&first, &last).for_each(|border| put(nets, border));
    }
}

pub fn forward(put: &mut Put, forward: &Forward) {
    let bridge = ifname(&forward.bridge);
    let (protocol, port) = ([forward.protocol], forward.host_port.to_be_bytes());
    let (guest, guest_port) = (forward.guest.octets(), forward.guest_port.to_be_bytes());
    let to = Some(Datum::Bytes(Key::of([&guest, &guest_port]).bytes));
    match forward.host_address.map(|address| address.octets()) {
        None => {
            put("forwards", Key::of([&protocol, &port]), to);
            put("published", Key::of([&bridge, &protocol, &port]), None);
        }
        Some(address) => {
            put("forwards_at", Key::of([&protocol, &port, &address]), to);
            put("published_at", Key::of([&bridge, &protocol, &port, &address]), None);
        }
    }
    put("targets", Key::of([&bridge, &protocol, &guest, &guest_port]), None);
}

pub fn port(put: &mut Put, port: &RuledPort) {
    put("taps", Key::of([&ifname(&port.tap)]), None);
    put("guests", Key::of([&port.mac]), None);
    put("own_macs", Key::of([&port.mac]), None);
    if let (true, Some(address), Some(on)) = (port.settings.isolated, port.settings.address, port.on) {
        put("apart4", Key::of([&ifname(&on.switch.bridge()), &address.octets()]), None);
    }
}
