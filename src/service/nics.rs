//! NICs: what a client wishes for, checked and given its addresses, and what is told of those that are there.
//! Making them is the VM's work, and what is on the host's side of them `net`'s.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    Service,
    registry::Promise,
    switches::{Owner, Reservation, Wanted},
};
use crate::{
    config::Config,
    model::{
        Applied, Carrier, Change, DEFAULT_LABEL, Error, Forward, MAX_DEVICES, NetworkWish, NewNic, NewNics, Nic,
        NicBackend, NicId, NicWish, PortWish, Protocol, Result, Switch, SwitchId, SwitchKind, SwitchPort, VmId, VmSpec,
        VmView, check_carried, check_forwards, check_length, check_name, check_queues,
    },
    net::{PortHealth, Traffic},
    vm::Mark,
};

/// A NIC as a client sees it.
#[derive(Clone, Debug)]
pub struct NicView {
    pub nic: Nic,
    /// Of a NIC on a switch.
    pub switch_name: Option<String>,
    /// What the guest has.
    pub addresses: Vec<IpAddr>,
    /// What it is to have.
    pub reserved: Option<Ipv4Addr>,
    /// What its switch calls it.
    pub dns_name: Option<String>,
    pub status: NicStatus,
    /// Of one on the user-mode network that is plugged.
    pub carrier: Option<Carrier>,
    /// None where nobody counts: on the user-mode network, and while it is not plugged.
    pub traffic: Option<Traffic>,
    /// Frames that the rules of its port refused, likewise.
    pub refused: Option<u64>,
}

/// How a NIC is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NicStatus {
    Ok,
    /// The running QEMU does not have it yet.
    Pending,
    /// It was removed, and the guest has not let go of it.
    Removing,
    /// It carries nothing, for this reason.
    Degraded(String),
}

/// What became of a removal.
#[derive(Clone, Debug)]
pub struct Removed {
    pub nic: Nic,
    /// The guest has not let go of it (ruling 34).
    pub pending: bool,
}

/// NICs that a VM which is off is to have.
#[derive(Clone, Debug)]
pub enum Nics {
    /// The whole list, by label.
    All(Vec<NicWish>),
    /// Where the first one is to be; it is added where there is none.
    First(NicWish),
}

/// What is kept for a NIC until it stands in the definition of a VM.
pub(super) struct Promises<'a> {
    _mac: Promise<'a>,
    _port: Option<Reservation>,
}

/// The NICs of a VM whose creator does not say.
pub(super) fn by_default() -> Vec<NicWish> {
    let network = NetworkWish::User { forwards: Vec::new() };
    vec![NicWish::on(network)]
}

/// Checks a wish and gives it its addresses. Makes nothing.
///
/// # Errors
/// [`Error::Invalid`]; [`Error::SwitchNotFound`], [`Error::AmbiguousSwitch`]; [`Error::SwitchConflict`] where the switch
/// has no address left, or somebody has the one that is wished for.
pub(super) fn resolve<'a>(service: &'a Service, wish: NicWish, vm: (VmId, &str)) -> Result<(NewNic, Promises<'a>)> {
    let label = wish.label.as_deref().map_or_else(|| Ok(DEFAULT_LABEL.to_owned()), check_name)?;
    let queues = wish.queues.map_or(Ok(1), check_queues)?;
    let promise = service.registry.promise_mac(wish.mac)?;
    let (backend, port) = match wish.network {
        NetworkWish::User { forwards } => {
            if queues > 1 {
                return Err(Error::invalid("queues", "be 1 for a NIC on the user-mode network"));
            }
            if let Some(name) = wish.port.first() {
                return Err(Error::invalid(name, "not be set for a NIC on the user-mode network"));
            }
            check_forwards(&forwards)?;
            check_doors(&service.ctx.config, &forwards)?;
            if service.user_network().carrier == Carrier::Passt {
                check_carried(&forwards)?;
            }
            (NicBackend::User { forwards }, None)
        }
        NetworkWish::Switch(switch) => {
            let switch = service.find_switch(&switch)?;
            let wanted = wish.port.address.map_or(Wanted::Any, Wanted::This);
            // What is wrong with the wish is told before what others have.
            let mut wished = SwitchPort::on(switch.id);
            wish.port.apply(&mut wished)?;
            check_vlans(service, &switch, &wished)?;
            let owner = Owner { mac: promise.mac, vm: vm.0, name: vm.1.to_owned(), vlan: wished.vlan };
            let port = service.reserve(switch.id, owner, wanted)?;
            let mut place = SwitchPort { address: port.address, ..SwitchPort::on(switch.id) };
            wish.port.apply(&mut place)?;
            (NicBackend::Switch(place), Some(port))
        }
    };
    let nic = NewNic { id: wish.id.unwrap_or_else(NicId::random), label, mac: promise.mac, queues, backend };
    Ok((nic, Promises { _mac: promise, _port: port }))
}

