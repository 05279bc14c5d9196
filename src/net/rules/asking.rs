//! The arp table: for which addresses the host answers guests. It would for any that it has, on any interface.

use super::{
    OnHost, RuledPort,
    ports::{Put, insert},
};
use crate::net::nft::{Base, Chain, ChainKind, Form, Hook, Key, Rule, Table, Type, field::*, ifname};

pub fn frame(table: &mut Table) {
    table.set("taps", Form::of([Type::IfName]).counted());
    table.set("inside", Form::of([Type::IfName]));
    table.set("own4", Form::of([Type::IfName, Type::Ip4]));
    let rules = vec![
        // Frames that a bridge hands to the host without looking at them.
        Rule::when().within([IIFNAME], "taps").drop(),
        Rule::when().is(ARP_OPERATION, [0, 1]).within([IIFNAME], "inside").outside([IIFNAME, ARP_DADDR], "own4").drop(),
    ];
    let base = Some(Base { kind: ChainKind::Filter, hook: Hook::Input, priority: 0, drop: false });
    *table.chain("input") = Chain { base, rules };
}

/// A switch with a subnet: the host is known there under that address alone.
pub fn switch(table: &mut Table, on: &OnHost) {
    if let Some(subnet) = on.switch.subnet() {
        let bridge = ifname(&on.switch.bridge());
        insert(table, "inside", Key::of([&bridge]), None);
        insert(table, "own4", Key::of([&bridge, &subnet.gateway().octets()]), None);
    }
}

pub fn port(put: &mut Put, port: &RuledPort) {
    put("taps", Key::of([&ifname(&port.tap)]), None);
}
