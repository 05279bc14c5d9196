//! Changes of a switch in place, with NICs on it. Its definition comes first, and is durable then; the addresses of its
//! NICs follow it, each in the record of its VM, also when a crash or a mute VM came in between.

use std::net::Ipv4Addr;

use super::{
    SwitchView, net_error,
    places::{Owner, Wanted},
};
use crate::{
    model::{Change, Error, NicId, Operation, PortWish, Result, Subnet, SwitchId, SwitchRecord, SwitchWish, VmId},
    service::Service,
    vm::{Mark, begins, in_phase},
};

/// What became of a change.
#[derive(Clone, Debug)]
pub struct Changed {
    pub view: SwitchView,
    pub readdressed: Vec<Readdressed>,
}

/// A NIC whose address did not fit any more.
#[derive(Clone, Debug)]
pub struct Readdressed {
    pub vm: VmId,
    pub nic: NicId,
    pub from: Option<Ipv4Addr>,
    pub to: Ipv4Addr,
}

impl Service {
    /// Changes a switch: its notes, labels, protection, MTU, subnet, and what belongs to that. NICs whose address does not fit into the subnet
    /// any more get the one with the same last bits there, or the first that is free; running guests hear of it when they
    /// next renew theirs.
    ///
    /// # Errors
    /// [`Error::SwitchNotFound`], [`Error::Invalid`], [`Error::SwitchConflict`]; [`Error::Failed`] with nothing changed.
    pub async fn update_switch(&self, id: SwitchId, wish: SwitchWish) -> Result<Changed> {
        let turn = self.places.turn(id).await?;
        let before = self.places.record(id)?;
        let switch = before.switch.with(&wish)?;
        if switch != before.switch {
            // Kept from other switches until it is theirs to see.
            let _claim = self.places.claim_subnet(&switch)?;
            let nets = |subnet: &Subnet| (subnet.network, subnet.prefix, subnet.ipv6.as_ref().map(|six| six.network));
            if let Some(subnet) = switch.subnet()
                && before.switch.subnet().is_none_or(|old| nets(old) != nets(subnet))
            {
                subnet.check_free(&self.ctx.config.allow_subnets)?;
                self.has_room(&before, subnet)?;
                let failed = |error| net_error(Operation::ChangeSwitch, error);
                self.ctx.net.check_subnet(&switch).await.map_err(failed)?;
            }
            let forwarded = self.live_forwards(&before.switch);
            if !switch.subnet().is_some_and(|subnet| subnet.nat)
                && let Some(forward) = forwarded.first()
            {
                let message = format!(
                    "The switch {} has port forwards ({forward}), which need NAT; remove them first.",
                    switch.name
                );
                return Err(Error::SwitchConflict(message));
            }
            self.restate(&before, SwitchRecord { switch, ..before.clone() }).await?;
        }
        drop(turn);
        let readdressed = self.readdress(id).await;
        self.tell_hosts([id]);
        Ok(Changed { view: self.switch(id)?, readdressed })
    }

    /// Makes a changed record durable and the host follow it, or takes it back. Its turn is the caller's.
    pub(super) async fn restate(&self, before: &SwitchRecord, after: SwitchRecord) -> Result<()> {
        self.persist_wish(&after).await.map_err(|e| Error::failed(Operation::ChangeSwitch, e))?;
        self.places.ready(&after);
        let (old, new) = (&before.switch, &after.switch);
        // Notes and labels are nothing of the host's.
        if (&old.kind, old.mtu, &old.forwards) == (&new.kind, new.mtu, &new.forwards) {
            return Ok(());
        }
        begins(&new.name);
        let put = self.ctx.net.put_switch(new, after.moved.as_ref());
        let Err(error) = in_phase("change_switch", put).await else { return Ok(()) };
        if let Err(left) = self.persist_switch(before).await {
            tracing::error!(switch = %old.id, error = %left, "a change of a switch that was refused stays in its record");
            return Err(Error::failed(Operation::ChangeSwitch, left));
        }
        self.places.ready(before);
        if let Err(error) = self.ctx.net.put_switch(old, before.moved.as_ref()).await {
            self.places.tell_problem(old.id, Some(error.to_string()));
        }
        Err(net_error(Operation::ChangeSwitch, error))
    }

    /// Whether there are addresses for all of the NICs.
    fn has_room(&self, record: &SwitchRecord, subnet: &Subnet) -> Result<()> {
        let views = self.registry.views_with(Mark::Switch(record.switch.id));
        let nics = views.iter().flat_map(|view| &view.spec.nics);
        let nics = nics.filter(|nic| nic.switch() == Some(record.switch.id)).count();
        let room = subnet.guests().take(nics).count();
        if room < nics {
            let must = format!("have room for the {nics} NICs on the switch; {subnet} has addresses for {room}");
            return Err(Error::invalid("subnet", must));
        }
        Ok(())
    }

    /// Gives every NIC of a switch an address of its subnet that has none.
    pub(super) async fn readdress(&self, id: SwitchId) -> Vec<Readdressed> {
        let Ok((switch, _)) = self.places.get(id) else { return Vec::new() };
        let Some(subnet) = switch.subnet() else { return Vec::new() };
        let mut done = Vec::new();
        for view in self.registry.views_with(Mark::Switch(id)).into_iter().filter(|view| !view.gone) {
            for nic in &view.spec.nics {
                let Some(port) = nic.port().filter(|port| port.switch == id) else { continue };
                let from = port.address;
                if from.is_some_and(|address| subnet.is_for_guests(address)) {
                    continue;
                }
                let owner = Owner { mac: nic.mac, vm: view.spec.id, name: view.spec.name.clone(), vlan: port.vlan };
                let wanted = from.and_then(|from| subnet.like(from)).map_or(Wanted::Any, Wanted::Rather);
                let Ok(place) = self.reserve(id, owner, wanted) else { continue };
                let Some(to) = place.address else { continue };
                let wish = PortWish { address: Some(to), max_addresses: Some(None), ..PortWish::default() };
                let change = Change::Port { nic: nic.id, switch: id, wish: Box::new(wish) };
                match self.change(view.spec.id, change).await {
                    Ok(_) => done.push(Readdressed { vm: view.spec.id, nic: nic.id, from, to }),
                    Err(error) => {
                        tracing::warn!(vm = %view.spec.id, nic = nic.name, %error, "cannot give a NIC an address of its switch's new subnet yet; trying again");
                    }
                }
            }
        }
        done
    }
}
