//! What goes: a switch with all that was made of it, and at the start what no record names.

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

use std::{
    collections::HashSet,
    fs,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tokio::sync::OwnedMutexGuard;

use super::{
    Inner, NetError, Result, adapter,
    companion::{self, Companion},
    mark,
    place::{Area, Hands, PlugState},
};
use crate::{
    host::fail_point::step,
    model::{Moved, Nic, Switch, SwitchId, SwitchKind},
};

impl Inner {
    /// Removes a switch, also half of one. `turn` is that of its place.
    pub async fn remove_switch(
        self: &Arc<Self>,
        switch: &Switch,
        moved: Option<&Moved>,
        mut turn: Option<OwnedMutexGuard<Hands>>,
    ) -> Result<()> {
        let mut dhcp = None;
        if let Some(hands) = &mut turn {
            // Nobody begins anew.
            hands.removed = true;
            dhcp = hands.dhcp.take();
            if let Some(place) = self.places.remove(switch.id) {
                place.wake.notify_one();
            }
        }
        self.take_down(switch, moved, dhcp).await
    }

    async fn take_down(&self, switch: &Switch, moved: Option<&Moved>, dhcp: Option<Companion>) -> Result<()> {
        let netlink = self.netlink()?;
        match dhcp {
            Some(dhcp) => dhcp.stop().await?,
            None => companion::remove(&self.folders(switch.id)).await?,
        }
        let bridge = netlink.link(&switch.bridge()).await?;
        let anothers = bridge.as_ref().is_some_and(|bridge| self.is_anothers(bridge, &switch.id.to_string()));
        // Whoever waited for this may have given up, and want the switch again.
        if anothers || self.places.switch(switch.id).is_some() {
            return self.put_rules().await;
        }
        if let SwitchKind::External { adapter, .. } = &switch.kind
            && let Some(adapter) = netlink.link(adapter).await?
        {
            if let Some(bridge) = &bridge
                && adapter.master == Some(bridge.index)
            {
                let left = netlink.set(adapter.index, rtnetlink::LinkMessageBuilder::nocontroller).await;
                left.map_err(|e| NetError::failed(format!("take {} out of its bridge", adapter.name), e))?;
            }
            let back = match (moved, &bridge) {
                (Some(moved), _) if adapter::is_of_this_boot(moved) => Some(moved.clone()),
                // What was written down before the host was last started is not true any more.
                (Some(_), Some(bridge)) => Some(adapter::Carried::read(netlink, bridge.index).await?.to_moved()?),
                _ => None,
            };
            if let Some(moved) = back {
                adapter::carry(netlink, &moved, bridge.as_ref(), &adapter).await?;
            }
        }
        if let Some(bridge) = bridge {
            let removed = netlink.remove(bridge.index).await;
            removed.map_err(|e| NetError::failed(format!("remove the bridge {}", bridge.name), e))?;
        }
        let _ = step(|| fs::remove_file(self.address_file(switch.id)));
        self.take_switch_rules(switch.id).await
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
            let port = PlugState::new(&self.state, nic, Some(Instant::now()));
            self.places.ports().entry(nic.id).or_insert(port);
        }
        self.rules.all_is_known().await;
        self.knows_all.store(true, Ordering::Relaxed);
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
