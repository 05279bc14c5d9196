//! Looks for what is in the way of the switches and is not ours, and tells it with what to do: other people's rules, the
//! way of a subnet, addresses of the host that have run out.

use std::{collections::HashMap, fs};

use rtnetlink::packet_route::route::RouteAttribute;

use super::{
    Inner, adapter,
    foreign::{self, Dropped, Packet, TCP, UDP},
    netlink::{Link, Netlink},
    nft::{Family, Hook, OtherTable},
    place::{Area, Place},
    reconcile::address_set,
};
use crate::model::Switch;

/// Whether the host has frames between two ports of a bridge filtered as if it routed them.
const FILTERS_BRIDGED: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
const ROUTED: [Family; 2] = [Family::Ip, Family::Inet];
const DHCP: u16 = 67;
const DNS: u16 = 53;

impl Inner {
    /// Looks at what others have set up, for every switch.
    pub async fn look_at_others(&self) {
        let places = self.places.switches();
        if places.is_empty() {
            return;
        }
        let (Ok(netlink), Some(tables)) = (self.netlink(), self.rules.others().await) else { return };
        let Ok(links) = netlink.links().await else { return };
        let uplink = uplink(netlink, &links).await;
        let bridged = fs::read_to_string(FILTERS_BRIDGED).is_ok_and(|on| on.trim() == "1");
        let taps = self.taps();
        for place in &places {
            let switch = &place.wanted().switch;
            let problems = in_the_way(&tables, switch, uplink.as_deref(), bridged, taps.get(&switch.bridge()));
            self.tell(place, Area::Others, problems);
        }
        self.look_at_leased(netlink, &places).await;
    }

    async fn look_at_leased(&self, netlink: &Netlink, places: &[std::sync::Arc<Place>]) {
        if places.iter().all(|place| place.wanted().moved().is_none()) {
            return;
        }
        let Ok(addresses) = netlink.addresses().await else { return };
        let there = address_set(&addresses);
        for place in places {
            let wanted = place.wanted();
            let lost = wanted.moved().map(|moved| adapter::lost(moved, &there)).unwrap_or_default();
            let problems = lost.first().map(|address| {
                format!("the host's address {address} has run out, because nobody renewed it; give the host a static address")
            });
            self.tell(place, Area::Leased, problems);
        }
    }

    /// A tap of each bridge that has one.
    fn taps(&self) -> HashMap<String, String> {
        let ports = self.places.ports();
        let bridge = |id| self.places.switch(id).map(|place| place.wanted().side.bridge.clone());
        ports.values().filter_map(|port| Some((bridge(port.nic.switch()?)?, port.nic.tap()))).collect()
    }
}

/// The interface of the default route.
async fn uplink(netlink: &Netlink, links: &[Link]) -> Option<String> {
    let routes = netlink.routes().await.ok()?;
    let metric = |attributes: &[RouteAttribute]| {
        attributes.iter().find_map(|a| if let RouteAttribute::Priority(metric) = a { Some(*metric) } else { None })
    };
    let v4 = routes.iter().filter(|route| route.header.address_family == rtnetlink::packet_route::AddressFamily::Inet);
    let default = v4
        .filter(|route| route.header.destination_prefix_length == 0)
        .min_by_key(|route| metric(&route.attributes).unwrap_or(0))?;
    let index = default.attributes.iter().find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None })?;
    links.iter().find(|link| link.index == index).map(|link| link.name.clone())
}

/// What of a switch others' rules drop, with what to do.
fn in_the_way(
    tables: &[OtherTable],
    switch: &Switch,
    uplink: Option<&str>,
    bridged: bool,
    tap: Option<&String>,
) -> Option<String> {
    let bridge = switch.bridge();
    let mut problems = Vec::new();
    let nat = switch.subnet().is_some_and(|subnet| subnet.nat);
    if nat {
        let out =
            Packet { from: bridge.clone(), to: uplink.map(str::to_owned), protocol: Some(TCP), ..Packet::default() };
        let back = Packet {
            from: uplink.unwrap_or_default().to_owned(),
            to: Some(bridge.clone()),
            answer: true,
            protocol: Some(TCP),
            ..Packet::default()
        };
        if let Some(dropped) = foreign::dropped(tables, &ROUTED, Hook::Forward, &out) {
            let how = allow(tables, &dropped, &[format!("iifname \"{bridge}\" accept")], &bridge);
            problems.push(format!("{dropped} drops what the guests send to other networks; {how}"));
        } else if let Some(dropped) = foreign::dropped(tables, &ROUTED, Hook::Forward, &back)
            && uplink.is_some()
        {
            let rule = format!("oifname \"{bridge}\" ct state established,related accept");
            let how = allow(tables, &dropped, &[rule], &bridge);
            problems.push(format!("{dropped} drops what other networks answer to the guests; {how}"));
        }
    }
    if switch.subnet().is_some() {
        let ports: &[(u16, &str)] = if nat { &[(DHCP, "DHCP"), (DNS, "names")] } else { &[(DHCP, "DHCP")] };
        for (port, what) in ports {
            let packet = Packet { from: bridge.clone(), protocol: Some(UDP), port: Some(*port), ..Packet::default() };
            if let Some(dropped) = foreign::dropped(tables, &ROUTED, Hook::Input, &packet) {
                let rule = format!("iifname \"{bridge}\" udp dport {port} accept");
                let how = allow(tables, &dropped, &[rule], &bridge);
                problems.push(format!("{dropped} drops what the guests ask of the host's {what}; {how}"));
            }
        }
    }
    let between = Packet { from: bridge.clone(), to: Some(bridge.clone()), protocol: Some(TCP), ..Packet::default() };
    if bridged && let Some(dropped) = foreign::dropped(tables, &ROUTED, Hook::Forward, &between) {
        let rule = format!("iifname \"{bridge}\" oifname \"{bridge}\" accept");
        let how = allow(tables, &dropped, &[rule], &bridge);
        problems.push(format!(
            "{dropped} drops what guests of the switch send to one another, because the host has bridged frames filtered; sysctl net.bridge.bridge-nf-call-iptables=0 ends that, or {how}"
        ));
    }
    if let Some(tap) = tap {
        let frame = Packet { from: tap.clone(), to: Some(tap.clone()), protocol: Some(TCP), ..Packet::default() };
        if let Some(dropped) = foreign::dropped(tables, &[Family::Bridge], Hook::Forward, &frame) {
            let how = allow(tables, &dropped, &["iifname \"qht*\" accept".to_owned()], &bridge);
            problems.push(format!("{dropped} drops what guests of the switch send to one another; {how}"));
        }
    }
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// How to let something through where it is dropped.
fn allow(tables: &[OtherTable], dropped: &Dropped, rules: &[String], bridge: &str) -> String {
    let Dropped { family, table, base, .. } = dropped;
    if table == "firewalld" {
        return format!("firewall-cmd --zone=trusted --add-interface={bridge} lets it through");
    }
    // What Docker leaves alone when it writes its own rules anew.
    const USER: &str = "DOCKER-USER";
    let has_user =
        tables.iter().any(|t| t.name.family == *family && t.name.name == *table && t.chains.contains_key(USER));
    let chain = if has_user && base == "FORWARD" { USER } else { base };
    let rules: Vec<String> =
        rules.iter().map(|rule| format!("nft insert rule {family} {table} {chain} {rule}")).collect();
    format!("{} lets it through", rules.join(" and "))
}
