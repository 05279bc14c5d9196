//! One network of a switch, with or without a VLAN: who may use which address. An address belongs to the port that it was
//! given to; else to the host or the network behind the adapter, who come first; else to the port that claimed it first.

use std::{net::IpAddr, time::Duration};

use super::{
    OnHost, goto, host4, host6,
    wire::{ARP, DHCP_CLIENT, DHCP_SERVER, DHCP6_SERVER, FRAGMENT, ICMP6, IP, IP6, UDP, VLAN},
};
use crate::{
    model::{Switch, SwitchKind},
    net::nft::{Field, Form, Key, Rate, Rule, Table, Type, field::*},
};

/// A claim lasts for so long after its last use.
pub const CLAIM: Duration = Duration::from_secs(3600);
/// What was heard from behind the adapter.
const HEARD: Duration = Duration::from_secs(1200);
/// A claim that is being made: of two at the same instant, on two processors, the first is not above the rate.
const FIRST: Rate = Rate { a_minute: 1, burst: 1 };
const MADE: Duration = Duration::from_secs(10);
const NOBODY: [u8; 16] = [0; 16];

pub struct Segment {
    /// Its chain, and the beginning of the names of all that is its own.
    pub name: String,
    bridge: String,
    vlan: Option<u16>,
    external: bool,
    /// Where the bridge keeps VLANs apart: the one that has no tag on the wire.
    native: Option<u16>,
    host: Vec<IpAddr>,
}

/// The chain that judges the frames of ports in there.
pub fn name(switch: &Switch, vlan: Option<u16>) -> String {
    match vlan {
        Some(vlan) => format!("{}_v{vlan}", switch.bridge()),
        None => switch.bridge(),
    }
}

impl Segment {
    pub fn new(on: &OnHost, vlan: Option<u16>) -> Self {
        Self {
            name: name(on.switch, vlan),
            bridge: on.switch.bridge(),
            vlan,
            external: matches!(on.switch.kind, SwitchKind::External { .. }),
            native: None,
            // The host itself is in no VLAN.
            host: if vlan.is_none() { on.host.to_vec() } else { Vec::new() },
        }
    }

    pub fn with_native(self, native: Option<u16>) -> Self {
        Self { native, ..self }
    }

    pub fn write(&self, table: &mut Table) {
        let name = |what: &str| self.of(what);
        let (four, six) = (|| Form::of([Type::Ip4]), || Form::of([Type::Ip6]));
        table.set(name("host4"), four()).extend(host4(&self.host).map(|ip| (Key::of([&ip.octets()]), None)));
        table.set(name("host6"), six()).extend(host6(&self.host).map(|ip| (Key::of([&ip.octets()]), None)));
        table.set(name("assigned4"), four());
        table.set(name("assigned6"), six());
        for (kind, version) in [(Type::Ip4, "4"), (Type::Ip6, "6")] {
            table.learned(name(&format!("lan{version}")), Form::of([kind]).learned(HEARD));
            table.learned(name(&format!("taken{version}")), Form::of([kind]).learned(CLAIM));
            let claims = Form::of([Type::IfName, kind]).learned(CLAIM);
            table.learned(name(&format!("claims{version}")), claims);
            table.learned(name(&format!("first{version}")), Form::of([kind]).learned(MADE));
        }
        let kinds = table.set(name("kinds"), Form::verdicts([Type::EtherType]));
        for (kind, chain) in [(ARP, "arp"), (IP, "ip"), (IP6, "ip6")] {
            kinds.insert(Key::of([&kind]), Some(goto(self.of(chain))));
        }
        if self.external {
            kinds.insert(Key::of([&VLAN]), Some(goto(format!("{}_tagged", self.bridge))));
        }
        table.chain(&self.name).rules = vec![
            Rule::when().outside([IIFNAME, ETHER_SADDR], "macs").goto("refuse"),
            Rule::when().dispatch([ETHER_TYPE], name("kinds")),
            // Among them frames with a tag that is no VLAN's: it would hide the rest.
            refuse(),
        ];
        table.chain(name("arp")).rules = self.arp();
        table.chain(name("ip")).rules = self.ip();
        table.chain(name("ip6")).rules = self.ip6();
        table.chain(name("dad")).rules = self.owned("6", ND_TARGET);
        table.chain(name("advert")).rules = self.advertised();
        if self.external {
            self.lan(table);
            self.trunked(table);
        }
    }

