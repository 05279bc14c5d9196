//! Brings one switch to what is wanted of it: the same for one that is new, one that somebody broke, and one that was
//! left by a daemon that died. It changes what differs, and nothing else.

#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::IpAddr,
    sync::Arc,
};

use rtnetlink::packet_route::{
    address::AddressMessage,
    link::InfoKind,
    route::{RouteAttribute, RouteProtocol},
};

use super::{
    Inner, NetError, adapter, companion,
    host_side::{FORWARDING6, SwitchSide, Sysctl},
    netlink::{Link, address_of},
    own_addresses,
    place::{Area, Place, Wanted},
};
use crate::host::fail_point::step;

const DEFAULT_MTU: u32 = 1500;

impl Inner {
    /// Makes a switch what it is to be, and tells what of it is not.
    ///
    /// # Errors
    /// The first thing that cannot be made; the rest is made all the same.
    pub async fn reconcile(self: &Arc<Self>, place: &Place) -> Result<(), NetError> {
        let mut hands = place.turn.lock().await;
        if hands.removed {
            return Ok(());
        }
        // The rules first: no frame passes without them. Where they have been put in and are what nobody answers about now,
        // the rest is mended meanwhile.
        let ruled = match hands.ruled {
            true => self.put_switch_rules_soon(place).await,
            false => self.put_switch_rules(place).await,
        };
        self.tell(place, Area::Rules, ruled.as_ref().err().map(ToString::to_string));
        if !hands.ruled {
            ruled.clone()?;
            hands.ruled = true;
        }
        let wanted = place.wanted();
        let made = self.make_links(place, &wanted).await;
        // Its DHCP and its ports do not depend on all of it.
        let new = *made.as_ref().unwrap_or(&false);
        if wanted.switch.subnet().is_none() {
            hands.hosts = None;
            match hands.dhcp.take() {
                Some(dhcp) => dhcp.stop().await?,
                // A daemon that died in between may have left one.
                None => companion::remove(&self.folders(place.id)).await?,
            }
            self.tell(place, Area::Dhcp, None);
            self.tell(place, Area::Dns, None);
        }
        let served = self.serve(place, &mut hands, &wanted, new).await;
        let joined = self.join_ports(place, &self.places.nics_on(place.id)).await;
        let apart = self.put_vlans(place).await;
        let done = made.map(drop).and(joined).and(apart);
        self.tell(place, Area::Host, done.as_ref().err().map(ToString::to_string));
        if let Err(error) = &served {
            self.tell(place, Area::Dhcp, Some(error.to_string()));
        }
        ruled.and(done).and(served)
    }

