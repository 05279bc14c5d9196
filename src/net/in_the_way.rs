//! What of a switch's traffic the rules of others drop, in words for people, with what lets it through. Where a packet is
//! dropped is `foreign`'s knowledge.

use super::{
    foreign::{self, Dropped, ICMP6, Net, Packet, TCP, UDP, legacy_tool},
    nft::{Hook, OtherTable},
};
use crate::model::{Protocol, Switch, SwitchKind};

const DHCP: u16 = 67;
/// Where its clients are.
const DHCP_CLIENT: u16 = 68;
const DNS: u16 = 53;
/// Of those from which guests ask: no rule that lets single services through is about it.
const EPHEMERAL: u16 = 49152;

/// How the host is besides.
pub struct Facts<'a> {
    /// By which it reaches other networks, by IPv4 and IPv6.
    pub uplinks: &'a [Option<String>; 2],
    /// Whether it has frames between two ports of a bridge filtered as if it routed them, of IPv4 and IPv6.
    pub bridged: [bool; 2],
    /// Those of the switch.
    pub taps: &'a [String],
}

/// What of a switch others' rules drop, with what to do.
pub fn in_the_way(tables: &[OtherTable], switch: &Switch, facts: &Facts) -> Option<String> {
    let look = Look { tables, switch, bridge: switch.bridge(), facts };
    let mut problems = Vec::new();
    for (at, net) in [Net::V4, Net::V6].into_iter().enumerate() {
        problems.extend(look.routed(net, facts.uplinks[at].as_deref()));
        problems.extend(look.requests(net));
        problems.extend(look.between(net, facts.bridged[at]));
    }
    problems.extend(look.forwarded(facts.uplinks[0].as_deref()));
    problems.extend(look.resolved());
    // What is so of one is so of all.
    problems.extend(facts.taps.first().into_iter().flat_map(|tap| look.bridged(tap)));
    problems.extend(look.on_devices());
    problems.dedup();
    (!problems.is_empty()).then(|| problems.join("; "))
}

struct Look<'a> {
    tables: &'a [OtherTable],
    switch: &'a Switch,
    bridge: String,
    facts: &'a Facts<'a>,
}