/// Forwards listen where the administrator lets them, and never on a port of the API: what answers there is taken for it.
fn check_doors(config: &Config, forwards: &[Forward]) -> Result<()> {
    for (index, forward) in forwards.iter().enumerate() {
        let must = |field: &str, must: String| Err(Error::invalid(format!("user.forwards[{index}].{field}"), must));
        let allowed = |address: &Ipv4Addr| address.is_unspecified() || *address == forward.host_address;
        if !forward.host_address.is_loopback() && !config.forward_addresses.iter().any(allowed) {
            return must(
                "host_address",
                format!(
                    "be a loopback address, such as 127.0.0.1, not {}; the administrator allows others with --forward-address",
                    forward.host_address
                ),
            );
        }
        if forward.protocol == Protocol::Tcp && config.is_api_port(forward.host_port) {
            return must("host_port", format!("not be {}, which is a port of qherd's API", forward.host_port));
        }
    }
    Ok(())
}

/// What only an adapter's network has, and only a kernel that keeps them apart.
fn check_vlans(service: &Service, switch: &Switch, port: &SwitchPort) -> Result<()> {
    let name = if port.vlan.is_some() { "vlan" } else { "trunk" };
    match switch.kind {
        _ if !port.is_in_vlan() => Ok(()),
        SwitchKind::External { .. } => service.ctx.net.check_vlans().map_err(|e| Error::SwitchConflict(e.to_string())),
        SwitchKind::Internal { .. } | SwitchKind::Private => Err(Error::invalid(
            name,
            "be given only for a NIC on an external switch; on another, a switch is a network",
        )),
    }
}

/// The same error about the field of the `index`th NIC.
pub fn among(index: usize, error: Error) -> Error {
    error.within(&format!("networks[{index}]"))
}

impl Service {
    /// Adds a NIC, to a running VM by hot-plug.
    ///
    /// # Errors
    /// [`Error::VmNotFound`], [`Error::Invalid`], [`Error::SwitchNotFound`], [`Error::AmbiguousSwitch`],
    /// [`Error::MadeAndDeleted`]; [`Error::Conflict`] without a free slot, [`Error::PortTaken`]; [`Error::Failed`] with nothing changed.
    pub async fn add_nic(&self, id: VmId, wish: NicWish) -> Result<(VmView, NicId, Applied)> {
        let handle = self.handle(id)?;
        let view = handle.view();
        // The same request has added it already, and its answer was lost.
        if let Some(made) = wish.id.filter(|id| view.spec.nic(*id).is_some()) {
            let plugged = view.in_effect.as_ref().is_some_and(|now| now.nic(made).is_some());
            return Ok((view, made, if plugged { Applied::Live } else { Applied::NextStart }));
        }
        self.check_not_made(wish.id)?;
        let (nic, _promises) = resolve(self, wish, (id, &view.spec.name))?;
        let added = nic.id;
        let (view, applied) = self.change_by(&handle, Change::AddNic(Box::new(nic))).await?;
        Ok((view, added, applied))
    }

