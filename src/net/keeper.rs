//! Keeps the host's network as it is wanted: makes bridges, joins taps, and looks at the whole again whenever the kernel
//! tells of a change. It never looks at single events, so it misses none.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::IpAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage},
    link::InfoKind,
};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{
    Inner, NetError, PortEvent, PortHealth, Published, Traffic, adapter,
    dhcp::Dhcp,
    firewall::closed,
    netlink::{Events, Link, address_of},
};
use crate::model::{Moved, Nic, NicId, Subnet, Switch, SwitchId, SwitchKind};

/// Events that come together are answered by one look.
const GATHER: Duration = Duration::from_millis(50);
/// The figures of the taps are read so often, and the rest is looked at too.
const PERIOD: Duration = Duration::from_secs(1);
/// Looks between two at the firewall, of whose changes nobody tells.
const FIREWALL: u32 = 20;

/// What is wanted.
#[derive(Default)]
pub struct World {
    pub switches: HashMap<SwitchId, Wanted>,
    pub ports: HashMap<NicId, Port>,
}

pub struct Wanted {
    pub switch: Switch,
    pub moved: Option<Moved>,
    pub dhcp: Option<Dhcp>,
    /// Bytes that a frame on it may have.
    pub mtu: Option<u32>,
    /// That it is broken has been told.
    pub told: bool,
}

pub struct Port {
    pub nic: Nic,
    /// That its tap is gone has been told.
    pub told: bool,
}

