//! The ports: a tap for each NIC on a switch, its rules before it, and how each is doing.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{
    Inner, NetError, PortEvent, PortHealth, Result, Traffic,
    host_side::{self, PortSide},
    keeper::Look,
    netlink::{BUCKET, Link, is_queued},
    place::{Place, PlugState},
    reconcile::{is_set, put_sysctl},
    tap,
};
use crate::model::Nic;

impl Inner {
    /// Makes the tap of a NIC, with its rules before it.
    pub async fn plug(self: &Arc<Self>, nic: &Nic) -> Result<Vec<OwnedFd>> {
        self.netlink()?;
        let place = self.place_of(nic)?;
        self.places.ports().insert(nic.id, PlugState::new(&self.state, nic, None));
        let plugged = self.make_port(nic, &place).await;
        match &plugged {
            Ok(_) => {
                self.places.ports().insert(nic.id, PlugState::new(&self.state, nic, Some(Instant::now())));
                self.reserve(&place);
            }
            Err(_) => {
                self.places.ports().remove(&nic.id);
                if let Err(error) = self.put_port_rules(&place, nic, false).await {
                    tracing::warn!(tap = nic.tap(), %error, "cannot take back the rules of a port");
                }
            }
        }
        plugged
    }

    async fn make_port(&self, nic: &Nic, place: &Place) -> Result<Vec<OwnedFd>> {
        let side = host_side::port(&self.state, nic);
        let failed = |error: io::Error| NetError::failed(format!("make the tap {}", side.tap), error);
        self.put_port_rules(place, nic, true).await?;
        let queues = tap::create(&side.tap, nic.queues).map_err(failed)?;
        let netlink = self.netlink()?;
        let tap = netlink.link(&side.tap).await?;
        let tap = tap.ok_or_else(|| failed(io::Error::other("it is gone again")))?;
        let bridge = netlink.link(&place.wanted().side.bridge).await?;
        let bridge = bridge.ok_or_else(|| failed(io::Error::other("the bridge of its switch is not there")))?;
        self.connect(place, &side, &tap, &bridge).await?;
        if !side.in_vlan {
            // Where others are.
            self.put_vlans(place).await?;
        }
        Ok(queues)
    }

    /// Takes the rules of a port away, and its tap if that is still there.
    pub async fn unplug(self: &Arc<Self>, nic: &Nic) -> Result<()> {
        let Ok(netlink) = self.netlink() else { return Ok(()) };
        let before = self.places.ports().remove(&nic.id);
        let alias = host_side::mark(&self.state, &nic.id.to_string());
        if let Some(tap) = netlink.link(&nic.tap()).await?
            && tap.alias.is_some_and(|found| found == alias)
        {
            let removed = netlink.remove(tap.index).await;
            removed.map_err(|e| NetError::failed(format!("remove the tap {}", tap.name), e))?;
        }
        let Ok(place) = self.place_of(nic) else { return self.put_rules().await };
        self.reserve(&place);
        self.put_vlans(&place).await?;
        match before {
            Some(port) => self.put_port_rules(&place, &port.nic, false).await?,
            None => self.put_rules().await?,
        }
        self.free_claims(&place.wanted().switch, nic).await
    }

    /// A live VM's NIC, whose tap is there.
    pub async fn adopt(self: &Arc<Self>, nic: &Nic) {
        self.places.ports().insert(nic.id, PlugState::new(&self.state, nic, Some(Instant::now())));
        match self.place_of(nic) {
            Ok(place) => {
                place.known.store(true, Ordering::Relaxed);
                if let Err(error) = self.reconcile(&place).await {
                    tracing::warn!(tap = nic.tap(), %error, "cannot look after a port");
                }
            }
            // The port is looked after all the same: it is joined when the switch is back.
            Err(error) => tracing::warn!(%error, "the switch of a live NIC"),
        }
        if let Err(error) = self.look(Look::Again).await {
            tracing::warn!(tap = nic.tap(), %error, "cannot look after a port");
        }
    }

    /// A plugged NIC that is to be another from now on.
    pub async fn put_port(self: &Arc<Self>, nic: &Nic) -> Result<()> {
        let place = self.place_of(nic)?;
        match self.places.ports().get_mut(&nic.id) {
            Some(port) => (port.nic, port.side) = (nic.clone(), host_side::port(&self.state, nic)),
            None => return Ok(()),
        }
        self.reconcile(&place).await
    }

    pub fn place_of(&self, nic: &Nic) -> Result<Arc<Place>> {
        let place = nic.switch().and_then(|id| self.places.switch(id));
        let why = "its switch does not work on this host; the switch itself tells why";
        place.ok_or_else(|| NetError::failed(format!("plug {}", nic.tap()), why))
    }

    /// Links by their names, with what their queues keep to.
    ///
    /// # Errors
    /// [`NetError::Failed`].
    pub async fn with_rates(&self, mut links: Vec<Link>) -> Result<HashMap<String, Link>> {
        let netlink = self.netlink()?;
        if links.iter().any(|link| link.queue.as_deref() == Some(BUCKET)) {
            let rates = netlink.rates().await.map_err(|e| NetError::failed("list the queues of the host", e))?;
            links.iter_mut().for_each(|link| link.rate = rates.get(&link.index).copied());
        }
        Ok(links.into_iter().map(|link| (link.name.clone(), link)).collect())
    }