    /// Changes the port of a NIC on a switch, of a running VM at once.
    ///
    /// # Errors
    /// [`Error::VmNotFound`], [`Error::NicNotFound`], [`Error::Invalid`]; [`Error::SwitchConflict`] where another has the
    /// address; [`Error::Failed`] with nothing changed.
    pub async fn change_port(&self, id: VmId, nic: NicId, wish: PortWish) -> Result<(VmView, Applied)> {
        let view = self.view(id)?;
        // Kept until it stands in the definition.
        let (change, _place) = self.port_change(&view.spec, nic, wish)?;
        self.change(id, change).await
    }

    /// The change of a port, and the address that is kept for it.
    pub(super) fn port_change(
        &self,
        spec: &VmSpec,
        nic: NicId,
        wish: PortWish,
    ) -> Result<(Change, Option<Reservation>)> {
        let there = spec.nic(nic).ok_or_else(|| Error::NicNotFound { name: nic.to_string() })?;
        let Some(port) = there.port() else {
            let name = wish.first().unwrap_or("switch");
            return Err(Error::invalid(name, "not be changed of a NIC on the user-mode network"));
        };
        let (switch, _) = self.places.get(port.switch)?;
        let mut wished = port.clone();
        wish.apply(&mut wished)?;
        check_vlans(self, &switch, &wished)?;
        let owner = Owner { mac: there.mac, vm: spec.id, name: spec.name.clone(), vlan: wished.vlan };
        let place = match wished.address.filter(|_| (wished.address, wished.vlan) != (port.address, port.vlan)) {
            Some(address) => Some(self.reserve(switch.id, owner, Wanted::This(address))?),
            None => None,
        };
        Ok((Change::Port { nic, switch: switch.id, wish: Box::new(wish) }, place))
    }

    /// Removes a NIC, from a running VM as soon as its guest lets go of it.
    ///
    /// # Errors
    /// [`Error::VmNotFound`], [`Error::NicNotFound`]; [`Error::Failed`] with nothing changed.
    pub async fn remove_nic(&self, id: VmId, nic: NicId) -> Result<Removed> {
        let missing = || Error::NicNotFound { name: nic.to_string() };
        let view = self.view(id)?;
        let held = view.in_effect.as_ref().and_then(|now| now.nic(nic));
        let removed = view.spec.nic(nic).or(held).cloned().ok_or_else(missing)?;
        let (view, _) = self.change(id, Change::RemoveNic(nic)).await?;
        let pending = view.in_effect.is_some_and(|now| now.nic(nic).is_some());
        Ok(Removed { nic: removed, pending })
    }

    /// NICs wished for a VM that may have some of them already, by label: those need nothing that they do not have.
    ///
    /// # Errors
    /// As [`resolve`].
    pub(super) fn wanted_nics(&self, now: &VmSpec, wishes: Nics) -> Result<(NewNics, Vec<Promises<'_>>)> {
        let mut there = now.nics.clone();
        match wishes {
            Nics::First(wish) => {
                let unmoved = self.switch_of(&wish)?;
                match there.first() {
                    Some(nic) if nic.switch() == unmoved => {
                        Ok((NewNics::First(Box::new(nic.clone().into())), Vec::new()))
                    }
                    _ => resolve(self, wish, (now.id, &now.name))
                        .map(|(nic, promise)| (NewNics::First(Box::new(nic)), vec![promise])),
                }
            }
            Nics::All(wishes) => {
                check_length("networks", &wishes, MAX_DEVICES)?;
                let (mut nics, mut promises) = (Vec::new(), Vec::new());
                for (index, wish) in wishes.into_iter().enumerate() {
                    let unmoved = self.switch_of(&wish).map_err(|error| among(index, error))?;
                    let label = wish.label.as_deref().unwrap_or(DEFAULT_LABEL);
                    match there.iter().position(|nic| nic.label == label && nic.switch() == unmoved) {
                        Some(at) => nics.push(there.remove(at).into()),
                        None => {
                            let (nic, promise) =
                                resolve(self, wish, (now.id, &now.name)).map_err(|error| among(index, error))?;
                            nics.push(nic);
                            promises.push(promise);
                        }
                    }
                }
                Ok((NewNics::All(nics), promises))
            }
        }
    }

