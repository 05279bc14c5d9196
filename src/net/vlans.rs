//! VLANs of an External switch: what the bridge, its adapter and its ports are to carry, computed from the definitions of
//! the NICs alone, and how the bridge is brought to it.
//!
//! A bridge keeps VLANs apart only while a NIC of its switch is in one. It knows no frames without a VLAN then, so those
//! that have no tag on the wire are in one that nobody of the switch uses, and that never leaves the bridge with a tag.

use std::collections::{BTreeMap, HashMap};

use super::{
    Inner, NetError, Result,
    host_side::closed,
    netlink::{Carried, Form, Link},
    place::Place,
};
use crate::model::{Nic, Switch, SwitchKind, SwitchPort};

/// The first that is tried for frames without a tag: the last that there is.
const LAST: u16 = 4094;

/// What is to be carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// By the bridge itself, which is the host.
    pub host: Carried,
    pub adapter: Carried,
    /// By the taps.
    pub ports: BTreeMap<String, Carried>,
}

/// The VLAN, known to the bridge alone, of frames without a tag on the wire; none where no NIC is in a VLAN.
pub fn native<'a>(ports: impl Iterator<Item = &'a SwitchPort>) -> Option<u16> {
    let used: Vec<u16> = ports.flat_map(|port| port.trunk.iter().copied().chain(port.vlan)).collect();
    // Somebody who uses all of them has no frames without a tag.
    (!used.is_empty()).then(|| (1..=LAST).rev().find(|id| !used.contains(id)).unwrap_or(0))
}

/// None where the bridge does not have to keep anything apart.
pub fn plan(switch: &Switch, nics: &[Nic]) -> Option<Plan> {
    let SwitchKind::External { .. } = switch.kind else { return None };
    let native = native(nics.iter().filter_map(Nic::port))?;
    let plain = |id: u16| (id != 0).then_some((id, Form::Plain));
    let tagged = |port: &SwitchPort| port.trunk.iter().map(|id| (*id, Form::Tagged)).collect::<Vec<_>>();
    let mut ports = BTreeMap::new();
    let mut adapter: Carried = plain(native).into_iter().collect();
    for (nic, port) in nics.iter().filter_map(|nic| Some((nic, nic.port()?))) {
        let carried: Carried = tagged(port).into_iter().chain(plain(port.vlan.unwrap_or(native))).collect();
        adapter.extend(carried.keys().filter(|id| **id != native).map(|id| (*id, Form::Tagged)));
        ports.insert(nic.tap(), carried);
    }
    let host = if closed(switch) { Carried::new() } else { plain(native).into_iter().collect() };
    Some(Plan { host, adapter, ports })
}

impl Plan {
    /// What each of the bridge and its members is to carry that is there, and what it does carry.
    fn each<'a>(
        &'a self,
        switch: &'a Switch,
        bridge: &'a Link,
        links: impl IntoIterator<Item = &'a Link>,
    ) -> Vec<(&'a Link, &'a Carried)> {
        let adapter = match &switch.kind {
            SwitchKind::External { adapter, .. } => Some(adapter),
            _ => None,
        };
        let of = |link: &'a Link| {
            let wanted = if Some(&link.name) == adapter { Some(&self.adapter) } else { self.ports.get(&link.name) };
            wanted.map(|wanted| (link, wanted))
        };
        let members = links.into_iter().filter(|link| link.master == Some(bridge.index)).filter_map(of);
        members.chain([(bridge, &self.host)]).collect()
    }
}

