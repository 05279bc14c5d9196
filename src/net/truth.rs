//! Looks for what others have set up that is in the way of the switches, and tells it with what to do.

#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::{
    collections::{HashMap, HashSet},
    fs, mem,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use rtnetlink::packet_route::{
    address::AddressMessage,
    route::{RouteAttribute, RouteMessage},
};
use tokio::{sync::Notify, time::sleep};

use super::{
    Inner, adapter,
    foreign::{self, Dropped, Packet, TCP, UDP},
    legacy,
    netlink::{Link, address_of},
    nft::{Family, Hook, OtherTable},
    place::{Area, Place},
    reverse_path,
};
use crate::model::{Switch, SwitchId, SwitchKind};

/// Whether the host has frames between two ports of a bridge filtered as if it routed them.
const FILTERS_BRIDGED: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
const ROUTED: [Family; 2] = [Family::Ip, Family::Inet];
const DHCP: u16 = 67;
const DNS: u16 = 53;
/// Changes that come together are answered by one look.
const GATHER: Duration = Duration::from_millis(50);

/// What others have set up, as it was last read, and for whom it is to be looked at.
#[derive(Default)]
pub struct Others {
    wake: Arc<Notify>,
    due: Mutex<Due>,
}

#[derive(Default)]
struct Due {
    /// None where it has to be read.
    tables: Option<Arc<Vec<OtherTable>>>,
    /// In whose way it may be; nobody else's has changed.
    new: HashSet<SwitchId>,
}

impl Others {
    /// They have changed it, or may have.
    pub fn changed(&self) {
        self.due().tables = None;
        self.wake.notify_one();
    }

    /// A switch that is new, or another one from now on: what is in its way was there before it.
    pub fn concern(&self, switch: SwitchId) {
        self.due().new.insert(switch);
        self.wake.notify_one();
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at what others have set up whenever that is due, for as long as the network is in use.
pub async fn follow_others(inner: Weak<Inner>) {
    let Some(wake) = inner.upgrade().map(|inner: Arc<Inner>| inner.others.wake.clone()) else { return };
    loop {
        wake.notified().await;
        sleep(GATHER).await;
        let Some(inner) = inner.upgrade() else { return };
        inner.look_at_others().await;
    }
}

impl Inner {
    /// Remembers what goes by itself, and tells what is gone.
    pub fn look_at_leased(&self, place: &Place, addresses: &[AddressMessage], links: &HashMap<String, Link>) {
        let wanted = place.wanted();
        let SwitchKind::External { adapter, allow_management_os: true, .. } = &wanted.switch.kind else { return };
        let own = [adapter, &wanted.side.bridge].map(|name| links.get(name).map(|link| link.index));
        let here = addresses.iter().filter(|a| own.contains(&Some(a.header.index)) && adapter::movable(a));
        let here: Vec<(IpAddr, Option<u32>)> =
            here.filter_map(|a| Some((address_of(a)?, adapter::lifetime(a)))).collect();
        let written = wanted.moved().map(adapter::leased).unwrap_or_default();
        let lost = place.leases(|leases| leases.run_out(&here, &written, Instant::now()));
        let reported = lost.map(|address| {
            format!(
                "the host's address {address} has run out, because nobody renewed it; give the host a static address"
            )
        });
        self.tell(place, Area::Leased, reported);
    }

    /// Looks at what others have set up, for every switch that it may be in the way of now.
    async fn look_at_others(&self) {
        let Due { tables, new } = {
            let mut due = self.others.due();
            Due { tables: due.tables.clone(), new: mem::take(&mut due.new) }
        };
        let mut places = self.places.switches();
        let tables = match tables {
            Some(tables) => {
                places.retain(|place| new.contains(&place.id));
                tables
            }
            None if places.is_empty() => return,
            None => {
                // Before they are read: whatever changes from now on is another change.
                self.others.due().tables = Some(Arc::default());
                let read = self.read_others().await.map(Arc::new);
                let mut due = self.others.due();
                due.tables = due.tables.as_ref().and(read.clone());
                let Some(read) = read else { return };
                read
            }
        };
        if places.is_empty() {
            return;
        }
        let Ok(netlink) = self.netlink() else { return };
        let (Ok(links), Ok(routes), Ok(addresses)) =
            (netlink.links().await, netlink.routes().await, netlink.addresses().await)
        else {
            return;
        };
        let uplink = uplink(&routes, &links);
        let bridged = fs::read_to_string(FILTERS_BRIDGED).is_ok_and(|on| on.trim() == "1");
        let taps = self.taps();
        for place in &places {
            let switch = &place.wanted().switch;
            let problems = in_the_way(&tables, switch, uplink.as_deref(), bridged, taps.get(&switch.bridge()));
            self.tell(place, Area::Others, problems);
            self.tell(place, Area::ReversePath, reverse_path::in_the_way(switch, &routes, &links, &addresses));
        }
    }

    async fn read_others(&self) -> Option<Vec<OtherTable>> {
        let mut tables = self.rules.others().await?;
        match tokio::task::spawn_blocking(legacy::tables).await {
            Ok(Ok(more)) => tables.extend(more),
            problems => tracing::debug!(?problems, "cannot read the rules of iptables-legacy"),
        }
        Some(tables)
    }

    /// A tap of each bridge that has one.
    fn taps(&self) -> HashMap<String, String> {
        let ports = self.places.ports();
        let bridge = |id| self.places.switch(id).map(|place| place.wanted().side.bridge.clone());
        ports.values().filter_map(|port| Some((bridge(port.nic.switch()?)?, port.nic.tap()))).collect()
    }
}

/// The interface of the default route.
fn uplink(routes: &[RouteMessage], links: &[Link]) -> Option<String> {
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
            let how = allow(tables, &dropped, &[Let { from: Some(&bridge), ..Let::default() }], &bridge);
            problems.push(format!("{dropped} drops what the guests send to other networks; {how}"));
        } else if let Some(dropped) = foreign::dropped(tables, &ROUTED, Hook::Forward, &back)
            && uplink.is_some()
        {
            let answers = Let { to: Some(&bridge), answers: true, ..Let::default() };
            let how = allow(tables, &dropped, &[answers], &bridge);
            problems.push(format!("{dropped} drops what other networks answer to the guests; {how}"));
        }
    }
    if switch.subnet().is_some() {
        let ports: &[(u16, &str)] = if nat { &[(DHCP, "DHCP"), (DNS, "names")] } else { &[(DHCP, "DHCP")] };
        for (port, what) in ports {
            let packet = Packet { from: bridge.clone(), protocol: Some(UDP), port: Some(*port), ..Packet::default() };
            if let Some(dropped) = foreign::dropped(tables, &ROUTED, Hook::Input, &packet) {
                let requested = Let { from: Some(&bridge), port: Some(*port), ..Let::default() };
                let how = allow(tables, &dropped, &[requested], &bridge);
                problems.push(format!("{dropped} drops what the guests ask of the host's {what}; {how}"));
            }
        }
    }
    let between = Packet { from: bridge.clone(), to: Some(bridge.clone()), protocol: Some(TCP), ..Packet::default() };
    if bridged && let Some(dropped) = foreign::dropped(tables, &ROUTED, Hook::Forward, &between) {
        let within = Let { from: Some(&bridge), to: Some(&bridge), ..Let::default() };
        let how = allow(tables, &dropped, &[within], &bridge);
        problems.push(format!(
            "{dropped} drops what guests of the switch send to one another, because the host has bridged frames filtered; sysctl net.bridge.bridge-nf-call-iptables=0 ends that, or {how}"
        ));
    }
    if let Some(tap) = tap {
        let frame = Packet { from: tap.clone(), to: Some(tap.clone()), protocol: Some(TCP), ..Packet::default() };
        if let Some(dropped) = foreign::dropped(tables, &[Family::Bridge], Hook::Forward, &frame) {
            let how = allow(tables, &dropped, &[Let { from: Some("qht*"), ..Let::default() }], &bridge);
            problems.push(format!("{dropped} drops what guests of the switch send to one another; {how}"));
        }
    }
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// What a rule is to let through.
#[derive(Default)]
struct Let<'a> {
    from: Option<&'a str>,
    to: Option<&'a str>,
    /// Of connections that the other side has begun.
    answers: bool,
    /// Of UDP.
    port: Option<u16>,
}