    pub fn switch_name(&self, id: SwitchId) -> Option<String> {
        self.places.get(id).ok().map(|(switch, _)| switch.name)
    }

    /// The switch that a NIC is wished on.
    pub fn switch_of(&self, wish: &NicWish) -> Result<Option<SwitchId>> {
        match &wish.network {
            NetworkWish::Switch(switch) => self.find_switch(switch).map(|switch| Some(switch.id)),
            NetworkWish::User { .. } => Ok(None),
        }
    }

    /// The NICs of a VM, and those that its guest has not let go of yet.
    ///
    /// # Errors
    /// [`Error::VmNotFound`].
    pub async fn networks(&self, id: VmId) -> Result<Vec<NicView>> {
        let view = self.view(id)?;
        let addresses = self.addresses(&view).await;
        let leaving = view.in_effect.iter().flat_map(|now| &now.nics).filter(|nic| view.spec.nic(nic.id).is_none());
        let nics = view.spec.nics.iter().chain(leaving);
        Ok(nics.map(|nic| self.nic_view(nic, &view, addresses.of(nic))).collect())
    }

    fn nic_view(&self, nic: &Nic, view: &VmView, addresses: Vec<IpAddr>) -> NicView {
        let switch = nic.switch().and_then(|id| self.places.get(id).ok());
        let plugged = view.in_effect.as_ref().map(|now| now.nic(nic.id).is_some());
        let port = nic.switch().map(|_| self.ctx.net.port(nic.id));
        let status = match (plugged, port) {
            _ if view.spec.nic(nic.id).is_none() => NicStatus::Removing,
            (None, _) => NicStatus::Ok,
            (Some(false), _) => NicStatus::Pending,
            (Some(true), None) => match self.ctx.carriers.problem(view.spec.id, nic.id) {
                Some(why) => NicStatus::Degraded(format!("it carries nothing until another passt is started: {why}")),
                None => NicStatus::Ok,
            },
            (Some(true), Some(PortHealth::Ok)) => NicStatus::Ok,
            (Some(true), Some(PortHealth::Detached(why))) => NicStatus::Degraded(why),
            (Some(true), Some(PortHealth::Gone)) => {
                let until =
                    "somebody removed its tap from the host; it is without a network until the VM is started anew";
                NicStatus::Degraded(until.to_owned())
            }
        };
        let traffic = if plugged == Some(true) { self.ctx.net.traffic(nic.id) } else { None };
        let refused = if plugged == Some(true) { self.ctx.net.refused(nic) } else { None };
        let switch_name = switch.map(|(switch, _)| switch.name);
        let reserved = nic.port().and_then(|port| port.address);
        let dns_name = nic.switch().and_then(|switch| self.dns_name(switch, nic.mac));
        let run = view.sandbox.as_ref().filter(|_| plugged == Some(true) && nic.switch().is_none());
        let carrier = run.map(|run| run.carrier.unwrap_or(Carrier::Slirp));
        NicView { nic: nic.clone(), switch_name, addresses, reserved, dns_name, status, carrier, traffic, refused }
    }

    /// Somebody removed the tap of a NIC: its VM is told.
    pub(super) fn tap_gone(&self, nic: NicId) {
        let is_plugged = |view: &VmView| view.in_effect.as_ref().is_some_and(|now| now.nic(nic).is_some());
        if let Some(handle) = self.registry.with(Mark::Nic(nic)).into_iter().find(|handle| is_plugged(&handle.view())) {
            handle.tap_gone(nic);
        }
    }

    /// Tells every VM of what news that were lost may have told.
    pub(super) fn look_after_taps(&self) {
        for now in self.registry.views().into_iter().filter_map(|view| view.in_effect) {
            let gone = now.nics.iter().filter(|nic| nic.switch().is_some());
            gone.filter(|nic| self.ctx.net.port(nic.id) == PortHealth::Gone).for_each(|nic| self.tap_gone(nic.id));
        }
    }
}