    /// Makes a switch's bridge and what belongs to it, where it is not there. Says whether the bridge is a new one.
    async fn make_links(&self, place: &Place, wanted: &Wanted) -> Result<bool, NetError> {
        let netlink = self.netlink()?;
        let side = &wanted.side;
        let name = &side.bridge;
        let failed = |error: io::Error| NetError::failed(format!("make the bridge {name}"), error);
        let found = match &side.adapter {
            Some(adapter) => Some(adapter::check(&netlink.links().await?, adapter, name).cloned()),
            None => None,
        };
        let (mtu, short) = mtu(side, found.as_ref().and_then(|found| found.as_ref().ok()));
        let mut made = false;
        let mut there = netlink.link(name).await?;
        if there.is_none()
            && let Some(renamed) =
                netlink.links().await?.into_iter().find(|link| link.alias.as_ref() == Some(&side.alias))
        {
            netlink.rename(renamed.index, name).await.map_err(failed)?;
            there = netlink.link(name).await?;
        }
        if there.is_none() {
            let mac = match &found {
                Some(Ok(adapter)) => &adapter.mac[..],
                _ => &side.mac,
            };
            match netlink.add_bridge(name, mac).await {
                Ok(()) => made = true,
                // Whose it is is seen below.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
            there = netlink.link(name).await?;
        }
        let there = there.ok_or_else(|| NetError::failed(format!("make the bridge {name}"), "it is gone again"))?;
        if !is_ours(&there, side) {
            return Err(NetError::failed(format!("make the bridge {name}"), "another device has that name"));
        }
        let _ = self.keeps_vlans.set(there.filtering.is_some());
        if made {
            // Before anybody joins: what is to be kept apart never meets. Where the kernel cannot, it does not join.
            match self.put_vlans(place).await {
                Ok(()) | Err(NetError::Vlans) => {}
                Err(error) => return Err(error),
            }
        }
        if !there.bridge.is_empty() {
            netlink.set_bridge(there.index, &there.bridge).await.map_err(failed)?;
        }
        self.check_forwarding6(side).await?;
        // Before it is up, so that it never speaks where it is not to.
        let mut set = None;
        for sysctl in &side.sysctls {
            set = put_sysctl(sysctl).err().or(set);
        }
        let alias = Some(&side.alias);
        if !there.up
            || there.alias.as_ref() != alias
            || mtu.is_some_and(|mtu| mtu != there.mtu)
            || !has_mac(&there, side)
            || there.mute
        {
            let change = netlink.set(there.index, |mut link| {
                if let Some(mtu) = mtu {
                    link = link.mtu(mtu);
                }
                if !has_mac(&there, side) {
                    link = link.address(side.mac.to_vec());
                }
                link.alias(&side.alias).arp(true).up()
            });
            change.await.map_err(failed)?;
        }
        let file = self.address_file(wanted.switch.id);
        own_addresses::put(netlink, side, there.index, made, &file).await?;
        let ways = if there.carrier { self.put_ways(side, there.index).await } else { Ok(()) };
        if let (Some(adapter), Some(found)) = (&side.adapter, found) {
            let found = found?;
            let joins = made || found.master != Some(there.index);
            if joins || !found.up {
                let join = netlink.set(found.index, |link| link.controller(there.index).up()).await;
                join.map_err(|e| NetError::failed(format!("join {adapter} to the bridge {name}"), e))?;
            }
            let settings = found.to_be_told(there.index, false);
            if !settings.is_empty() {
                netlink.set_port(found.index, settings).await.map_err(failed)?;
            }
            // Once it is there, what the host has on the bridge is its administrator's to change.
            if let Some(moved) = wanted.moved()
                && (joins || !adapter::Carried::read(netlink, found.index).await?.is_empty())
            {
                adapter::carry(netlink, moved, Some(&found), &there).await?;
            }
        }
        set.or(short).or(ways.err()).map_or(Ok(made), Err)
    }

    /// A kernel that forwards IPv6 takes no routes from routers any more, and forgets those that it has taken: the host
    /// would be cut off.
    async fn check_forwarding6(&self, side: &SwitchSide) -> Result<(), NetError> {
        if !side.sysctls.iter().any(|sysctl| sysctl.path == FORWARDING6 && !is_set(sysctl)) {
            return Ok(());
        }
        let netlink = self.netlink()?;
        let taken = netlink.routes().await?.into_iter().filter(|route| route.header.protocol == RouteProtocol::Ra);
        let from: HashSet<u32> = taken.flat_map(|route| route.attributes).filter_map(interface).collect();
        for link in netlink.links().await?.iter().filter(|link| from.contains(&link.index)) {
            let accepts = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", link.name);
            if fs::read_to_string(accepts).is_ok_and(|value| value.trim() == "1") {
                let why = format!(
                    "{name} has its routes from a router and would lose them; set net.ipv6.conf.{name}.accept_ra=2 first",
                    name = link.name
                );
                return Err(NetError::failed("forward IPv6", why));
            }
        }
        Ok(())
    }
}

fn interface(attribute: RouteAttribute) -> Option<u32> {
    if let RouteAttribute::Oif(index) = attribute { Some(index) } else { None }
}

/// What the frames of a switch may have, and what is wrong with that.
fn mtu(side: &SwitchSide, adapter: Option<&Link>) -> (Option<u32>, Option<NetError>) {
    let Some(adapter) = adapter else {
        // One whose adapter is missing stays as it is.
        let default = side.adapter.is_none().then_some(DEFAULT_MTU);
        return (side.mtu.or(default), None);
    };
    match side.mtu {
        Some(wanted) if wanted > adapter.mtu => {
            (Some(adapter.mtu), Some(NetError::Mtu { adapter: adapter.name.clone(), most: adapter.mtu }))
        }
        wanted => (wanted.or(Some(adapter.mtu)), None),
    }
}

fn is_ours(bridge: &Link, side: &SwitchSide) -> bool {
    bridge.kind == Some(InfoKind::Bridge) && bridge.alias.as_ref().is_none_or(|found| *found == side.alias)
}

/// The MAC address by which guests know the host; beside an adapter it is that one's, and its administrator's matter.
fn has_mac(bridge: &Link, side: &SwitchSide) -> bool {
    side.adapter.is_some() || bridge.mac == side.mac
}

/// Whether all of a switch's links and addresses are as they are wanted.
pub fn is_in_place(side: &SwitchSide, links: &HashMap<String, Link>, addresses: &HashSet<(u32, IpAddr)>) -> bool {
    let Some(bridge) = links.get(&side.bridge) else { return false };
    let adapter = side.adapter.as_ref().map(|name| links.get(name));
    let joined = match adapter {
        None => true,
        Some(None) => false,
        Some(Some(adapter)) => {
            adapter.master == Some(bridge.index) && adapter.up && adapter.to_be_told(bridge.index, false).is_empty()
        }
    };
    let (mtu, short) = mtu(side, adapter.flatten());
    joined
        && short.is_none()
        && mtu.is_none_or(|mtu| mtu == bridge.mtu)
        && bridge.up
        && !bridge.mute
        && bridge.alias.as_ref() == Some(&side.alias)
        && bridge.bridge.is_empty()
        && has_mac(bridge, side)
        && side.addresses.iter().all(|(address, _)| addresses.contains(&(bridge.index, *address)))
}

/// The addresses of every interface.
pub fn address_set(all: &[AddressMessage]) -> HashSet<(u32, IpAddr)> {
    all.iter().filter_map(|a| Some((a.header.index, address_of(a)?))).collect()
}

pub fn is_set(sysctl: &Sysctl) -> bool {
    match fs::read_to_string(sysctl.file()) {
        Ok(there) => there.trim() == sysctl.value,
        // IPv6 may not be there at all.
        Err(_) => sysctl.needed.is_none(),
    }
}

/// # Errors
/// For one that is needed.
pub fn put_sysctl(sysctl: &Sysctl) -> Result<(), NetError> {
    if is_set(sysctl) {
        return Ok(());
    }
    match (step(|| fs::write(sysctl.file(), sysctl.value)), sysctl.needed) {
        (Err(error), Some(needed)) => {
            Err(NetError::failed(format!("write {} to {}", sysctl.value, sysctl.file()), format!("{error}; {needed}")))
        }
        (Err(error), None) => {
            tracing::debug!(file = sysctl.file(), %error, "sysctl");
            Ok(())
        }
        (Ok(()), _) => Ok(()),
    }
}

impl Sysctl {
    fn file(&self) -> String {
        format!("/proc/sys/net/{}", self.path)
    }
}