impl Look<'_> {
    fn nat(&self) -> bool {
        self.switch.subnet().is_some_and(|subnet| subnet.nat)
    }

    fn six(&self) -> bool {
        self.switch.subnet().is_some_and(|subnet| subnet.ipv6.is_some())
    }

    fn packet(&self, net: Net) -> Packet {
        Packet { net, from: self.bridge.clone(), protocol: Some(TCP), ..Packet::default() }
    }

    /// What a problem says: where something is dropped, what, and how it is let through.
    fn report(&self, dropped: &Dropped, what: &str, through: &Let) -> String {
        format!("{dropped} drops {what}; {}", allow(self.tables, dropped, through, &self.bridge))
    }

    /// Before the way of a packet is known. What is let through there is known by where it comes from alone.
    fn early(&self, packet: &Packet) -> Option<Dropped> {
        foreign::dropped(self.tables, Hook::Prerouting, &Packet { to: None, ..packet.clone() })
    }

    /// When its way is known, right before it leaves.
    fn late(&self, packet: &Packet) -> Option<Dropped> {
        foreign::dropped(self.tables, Hook::Postrouting, packet)
    }

    /// To other networks and back.
    fn routed(&self, net: Net, uplink: Option<&str>) -> Option<String> {
        let (leads, by) = match net {
            Net::V6 => (self.six(), " by IPv6"),
            _ => (self.nat(), ""),
        };
        if !leads {
            return None;
        }
        let forward = |packet: &Packet| foreign::dropped(self.tables, Hook::Forward, packet);
        let out = Packet { to: uplink.map(str::to_owned), ..self.packet(net) };
        let what = format!("what the guests send to other networks{by}");
        if let Some(dropped) = self.early(&out).or_else(|| forward(&out)) {
            return Some(self.report(&dropped, &what, &Let { from: Some(&self.bridge), ..Let::default() }));
        }
        if let Some(dropped) = uplink.and_then(|_| self.late(&out)) {
            return Some(self.report(&dropped, &what, &Let { to: uplink, ..Let::default() }));
        }
        let back = Packet {
            from: uplink?.to_owned(),
            to: Some(self.bridge.clone()),
            answer: true,
            port: Some(EPHEMERAL),
            ..self.packet(net)
        };
        let what = format!("what other networks answer to the guests{by}");
        if let Some(dropped) = self.early(&back) {
            return Some(self.report(&dropped, &what, &Let { from: uplink, ..Let::default() }));
        }
        let through = Let { to: Some(&self.bridge), answers: true, ..Let::default() };
        forward(&back).or_else(|| self.late(&back)).map(|dropped| self.report(&dropped, &what, &through))
    }

    /// New connections that a port forward leads to a guest.
    fn forwarded(&self, uplink: Option<&str>) -> Option<String> {
        let from = uplink.filter(|_| self.nat())?.to_owned();
        self.switch.forwards.iter().find_map(|forward| {
            let protocol = match forward.protocol {
                Protocol::Tcp => TCP,
                Protocol::Udp => UDP,
            };
            let to = Some(self.bridge.clone());
            let port = Some(forward.guest_port);
            let packet = Packet { from: from.clone(), to, port, protocol: Some(protocol), ..Packet::default() };
            let dropped = foreign::dropped(self.tables, Hook::Forward, &packet).or_else(|| self.late(&packet))?;
            let through = Let { to: Some(&self.bridge), protocol, port, ..Let::default() };
            Some(self.report(&dropped, "what comes in by its port forwards", &through))
        })
    }

    /// What guests ask of the host, and what it answers.
    fn requests(&self, net: Net) -> Vec<String> {
        const ROUTER: Request = Request {
            what: "IPv6: who is their router, and where it is",
            protocol: ICMP6,
            port: None,
            answered_to: None,
        };
        const ADDRESS: Request =
            Request { what: "DHCP", protocol: UDP, port: Some(DHCP), answered_to: Some(DHCP_CLIENT) };
        const NAME: Request = Request { what: "names", protocol: UDP, port: Some(DNS), answered_to: None };
        let requests: &[Request] = match net {
            Net::V6 if self.six() => &[ROUTER],
            Net::V4 if self.nat() => &[ADDRESS, NAME],
            Net::V4 if self.switch.subnet().is_some() => &[ADDRESS],
            _ => &[],
        };
        requests.iter().filter_map(|request| self.request(net, request)).collect()
    }

    fn request(&self, net: Net, request: &Request) -> Option<String> {
        let Request { what, protocol, port, answered_to } = *request;
        let packet = Packet { protocol: Some(protocol), port, ..self.packet(net) };
        let lost = self.early(&packet).or_else(|| foreign::dropped(self.tables, Hook::Input, &packet));
        if let Some(dropped) = lost {
            let through = Let { from: Some(&self.bridge), protocol, port, ..Let::default() };
            return Some(self.report(&dropped, &format!("what the guests ask of the host's {what}"), &through));
        }
        // Of a question for a name the kernel knows what is its answer; of others it does not.
        let answer = port == Some(DNS);
        let port = if answer { Some(EPHEMERAL) } else { answered_to };
        let to = Some(self.bridge.clone());
        let packet = Packet { net, from: String::new(), to, answer, protocol: Some(protocol), port };
        let dropped = foreign::dropped(self.tables, Hook::Output, &packet).or_else(|| self.late(&packet))?;
        let through = Let { to: Some(&self.bridge), answers: answer, protocol, port: answered_to, ..Let::default() };
        Some(self.report(&dropped, &format!("what the host answers the guests about {what}"), &through))
    }

    /// Without ARP nobody finds anybody.
    fn resolved(&self) -> Option<String> {
        self.switch.subnet()?;
        let (from, to) = (self.bridge.as_str(), self.bridge.as_str());
        let ask = Packet { net: Net::Arp, from: from.into(), ..Packet::default() };
        let answer = Packet { net: Net::Arp, to: Some(to.into()), ..Packet::default() };
        let there = foreign::dropped(self.tables, Hook::Input, &ask).map(|dropped| {
            let through = Let { from: Some(from), ..Let::default() };
            self.report(&dropped, "the ARP by which guests and host find one another", &through)
        });
        there.or_else(|| {
            let dropped = foreign::dropped(self.tables, Hook::Output, &answer)?;
            let through = Let { to: Some(to), ..Let::default() };
            Some(self.report(&dropped, "the ARP by which guests and host find one another", &through))
        })
    }

    /// Between guests, where bridged frames are filtered as routed ones.
    fn between(&self, net: Net, bridged: bool) -> Option<String> {
        let (sysctl, here) = match net {
            Net::V6 => ("ip6tables", self.six() || self.switch.subnet().is_none() && !self.facts.bridged[0]),
            _ => ("iptables", true),
        };
        let packet = Packet { to: Some(self.bridge.clone()), ..self.packet(net) };
        let dropped = foreign::dropped(self.tables, Hook::Forward, &packet).filter(|_| bridged && here)?;
        let through = Let { from: Some(&self.bridge), to: Some(&self.bridge), ..Let::default() };
        let how = allow(self.tables, &dropped, &through, &self.bridge);
        Some(format!(
            "{dropped} drops what guests of the switch send to one another, because the host has bridged frames filtered; sysctl net.bridge.bridge-nf-call-{sysctl}=0 ends that, or {how}"
        ))
    }

    /// On the bridge itself.
    fn bridged(&self, tap: &str) -> Vec<String> {
        let drops = |hook, packet: &Packet| foreign::dropped_by_bridge(self.tables, hook, packet);
        let from = Packet { from: tap.into(), protocol: Some(TCP), ..Packet::default() };
        let between = Packet { to: Some(tap.into()), ..from.clone() };
        let to = Packet { from: String::new(), ..between.clone() };
        let (enters, leaves) =
            (Let { from: Some("qht*"), ..Let::default() }, Let { to: Some("qht*"), ..Let::default() });
        let mut reports = Vec::new();
        for (hook, packet) in [(Hook::Prerouting, &from), (Hook::Forward, &between)] {
            if let Some(dropped) = drops(hook, packet) {
                reports.push(self.report(&dropped, "what guests of the switch send to one another", &enters));
            }
        }
        if let Some(dropped) = drops(Hook::Postrouting, &to) {
            reports.push(self.report(&dropped, "what guests of the switch receive", &leaves));
        }
        // Of those where the host takes no part, nothing is to reach it.
        let shared = matches!(self.switch.kind, SwitchKind::External { allow_management_os: true, .. });
        if self.switch.subnet().is_some() || shared {
            let sent = drops(Hook::Input, &from);
            reports.extend(sent.map(|dropped| self.report(&dropped, "what the guests send to the host", &enters)));
            let received = drops(Hook::Output, &to);
            reports.extend(received.map(|dropped| self.report(&dropped, "what the host sends to the guests", &leaves)));
        }
        reports
    }

    /// On single devices, before or after anything else sees a packet.
    fn on_devices(&self) -> Vec<String> {
        let at = |device: &str, receives: bool, what: &str| {
            let hook = if receives { Hook::Ingress } else { Hook::Egress };
            [Net::V4, Net::Arp, Net::V6].into_iter().find_map(|net| {
                let protocol = (net != Net::Arp).then_some(TCP);
                let (from, to) = if receives { (device, None) } else { ("", Some(device.to_owned())) };
                let packet = Packet { net, from: from.to_owned(), to, protocol, ..Packet::default() };
                let dropped = foreign::dropped_at(self.tables, device, hook, &packet)?;
                let (from, to) = if receives { (Some(device), None) } else { (None, Some(device)) };
                Some(self.report(&dropped, what, &Let { from, to, ..Let::default() }))
            })
        };
        let mut reports = Vec::new();
        for tap in self.facts.taps {
            reports.extend(at(tap, true, &format!("what the guest behind {tap} sends")));
            reports.extend(at(tap, false, &format!("what the guest behind {tap} receives")));
        }
        if self.switch.subnet().is_some() {
            reports.extend(at(&self.bridge, true, "what the guests send to the host"));
            reports.extend(at(&self.bridge, false, "what the host sends to the guests"));
        }
        let (device, outside) = match &self.switch.kind {
            SwitchKind::External { adapter, .. } => (Some(adapter.as_str()), "the network of the adapter"),
            _ => (self.facts.uplinks[0].as_deref().filter(|_| self.nat()), "other networks"),
        };
        if let Some(device) = device {
            reports.extend(at(device, true, &format!("what comes for the guests from {outside}")));
            reports.extend(at(device, false, &format!("what the guests send to {outside}")));
        }
        reports
    }
}

