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
    AddressFamily,
    address::AddressMessage,
    route::{RouteAttribute, RouteMessage},
};
use tokio::{sync::Notify, time::sleep};

use super::{
    Inner, adapter,
    in_the_way::{Facts, in_the_way},
    legacy,
    netlink::{Link, address_of},
    nft::OtherTable,
    place::{Area, Place},
    reverse_path,
};
use crate::model::{Switch, SwitchForward, SwitchId, SwitchKind};

/// Whether the host has frames between two ports of a bridge filtered as if it routed them.
const FILTERS_BRIDGED: [&str; 2] =
    ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"];
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

    /// Tells of port forwards on an address that the host has no more.
    pub fn look_at_forwards(&self, place: &Place, addresses: &[AddressMessage]) {
        let wanted = place.wanted();
        let named = |forward: &SwitchForward| forward.host_address.filter(|address| !address.is_unspecified());
        let all: HashSet<IpAddr> = match wanted.switch.forwards.iter().any(|forward| named(forward).is_some()) {
            true => addresses.iter().filter_map(address_of).collect(),
            false => HashSet::new(),
        };
        let lost = |forward: &&SwitchForward| named(forward).is_some_and(|address| !all.contains(&IpAddr::V4(address)));
        let lost: Vec<&SwitchForward> = wanted.switch.forwards.iter().filter(lost).collect();
        let reported = lost.first().map(|first| {
            let others = match lost.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "the host does not have the address of its port forward {first}{others}, so that leads nowhere; give the host the \
                 address again, or remove the forward"
            )
        });
        self.tell(place, Area::Forwards, reported);
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
        let uplinks = [AddressFamily::Inet, AddressFamily::Inet6].map(|family| uplink(&routes, &links, family));
        let uplink = uplinks[0].clone();
        let bridged = FILTERS_BRIDGED.map(|file| fs::read_to_string(file).is_ok_and(|on| on.trim() == "1"));
        let taps = self.taps();
        for place in &places {
            let switch = &place.wanted().switch;
            let taps = taps.get(&switch.bridge()).map_or(&[][..], Vec::as_slice);
            let problems = in_the_way(&tables, switch, &Facts { uplinks: &uplinks, bridged, taps });
            self.tell(place, Area::Others, problems);
            self.tell(place, Area::Uplink, uplink.as_deref().and_then(|uplink| deaf(switch, uplink)));
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

    /// The taps of each bridge, in the order of their names.
    fn taps(&self) -> HashMap<String, Vec<String>> {
        let mut taps: HashMap<String, Vec<String>> = HashMap::new();
        for port in self.places.ports().values() {
            if let Some(place) = port.nic.switch().and_then(|id| self.places.switch(id)) {
                taps.entry(place.wanted().side.bridge.clone()).or_default().push(port.nic.tap());
            }
        }
        taps.values_mut().for_each(|taps| taps.sort());
        taps
    }
}

/// The interface of the default route.
fn uplink(routes: &[RouteMessage], links: &[Link], family: AddressFamily) -> Option<String> {
    let metric = |attributes: &[RouteAttribute]| {
        attributes.iter().find_map(|a| if let RouteAttribute::Priority(metric) = a { Some(*metric) } else { None })
    };
    let default = routes
        .iter()
        .filter(|route| route.header.address_family == family)
        .filter(|route| route.header.destination_prefix_length == 0)
        .min_by_key(|route| metric(&route.attributes).unwrap_or(0))?;
    let index = default.attributes.iter().find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None })?;
    links.iter().find(|link| link.index == index).map(|link| link.name.clone())
}

/// That the host does not forward what comes in by its uplink, which is a setting of that interface and not ours.
fn deaf(switch: &Switch, uplink: &str) -> Option<String> {
    let nat = switch.subnet().is_some_and(|subnet| subnet.nat);
    let forwarding = || fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{uplink}/forwarding"));
    (nat && forwarding().is_ok_and(|on| on.trim() == "0")).then(|| {
        format!(
            "the host drops what other networks answer to the guests, because net.ipv4.conf.{uplink}.forwarding is 0; sysctl net.ipv4.conf.{uplink}.forwarding=1 lets it through"
        )
    })
}