    /// Joins the taps of a switch that are not in it as they are to be.
    ///
    /// # Errors
    /// The first that cannot be joined; the others are.
    pub async fn join_ports(&self, place: &Place, nics: &[Nic]) -> Result<()> {
        let mut outcome = Ok(());
        if nics.is_empty() {
            return outcome;
        }
        let links = self.with_rates(self.netlink()?.links().await?).await?;
        let Some(bridge) = links.get(&place.wanted().side.bridge) else { return outcome };
        for nic in nics {
            let side = host_side::port(&self.state, nic);
            if let Some(renamed) = astray(&side, &links) {
                let back = self.netlink()?.rename(renamed.index, &side.tap).await;
                // Which is an event that leads here again.
                let failed = |error| NetError::failed(format!("rename {} to {}", renamed.name, side.tap), error);
                outcome = outcome.and(back.map_err(failed));
                continue;
            }
            if let Some(tap) = links.get(&side.tap)
                && !(is_joined(&side, tap, bridge) && side.sysctls.iter().all(is_set))
            {
                let joined = self.connect(place, &side, tap, bridge).await;
                if let Some(port) = self.places.ports().get_mut(&nic.id) {
                    port.health = match &joined {
                        Ok(()) => PortHealth::Ok,
                        Err(error) => PortHealth::Detached(error.to_string()),
                    };
                }
                outcome = outcome.and(joined);
            }
        }
        outcome
    }

    async fn connect(&self, place: &Place, side: &PortSide, tap: &Link, bridge: &Link) -> Result<()> {
        let netlink = self.netlink()?;
        for sysctl in &side.sysctls {
            put_sysctl(sysctl)?;
        }
        let failed = |error| NetError::failed(format!("join {} to the bridge {}", tap.name, bridge.name), error);
        if side.in_vlan && bridge.filtering.is_none() {
            return Err(NetError::Vlans);
        }
        // A port that is to be kept apart is not up before it is.
        let apart = side.in_vlan || side.isolated;
        let change = netlink.set(tap.index, |link| {
            let link = link.alias(&side.alias).mtu(bridge.mtu).controller(bridge.index);
            if apart { link } else { link.up() }
        });
        change.await.map_err(failed)?;
        if side.in_vlan {
            self.put_vlans(place).await?;
        }
        let settings = tap.to_be_told(bridge.index, side.isolated);
        if apart || !settings.is_empty() {
            netlink.set_port(tap.index, settings).await.map_err(failed)?;
        }
        let queued = match side.rate {
            Some(rate) => netlink.set_rate(tap.index, rate).await,
            None if is_queued(tap) => netlink.unset_rate(tap.index).await,
            None => Ok(()),
        };
        queued.map_err(|e| NetError::failed(format!("limit the rate of {}", tap.name), e))
    }

    /// Publishes how the ports are that were plugged before the links were read, and says which switches have one that is
    /// not joined; on a `whole` look also which has other settings, and what has gone through them.
    pub fn judge_ports(&self, links: &HashMap<String, Link>, read: Instant, whole: bool) -> Vec<Arc<Place>> {
        let mut loose = Vec::new();
        for port in self.places.ports().values_mut().filter(|port| port.plugged.is_some_and(|at| at < read)) {
            let side = &port.side;
            let Some(tap) = links.get(&side.tap) else {
                if astray(side, links).is_some() {
                    loose.extend(port.nic.switch().and_then(|id| self.places.switch(id)));
                    continue;
                }
                if std::mem::replace(&mut port.health, PortHealth::Gone) != PortHealth::Gone {
                    let _ = self.events.send(PortEvent::TapGone(port.nic.id));
                }
                port.traffic = None;
                continue;
            };
            if whole {
                port.traffic = traffic(tap);
            }
            let place = port.nic.switch().and_then(|id| self.places.switch(id));
            let bridge = place.as_ref().and_then(|place| links.get(&place.wanted().side.bridge));
            match (place, bridge) {
                (Some(place), Some(bridge)) if is_joined(side, tap, bridge) => {
                    port.health = PortHealth::Ok;
                    if whole && !side.sysctls.iter().all(is_set) {
                        loose.push(place);
                    }
                }
                (Some(place), bridge) => {
                    let on_it = bridge.is_some_and(|bridge| tap.master == Some(bridge.index));
                    if !on_it && !matches!(port.health, PortHealth::Detached(_)) {
                        port.health = PortHealth::Detached("its tap is not on its switch".into());
                    }
                    loose.push(place);
                }
                (None, _) => port.health = PortHealth::Detached("its switch is not there".into()),
            }
        }
        loose
    }
}

/// A tap that somebody has renamed.
fn astray<'a>(side: &PortSide, links: &'a HashMap<String, Link>) -> Option<&'a Link> {
    if links.contains_key(&side.tap) {
        return None;
    }
    links.values().find(|link| link.alias.as_ref() == Some(&side.alias))
}

fn is_joined(side: &PortSide, tap: &Link, bridge: &Link) -> bool {
    tap.master == Some(bridge.index)
        && tap.up
        && tap.alias.as_ref() == Some(&side.alias)
        && tap.mtu == bridge.mtu
        && tap.to_be_told(bridge.index, side.isolated).is_empty()
        && side.rate == tap.rate
        && side.rate.is_some() == is_queued(tap)
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