impl Inner {
    /// Makes a switch's bridge and what belongs to it, where it is not there. Says whether the bridge is a new one.
    pub async fn stand(&self, wanted: &mut Wanted) -> Result<bool, NetError> {
        let netlink = self.netlink()?;
        let switch = &wanted.switch;
        let name = switch.bridge();
        let failed = |error: io::Error| NetError::failed(format!("make the bridge {name}"), error);
        let found = match &switch.kind {
            SwitchKind::External { adapter, .. } => {
                Some(adapter::check(&netlink.links().await?, adapter, &name).cloned())
            }
            _ => None,
        };
        let alias = self.alias(&switch.id.to_string());
        let mut made = false;
        let there = match netlink.link(&name).await? {
            Some(link) => link,
            None => {
                let mac = match &found {
                    Some(Ok(adapter)) => adapter.mac.clone(),
                    // Stays the same when the bridge is made again, whichever taps are on it.
                    _ => stable_mac(switch),
                };
                netlink.add_bridge(&name, &mac).await.map_err(failed)?;
                made = true;
                let made = netlink.link(&name).await?;
                made.ok_or_else(|| NetError::failed(format!("make the bridge {name}"), "it is gone again"))?
            }
        };
        if there.kind != Some(InfoKind::Bridge) || there.alias.as_ref().is_some_and(|found| *found != alias) {
            return Err(NetError::failed(format!("make the bridge {name}"), "another device has that name"));
        }
        if made || !there.up || there.alias.is_none() {
            if closed(switch) {
                sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "1");
                // The kernel answers for any of its addresses on any interface otherwise.
                sysctl(&format!("ipv4/conf/{name}/arp_ignore"), "8");
            } else if matches!(switch.kind, SwitchKind::Internal { .. }) {
                // A guest does not tell the host where to send its traffic.
                sysctl(&format!("ipv6/conf/{name}/accept_ra"), "0");
            }
            netlink.set(there.index, |link| link.alias(alias).up()).await.map_err(failed)?;
        }
        match &switch.kind {
            SwitchKind::Private => {}
            SwitchKind::Internal { subnet: None } => {}
            SwitchKind::Internal { subnet: Some(subnet) } => {
                netlink.add_address(gateway(subnet, there.index)).await.map_err(failed)?;
                if subnet.nat {
                    forwarding().map_err(|e| NetError::failed("switch on IP forwarding", e))?;
                }
            }
            SwitchKind::External { adapter, .. } => {
                let Some(found) = found else { return Ok(made) };
                let found = found?;
                if found.master != Some(there.index) || !found.up {
                    let join = netlink.set(found.index, |link| link.controller(there.index).up()).await;
                    join.map_err(|e| NetError::failed(format!("join {adapter} to the bridge {name}"), e))?;
                }
                wanted.mtu = Some(found.mtu);
                if let Some(moved) = &wanted.moved {
                    adapter::carry(netlink, moved, Some(&found), &there).await?;
                }
            }
        }
        Ok(made)
    }

    /// The addresses that the host has on a switch.
    pub async fn host_addresses(&self, wanted: &Wanted) -> Vec<IpAddr> {
        match &wanted.switch.kind {
            SwitchKind::Private => Vec::new(),
            SwitchKind::Internal { subnet } => subnet.iter().map(|subnet| IpAddr::V4(subnet.gateway())).collect(),
            SwitchKind::External { .. } => wanted.moved.as_ref().map(adapter::addresses).unwrap_or_default(),
        }
    }

    /// Looks at everything, repairs what is not as it is wanted, and publishes how the ports are.
    pub async fn look(&self) -> Result<(), NetError> {
        let netlink = self.netlink()?;
        let mut world = self.world.lock().await;
        if world.switches.is_empty() && world.ports.is_empty() {
            return Ok(());
        }
        let World { switches, ports } = &mut *world;
        let mut links = by_name(netlink.links().await?);
        let subnets = switches.values().any(|wanted| wanted.switch.subnet().is_some());
        let addresses = if subnets { addresses(&netlink.addresses().await?) } else { HashSet::new() };
        let mut changed = false;
        for wanted in switches.values_mut() {
            let mut broken = lacks_adapter(wanted, &links);
            if !stands(wanted, &links, &addresses) {
                changed = true;
                match self.stand(wanted).await {
                    Ok(made) => {
                        tracing::info!(switch = %wanted.switch.id, "made again what somebody removed of a switch");
                        if let (true, Some(dhcp)) = (made, &wanted.dhcp) {
                            dhcp.restart();
                        }
                    }
                    Err(error) => {
                        tracing::debug!(switch = %wanted.switch.id, %error, "a switch is not whole");
                        broken = true;
                    }
                }
            }
            if broken && !wanted.told {
                let _ = self.events.send(PortEvent::SwitchBroken(wanted.switch.id));
            }
            wanted.told = broken;
            self.notice_addresses(wanted, &links).await;
        }
        if changed {
            links = by_name(netlink.links().await?);
        }
        let mut published = HashMap::new();
        for (id, port) in ports.iter_mut() {
            let health = self.join(port, switches, &links).await;
            if health == PortHealth::Gone && !port.told {
                let _ = self.events.send(PortEvent::TapGone(*id));
            }
            port.told = health == PortHealth::Gone;
            let traffic = links.get(&port.nic.tap()).and_then(traffic);
            published.insert(*id, Published { health, traffic });
        }
        *self.published() = published;
        Ok(())
    }

    /// Joins a tap to its bridge where it is not in it.
    async fn join(
        &self,
        port: &Port,
        switches: &HashMap<SwitchId, Wanted>,
        links: &HashMap<String, Link>,
    ) -> PortHealth {
        let nic = &port.nic;
        let Some(tap) = links.get(&nic.tap()) else { return PortHealth::Gone };
        let wanted = nic.switch().and_then(|id| switches.get(&id));
        let Some(bridge) = wanted.and_then(|wanted| links.get(&wanted.switch.bridge())) else {
            return PortHealth::Detached("its switch is not there".into());
        };
        if tap.master == Some(bridge.index) && tap.up {
            return PortHealth::Ok;
        }
        match self.connect(nic, tap, bridge, wanted.and_then(|wanted| wanted.mtu)).await {
            Ok(()) => PortHealth::Ok,
            Err(error) => PortHealth::Detached(error.to_string()),
        }
    }

    pub async fn connect(&self, nic: &Nic, tap: &Link, bridge: &Link, mtu: Option<u32>) -> Result<(), NetError> {
        // The host itself has nothing to say to the guest over the tap.
        sysctl(&format!("ipv6/conf/{}/disable_ipv6", tap.name), "1");
        let alias = self.alias(&nic.id.to_string());
        let change = self.netlink()?.set(tap.index, |mut link| {
            if let Some(mtu) = mtu {
                link = link.mtu(mtu);
            }
            link.alias(alias).controller(bridge.index).up()
        });
        change.await.map_err(|e| NetError::failed(format!("join {} to the bridge {}", tap.name, bridge.name), e))
    }

    /// Tells of an adapter that has addresses of the host (again) that belong on its bridge.
    async fn notice_addresses(&self, wanted: &Wanted, links: &HashMap<String, Link>) {
        let SwitchKind::External { adapter, allow_management_os: true, .. } = &wanted.switch.kind else { return };
        let (Ok(netlink), Some(link)) = (self.netlink(), links.get(adapter)) else { return };
        if let Ok(carried) = adapter::Carried::read(netlink, link.index).await
            && !carried.is_empty()
        {
            let _ = self.events.send(PortEvent::AdapterChanged(wanted.switch.id));
        }
    }

    /// Removes what bears our mark and no record names.
    pub async fn sweep(&self, switches: &HashSet<SwitchId>, nics: &HashSet<NicId>) -> Result<(), NetError> {
        let netlink = self.netlink()?;
        let known: HashSet<String> = switches
            .iter()
            .map(|id| self.alias(&id.to_string()))
            .chain(nics.iter().map(|id| self.alias(&id.to_string())))
            .collect();
        let ours = self.alias("");
        for link in netlink.links().await? {
            if link.alias.as_ref().is_some_and(|alias| alias.starts_with(&ours) && !known.contains(alias)) {
                tracing::info!(link = link.name, "removing a device of ours that no record names");
                let removed = netlink.remove(link.index).await;
                removed.map_err(|e| NetError::failed(format!("remove {}", link.name), e))?;
            }
        }
        Ok(())
    }

    /// Puts all rules in again, where somebody removed the tables (`nft flush ruleset`).
    async fn restore_rules(&self) -> Result<(), NetError> {
        let world = self.world.lock().await;
        if world.switches.is_empty() || !self.firewall.ensure_anew().await? {
            return Ok(());
        }
        tracing::warn!("somebody removed the rules of the switches; putting them in again");
        for wanted in world.switches.values() {
            self.firewall.put_switch(&wanted.switch, &self.host_addresses(wanted).await).await?;
            let ports = world.ports.values().map(|port| &port.nic);
            let ports = ports.filter(|nic| nic.switch() == Some(wanted.switch.id));
            self.firewall.put_ports(ports, &wanted.switch).await?;
        }
        Ok(())
    }
}