impl Let<'_> {
    fn nft(&self) -> String {
        let names = [("iifname", self.from), ("oifname", self.to)];
        let names = names.into_iter().filter_map(|(word, name)| Some(format!("{word} \"{}\" ", name?)));
        let state = if self.answers { "ct state established,related " } else { "" };
        let port = self.port.map(|port| format!("udp dport {port} ")).unwrap_or_default();
        format!("{}{state}{port}accept", names.collect::<String>())
    }

    fn iptables(&self) -> String {
        let names = [("-i", self.from), ("-o", self.to)];
        let names = names.into_iter().filter_map(|(word, name)| Some(format!("{word} {} ", name?)));
        let state = if self.answers { "-m conntrack --ctstate ESTABLISHED,RELATED " } else { "" };
        let port = self.port.map(|port| format!("-p udp --dport {port} ")).unwrap_or_default();
        format!("{}{state}{port}-j ACCEPT", names.collect::<String>())
    }
}

/// How to let something through where it is dropped.
fn allow(tables: &[OtherTable], dropped: &Dropped, what: &[Let], bridge: &str) -> String {
    let Dropped { family, table, base, legacy, .. } = dropped;
    if table == "firewalld" {
        return format!("firewall-cmd --zone=trusted --add-interface={bridge} lets it through");
    }
    // What Docker leaves alone when it writes its own rules anew.
    const USER: &str = "DOCKER-USER";
    let here = |other: &&OtherTable| (other.name.family, &other.name.name, other.legacy) == (*family, table, *legacy);
    let has_user = tables.iter().filter(here).any(|table| table.chains.contains_key(USER));
    let chain = if has_user && base == "FORWARD" { USER } else { base };
    let rule = |what: &Let| {
        if *legacy {
            format!("iptables-legacy -t {table} -I {chain} {}", what.iptables())
        } else {
            format!("nft insert rule {family} {table} {chain} {}", what.nft())
        }
    };
    let rules: Vec<String> = what.iter().map(rule).collect();
    format!("{} lets it through", rules.join(" and "))
}