/// What guests ask of the host.
#[derive(Clone, Copy)]
struct Request {
    what: &'static str,
    protocol: u8,
    port: Option<u16>,
    /// To this port, where that is always the same.
    answered_to: Option<u16>,
}

/// What a rule is to let through.
#[derive(Default)]
struct Let<'a> {
    from: Option<&'a str>,
    to: Option<&'a str>,
    /// Of connections that the other side has begun.
    answers: bool,
    /// Where it is asked for, with a port or without.
    protocol: u8,
    port: Option<u16>,
}

impl Let<'_> {
    fn protocol(&self) -> &'static str {
        if self.protocol == TCP { "tcp" } else { "udp" }
    }

    fn nft(&self) -> String {
        let names = [("iifname", self.from), ("oifname", self.to)];
        let names = names.into_iter().filter_map(|(word, name)| Some(format!("{word} \"{}\" ", name?)));
        let state = if self.answers { "ct state established,related " } else { "" };
        let port = self.port.map(|port| format!("{} dport {port} ", self.protocol())).unwrap_or_default();
        let icmp = if self.protocol == ICMP6 { "meta l4proto ipv6-icmp " } else { "" };
        format!("{}{state}{icmp}{port}accept", names.collect::<String>())
    }

    fn iptables(&self) -> String {
        let names = [("-i", self.from), ("-o", self.to)];
        let names = names.into_iter().filter_map(|(word, name)| Some(format!("{word} {} ", name?)));
        let state = if self.answers { "-m conntrack --ctstate ESTABLISHED,RELATED " } else { "" };
        let port = self.port.map(|port| format!("-p {} --dport {port} ", self.protocol())).unwrap_or_default();
        let icmp = if self.protocol == ICMP6 { "-p ipv6-icmp " } else { "" };
        format!("{}{state}{icmp}{port}-j ACCEPT", names.collect::<String>())
    }
}

/// How to let something through where it is dropped.
fn allow(tables: &[OtherTable], dropped: &Dropped, what: &Let, bridge: &str) -> String {
    let Dropped { family, table, base, legacy, .. } = dropped;
    if table == "firewalld" {
        return format!("firewall-cmd --zone=trusted --add-interface={bridge} lets it through");
    }
    // What Docker leaves alone when it writes its own rules anew.
    const USER: &str = "DOCKER-USER";
    let here = |other: &&OtherTable| (other.name.family, &other.name.name, other.legacy) == (*family, table, *legacy);
    let has_user = tables.iter().filter(here).any(|table| table.chains.contains_key(USER));
    let chain = if has_user && base == "FORWARD" { USER } else { base };
    let rule = if *legacy {
        format!("{} -t {table} -I {chain} {}", legacy_tool(*family), what.iptables())
    } else {
        format!("nft insert rule {family} {table} {chain} {}", what.nft())
    };
    format!("{rule} lets it through")
}