    fn of(&self, what: &str) -> String {
        format!("{}_{what}", self.name)
    }

    fn arp(&self) -> Vec<Rule> {
        let arp_probe = || Rule::when().is(ARP_SADDR, [0; 4]);
        let mut rules = vec![
            Rule::when().isnt(ARP_HTYPE, [0, 1]).goto("refuse"),
            Rule::when().isnt(ARP_PTYPE, IP).goto("refuse"),
            Rule::when().outside([IIFNAME, ARP_SADDR_ETHER], "macs").goto("refuse"),
            // Asks whether an address is free (RFC 5227): who asks at the same time as its owner takes it from it.
            arp_probe().within([IIFNAME, ARP_DADDR], "given4").accept(),
            arp_probe().within([IIFNAME], "fixed").goto("refuse"),
        ];
        for others in ["host4", "assigned4"] {
            rules.push(arp_probe().within([ARP_DADDR], self.of(others)).goto("refuse"));
        }
        rules.push(arp_probe().within([IIFNAME, ARP_DADDR], self.of("claims4")).accept());
        rules.push(arp_probe().within([ARP_DADDR], self.of("taken4")).goto("refuse"));
        rules.push(arp_probe().accept());
        rules.extend(self.owned("4", ARP_SADDR));
        rules
    }

    fn ip(&self) -> Vec<Rule> {
        let udp = || Rule::when().is(L4PROTO, UDP);
        let mut rules = vec![
            // Only the switch's own DHCP, or that behind the adapter, answers.
            udp().is(SPORT, DHCP_SERVER).goto("refuse"),
            udp().is(DPORT, DHCP_SERVER).jump("dhcp"),
            udp().is(SPORT, DHCP_CLIENT).is(DPORT, DHCP_SERVER).is(IP_SADDR, [0; 4]).accept(),
            Rule::when().is(IP_SADDR, [0; 4]).goto("refuse"),
        ];
        rules.extend(self.owned("4", IP_SADDR));
        rules
    }

    fn ip6(&self) -> Vec<Rule> {
        let icmp = || Rule::when().is(L4PROTO, ICMP6);
        let mut rules = vec![
            Rule::when().jump("unhidden"),
            Rule::when().is(L4PROTO, UDP).is(DPORT, DHCP6_SERVER).has_extension(FRAGMENT).goto("refuse"),
            icmp().is(IP6_SADDR, NOBODY).within([ICMP6_TYPE], "early").accept(),
            // Asks whether an address is free: the first who asks has it.
            icmp().is(IP6_SADDR, NOBODY).is(ICMP6_TYPE, [135]).goto(self.of("dad")),
            Rule::when().is(IP6_SADDR, NOBODY).goto("refuse"),
            icmp().is(ICMP6_TYPE, [136]).jump(self.of("advert")),
        ];
        rules.extend(self.owned("6", IP6_SADDR));
        rules
    }

    /// Whose address the field is, and whether it becomes the port's own.
    fn owned(&self, version: &str, address: Field) -> Vec<Rule> {
        let named = |what: &str| self.of(&format!("{what}{version}"));
        let claim = |when: crate::net::nft::When| {
            when.update(named("taken"), [address]).update(named("claims"), [IIFNAME, address]).accept()
        };
        let mut rules = vec![Rule::when().within([IIFNAME, address], format!("given{version}")).accept()];
        if version == "4" {
            rules.push(Rule::when().within([IIFNAME], "fixed").goto("refuse"));
        }
        for others in ["host", "assigned", "lan"] {
            rules.push(Rule::when().within([address], named(others)).goto("refuse"));
        }
        rules.push(claim(Rule::when().within([IIFNAME, address], named("claims"))));
        rules.push(Rule::when().within([address], named("taken")).goto("refuse"));
        rules.push(Rule::when().jump(format!("pace{version}")));
        rules.push(Rule::when().above(named("first"), [address], FIRST).goto("refuse"));
        rules.push(claim(Rule::when()));
        // Where there is no room for more claims.
        rules.push(refuse());
        rules
    }

    /// Somebody else's address, advertised from one's own.
    fn advertised(&self) -> Vec<Rule> {
        let mut rules = vec![Rule::when().within([IIFNAME, ND_TARGET], "given6").leave()];
        for others in ["host6", "assigned6", "lan6"] {
            rules.push(Rule::when().within([ND_TARGET], self.of(others)).goto("refuse"));
        }
        rules.push(Rule::when().within([IIFNAME, ND_TARGET], self.of("claims6")).leave());
        rules.push(Rule::when().within([ND_TARGET], self.of("taken6")).goto("refuse"));
        rules
    }