/// Follows the kernel for as long as the network is in use.
pub async fn follow(inner: Weak<Inner>) {
    let events = match Events::open() {
        Ok(events) => Some(events),
        Err(error) => {
            tracing::warn!(%error, "cannot follow the host's network; looking at it from time to time");
            None
        }
    };
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = 0;
    loop {
        let event = async {
            match &events {
                Some(events) => events.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            happened = event => {
                if let Err(error) = happened {
                    tracing::warn!(%error, "the events of the host's network");
                    sleep(PERIOD).await;
                }
                sleep(GATHER).await;
            }
            _ = tick.tick() => looks += 1,
        }
        let Some(inner): Option<Arc<Inner>> = inner.upgrade() else { return };
        if let Err(error) = inner.look().await {
            tracing::warn!(%error, "cannot look after the host's network");
        }
        if looks >= FIREWALL {
            looks = 0;
            if let Err(error) = inner.restore_rules().await {
                tracing::warn!(%error, "cannot look after the rules of the switches");
            }
        }
    }
}

/// Addresses of the host, with the index of their link.
fn addresses(messages: &[AddressMessage]) -> HashSet<(u32, IpAddr)> {
    messages.iter().filter_map(|message| Some((message.header.index, address_of(message)?))).collect()
}

fn lacks_adapter(wanted: &Wanted, links: &HashMap<String, Link>) -> bool {
    matches!(&wanted.switch.kind, SwitchKind::External { adapter, .. } if !links.contains_key(adapter))
}

fn stands(wanted: &Wanted, links: &HashMap<String, Link>, addresses: &HashSet<(u32, IpAddr)>) -> bool {
    let Some(bridge) = links.get(&wanted.switch.bridge()) else { return false };
    if let Some(subnet) = wanted.switch.subnet()
        && !addresses.contains(&(bridge.index, subnet.gateway().into()))
    {
        return false;
    }
    let adapter = match &wanted.switch.kind {
        SwitchKind::External { adapter, .. } => {
            links.get(adapter).is_none_or(|link| link.master == Some(bridge.index) && link.up)
        }
        _ => true,
    };
    bridge.up && adapter
}

fn by_name(links: Vec<Link>) -> HashMap<String, Link> {
    links.into_iter().map(|link| (link.name.clone(), link)).collect()
}

/// What the tap sends, the guest receives.
fn traffic(link: &Link) -> Option<Traffic> {
    link.stats.map(|stats| Traffic {
        at: Instant::now(),
        in_bytes: stats.tx_bytes,
        in_packets: stats.tx_packets,
        in_dropped: stats.tx_dropped,
        out_bytes: stats.rx_bytes,
        out_packets: stats.rx_packets,
        out_dropped: stats.rx_dropped,
    })
}

fn stable_mac(switch: &Switch) -> Vec<u8> {
    let short = switch.id.short();
    let byte = |at: usize| short.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or_default();
    // Locally administered.
    [0x02, byte(0), byte(2), byte(4), byte(6), byte(8)].to_vec()
}

fn gateway(subnet: &Subnet, index: u32) -> AddressMessage {
    let address = IpAddr::V4(subnet.gateway());
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = subnet.prefix;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    debug_assert_eq!(address_of(&message), Some(address));
    message
}

/// The host becomes a router, and stays one: others may count on it by the time that we no longer do.
fn forwarding() -> io::Result<()> {
    const PATH: &str = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(PATH)?.trim() == "0" {
        tracing::info!("switching on IP forwarding (net.ipv4.ip_forward) for a switch with NAT");
        fs::write(PATH, "1")?;
    }
    Ok(())
}

fn sysctl(name: &str, value: &str) {
    // IPv6 may not be there at all.
    if let Err(error) = fs::write(format!("/proc/sys/net/{name}"), value) {
        tracing::debug!(name, %error, "sysctl");
    }
}