impl Inner {
    /// Brings the VLANs of a switch to what they are to be: what is missing first, so that nobody is cut off meanwhile.
    ///
    /// # Errors
    /// [`NetError::Vlans`] where the kernel cannot do it.
    pub async fn put_vlans(&self, place: &Place) -> Result<()> {
        let wanted = place.wanted();
        let SwitchKind::External { .. } = wanted.switch.kind else { return Ok(()) };
        let netlink = self.netlink()?;
        let name = &wanted.side.bridge;
        // Two that come together would each take away what the other needs.
        let _turn = place.vlans.lock().await;
        let Some(bridge) = netlink.link(name).await? else { return Ok(()) };
        let plan = plan(&wanted.switch, &self.places.nics_on(place.id));
        let failed = |error| NetError::failed(format!("keep the VLANs of the bridge {name} apart"), error);
        // Until everybody is known, what is there may be that of a live NIC.
        let all = self.knows_all();
        let plan = match (plan, bridge.filtering) {
            (Some(plan), Some(_)) => plan,
            (Some(_), None) => return Err(NetError::Vlans),
            (None, Some(filtering)) if filtering.on && all => {
                return netlink.filter_vlans(bridge.index, false).await.map_err(failed);
            }
            (None, _) => return Ok(()),
        };
        if bridge.filtering.is_some_and(|filtering| filtering.default != 0) {
            netlink.no_default_vlan(bridge.index).await.map_err(failed)?;
        }
        let links = netlink.links().await?;
        let there = netlink.vlans().await.map_err(failed)?;
        let nothing = Carried::new();
        let each = plan.each(&wanted.switch, &bridge, &links);
        for (link, wanted) in &each {
            let (own, is) = (link.index == bridge.index, there.get(&link.index).unwrap_or(&nothing));
            netlink.carry_vlans(link.index, own, is, wanted).await.map_err(failed)?;
        }
        if !bridge.filtering.is_some_and(|filtering| filtering.on) {
            netlink.filter_vlans(bridge.index, true).await.map_err(failed)?;
        }
        for (link, wanted) in each.into_iter().filter(|_| all) {
            let (own, is) = (link.index == bridge.index, there.get(&link.index).unwrap_or(&nothing));
            netlink.drop_vlans(link.index, own, is, wanted).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Whether the VLANs of a switch are as they are to be. `there` is what everything on the host carries.
    pub fn vlans_stand(&self, place: &Place, links: &HashMap<String, Link>, there: &HashMap<u32, Carried>) -> bool {
        let wanted = place.wanted();
        let Some(bridge) = links.get(&wanted.side.bridge) else { return false };
        let Some(filtering) = bridge.filtering.filter(|_| self.knows_all()) else { return true };
        let Some(plan) = plan(&wanted.switch, &self.places.nics_on(place.id)) else { return !filtering.on };
        let nothing = Carried::new();
        let is = |(link, wanted): (&Link, &Carried)| there.get(&link.index).unwrap_or(&nothing) == wanted;
        filtering.on && filtering.default == 0 && plan.each(&wanted.switch, bridge, links.values()).into_iter().all(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(allow_management_os: bool) -> Switch {
        Switch::new("lan", SwitchKind::External { adapter: "eth0".into(), allow_management_os, dhcp: false })
    }

    fn nic(switch: &Switch, vlan: Option<u16>, trunk: &[u16]) -> Nic {
        let port = SwitchPort { vlan, trunk: trunk.to_vec(), ..SwitchPort::on(switch.id) };
        Nic::on(port)
    }

    fn carried(tagged: &[u16], plain: Option<u16>) -> Carried {
        tagged.iter().map(|id| (*id, Form::Tagged)).chain(plain.map(|id| (id, Form::Plain))).collect()
    }

    #[test]
    fn a_port_carries_its_own_and_the_adapter_what_its_ports_do() {
        let lan = external(true);
        let nics =
            [nic(&lan, None, &[]), nic(&lan, Some(10), &[]), nic(&lan, None, &[20, 30]), nic(&lan, Some(7), &[20])];
        let plan = plan(&lan, &nics).unwrap();
        assert_eq!(plan.host, carried(&[], Some(4094)));
        assert_eq!(plan.adapter, carried(&[7, 10, 20, 30], Some(4094)));
        let ports =
            [carried(&[], Some(4094)), carried(&[], Some(10)), carried(&[20, 30], Some(4094)), carried(&[20], Some(7))];
        for (nic, wanted) in nics.iter().zip(ports) {
            assert_eq!(plan.ports[&nic.tap()], wanted);
        }
        let closed = external(false);
        assert_eq!(super::plan(&closed, &[nic(&closed, Some(10), &[])]).unwrap().host, Carried::new());
    }

    #[test]
    fn frames_without_a_tag_are_in_a_vlan_of_nobody() {
        let lan = external(false);
        assert_eq!(plan(&lan, &[nic(&lan, None, &[])]), None, "nothing to keep apart");
        let private = Switch::new("lan", SwitchKind::Private);
        assert_eq!(plan(&private, &[nic(&private, Some(10), &[])]), None);
        let all: Vec<u16> = (1..=4094).collect();
        for (nics, native) in [
            (vec![nic(&lan, Some(1), &[])], 4094),
            (vec![nic(&lan, Some(4094), &[4093]), nic(&lan, None, &[4091])], 4092),
            (vec![nic(&lan, None, &all)], 0),
        ] {
            assert_eq!(super::native(nics.iter().filter_map(Nic::port)), Some(native));
            let plan = plan(&lan, &nics).unwrap();
            assert_eq!(plan.adapter.contains_key(&native), native != 0);
        }
    }
}