    /// What the network behind the adapter says of itself; our own ports' words that it sends back do not count.
    fn lan(&self, table: &mut Table) {
        let heard = || Rule::when().outside([ETHER_SADDR], "own_macs");
        let (kind, lan) = if self.vlan.is_some() { (VLAN_TYPE, "heard") } else { (ETHER_TYPE, "lan") };
        let learning = [
            heard().is(kind, ARP).isnt(ARP_SADDR, [0; 4]).update(self.of("lan4"), [ARP_SADDR]).go_on(),
            heard().is(kind, IP6).is(L4PROTO, ICMP6).is(ICMP6_TYPE, [136]).update(self.of("lan6"), [ND_TARGET]).go_on(),
        ];
        let vlans = format!("{}_vlans", self.bridge);
        table.set(&vlans, Form::verdicts([Type::Service]));
        match self.vlan {
            None => {
                let rules = &mut table.chain(self.of(lan)).rules;
                rules.push(Rule::when().is(ETHER_TYPE, VLAN).dispatch([VLAN_ID], vlans));
                if let Some(native) = self.native {
                    // With a tag it is another network on the wire.
                    let its = Rule::when().is(ETHER_TYPE, VLAN).is(VLAN_ID, native.to_be_bytes());
                    rules.push(its.drop());
                }
                rules.extend(learning);
            }
            Some(vlan) => {
                table.chain(self.of(lan)).rules = learning.into();
                let to = Some(goto(self.of(lan)));
                table.set(vlans, Form::verdicts([Type::Service])).insert(Key::of([&vlan.to_be_bytes()]), to);
            }
        }
    }
}

impl Segment {
    /// What a port may send with a tag: in the VLANs of its trunk, and not under the addresses of those whose own VLAN it
    /// is. It is a router there more often than not, so it may send under any other.
    fn trunked(&self, table: &mut Table) {
        let met = format!("{}_met", self.bridge);
        let into = table.set(&met, Form::verdicts([Type::Service]));
        let Some(vlan) = self.vlan else {
            table.chain(format!("{}_tagged", self.bridge)).rules =
                vec![Rule::when().jump("tagged"), Rule::when().dispatch([VLAN_ID], met), Rule::when().accept()];
            return;
        };
        into.insert(Key::of([&vlan.to_be_bytes()]), Some(goto(self.of("met"))));
        let arp = || Rule::when().is(VLAN_TYPE, ARP);
        let arp_probe = || arp().is(ARP_SADDR, [0; 4]);
        let asks = || Rule::when().is(VLAN_TYPE, IP6).is(L4PROTO, ICMP6).is(IP6_SADDR, NOBODY).is(ICMP6_TYPE, [135]);
        let advert = || Rule::when().is(VLAN_TYPE, IP6).is(L4PROTO, ICMP6).is(ICMP6_TYPE, [136]);
        let mut rules = Vec::new();
        for whose in ["assigned", "taken"] {
            let (four, six) = (self.of(&format!("{whose}4")), self.of(&format!("{whose}6")));
            rules.push(arp_probe().within([ARP_DADDR], four.clone()).goto("refuse"));
            rules.push(arp().within([ARP_SADDR], four).goto("refuse"));
            rules.push(asks().within([ND_TARGET], six.clone()).goto("refuse"));
            rules.push(advert().within([ND_TARGET], six).goto("refuse"));
        }
        rules.push(Rule::when().is(VLAN_TYPE, IP).within([IP_SADDR], self.of("assigned4")).goto("refuse"));
        rules.push(Rule::when().is(VLAN_TYPE, IP6).within([IP6_SADDR], self.of("assigned6")).goto("refuse"));
        // What it calls its own there is no neighbour's to take.
        rules.push(arp_probe().accept());
        rules.push(arp().update(self.of("lan4"), [ARP_SADDR]).go_on());
        rules.push(advert().update(self.of("lan6"), [ND_TARGET]).go_on());
        rules.push(Rule::when().accept());
        table.chain(self.of("met")).rules = rules;
    }
}

fn refuse() -> Rule {
    Rule::when().goto("refuse")
}
