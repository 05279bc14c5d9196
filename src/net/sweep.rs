//! What goes: a switch with all that was made of it, and at the start what no record names.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{
    Inner, NetError, Result, adapter, companion, mark,
    place::{Area, PlugState},
    port::PortHealth,
};
use crate::model::{Moved, Nic, Switch, SwitchId, SwitchKind};

impl Inner {
    /// Removes a switch, also half of one.
    pub async fn remove_switch(self: &Arc<Self>, switch: &Switch, moved: Option<&Moved>) -> Result<()> {
        self.netlink()?;
        match self.places.remove(switch.id) {
            None => self.take_down(switch, moved, None).await,
            Some(place) => {
                // Whoever works on it finishes first; nobody begins anew.
                let mut hands = place.turn.lock().await;
                hands.removed = true;
                place.wake.notify_one();
                let dhcp = hands.dhcp.take();
                self.take_down(switch, moved, dhcp).await
            }
        }
    }

    async fn take_down(
        self: &Arc<Self>,
        switch: &Switch,
        moved: Option<&Moved>,
        dhcp: Option<companion::Companion>,
    ) -> Result<()> {
        let netlink = self.netlink()?;
        match dhcp {
            Some(dhcp) => dhcp.stop().await?,
            None => companion::remove(&self.switch_folder(switch.id)).await?,
        }
        let bridge = netlink.link(&switch.bridge()).await?;
        let anothers = bridge.as_ref().is_some_and(|bridge| self.is_anothers(bridge, &switch.id.to_string()));
        if let SwitchKind::External { adapter, .. } = &switch.kind
            && !anothers
            && let Some(adapter) = netlink.link(adapter).await?
        {
            if let Some(bridge) = &bridge
                && adapter.master == Some(bridge.index)
            {
                let left = netlink.set(adapter.index, rtnetlink::LinkMessageBuilder::nocontroller).await;
                left.map_err(|e| NetError::failed(format!("take {} out of its bridge", adapter.name), e))?;
            }
            if let Some(moved) = moved {
                adapter::carry(netlink, moved, bridge.as_ref(), &adapter).await?;
            }
        }
        if let Some(bridge) = bridge.filter(|_| !anothers) {
            let removed = netlink.remove(bridge.index).await;
            removed.map_err(|e| NetError::failed(format!("remove the bridge {}", bridge.name), e))?;
        }
        self.put_rules().await
    }

    /// Removes what bears our mark and no record names.
    pub async fn sweep(self: &Arc<Self>, switches: &[SwitchId], nics: &[Nic]) -> Result<()> {
        let netlink = self.netlink()?;
        let switch_ids = switches.iter().map(ToString::to_string);
        let nic_ids = nics.iter().map(|nic| nic.id.to_string());
        let known: HashSet<String> = switch_ids.chain(nic_ids).map(|id| mark(&self.state, &id)).collect();
        let ours = mark(&self.state, "");
        let links = netlink.links().await?;
        for link in &links {
            if link.alias.as_ref().is_some_and(|alias| alias.starts_with(&ours) && !known.contains(alias)) {
                tracing::info!(link = link.name, "removing a device of ours that no record names");
                let removed = netlink.remove(link.index).await;
                removed.map_err(|e| NetError::failed(format!("remove {}", link.name), e))?;
            }
        }
        // A live NIC keeps its rules and its address until its VM is looked at.
        let live = |nic: &&Nic| {
            let tap = links.iter().find(|link| link.name == nic.tap());
            tap.is_some_and(|tap| !self.is_anothers(tap, &nic.id.to_string()))
        };
        for nic in nics.iter().filter(live) {
            let port =
                PlugState { nic: nic.clone(), plugged: Some(Instant::now()), health: PortHealth::Ok, traffic: None };
            self.places.ports().entry(nic.id).or_insert(port);
        }
        self.rules.all_is_known().await;
        for place in self.places.switches() {
            place.known.store(true, Ordering::Relaxed);
            place.wake.notify_one();
        }
        let put = self.put_rules().await;
        for place in self.places.switches() {
            self.tell(&place, Area::Rules, put.as_ref().err().map(ToString::to_string));
        }
        put
    }
}
