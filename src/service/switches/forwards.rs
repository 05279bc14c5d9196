//! Ports of the host that lead to guests on a switch with NAT. They stand in the switch's record, and mean a NIC: when
//! that leaves the switch they lead nowhere, are shown to nobody, and go with the next change of the record.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::plugged::leads_to;
use crate::{
    host::host_ports,
    model::{
        Error, ForwardId, NicId, Protocol, Result, Switch, SwitchForward, SwitchId, SwitchRecord, VmId, VmView,
        check_forward,
    },
    service::Service,
    vm::Mark,
};

/// Forwards of one NIC, and of one switch: a record has its bounds.
const OF_A_NIC: usize = 64;
const OF_A_SWITCH: usize = 1024;

/// A forward as a client sees it.
#[derive(Clone, Debug)]
pub struct ForwardView {
    pub forward: SwitchForward,
    /// Id and name.
    pub vm: (VmId, String),
    /// Of the NIC in QEMU.
    pub device: String,
    /// Where it leads.
    pub address: Option<Ipv4Addr>,
}

/// A forward as wished for, decoded, not yet checked.
#[derive(Clone, Debug)]
pub struct ForwardWish {
    /// The id that it is to have, where the request may be one that was made before; else a new one.
    pub id: Option<ForwardId>,
    pub protocol: Protocol,
    pub host_address: Option<Ipv4Addr>,
    pub host_port: i64,
    pub vm: VmId,
    /// By id or QEMU's name; the VM's first one on the switch where none is named.
    pub nic: Option<String>,
    pub guest_port: i64,
}

impl Service {
    /// The forwards of a switch, in the order in which they were made.
    ///
    /// # Errors
    /// [`Error::SwitchNotFound`].
    pub fn forwards(&self, id: SwitchId) -> Result<Vec<ForwardView>> {
        let (switch, _) = self.places.get(id)?;
        let shown = |forward: &SwitchForward| {
            let (view, nic) = leads_to(forward, id, &self.registry)?;
            Some(ForwardView {
                forward: forward.clone(),
                vm: (view.spec.id, view.spec.name.clone()),
                device: nic.name.clone(),
                address: nic.port()?.address,
            })
        };
        Ok(switch.forwards.iter().filter_map(shown).collect())
    }

    /// Makes a port of the host lead to a guest.
    ///
    /// # Errors
    /// [`Error::SwitchNotFound`], [`Error::VmNotFound`], [`Error::NicNotFound`], [`Error::Invalid`];
    /// [`Error::SwitchConflict`] and [`Error::PortTaken`] where somebody has the port; [`Error::Failed`] with nothing changed.
    pub async fn add_forward(&self, id: SwitchId, wish: ForwardWish) -> Result<ForwardView> {
        let (host_address, host_port, guest_port) = check_forward(wish.host_address, wish.host_port, wish.guest_port)?;
        let _turn = self.places.turn(id).await?;
        let before = self.places.record(id)?;
        // The same request has made it already, and its answer was lost.
        if let Some(made) =
            wish.id.and_then(|wished| self.forwards(id).ok()?.into_iter().find(|f| f.forward.id == wished))
        {
            return Ok(made);
        }
        self.check_not_made(wish.id)?;
        if !before.switch.subnet().is_some_and(|subnet| subnet.nat) {
            let message =
                format!("The switch {} has no NAT, so no port of the host leads to its guests.", before.switch.name);
            return Err(Error::SwitchConflict(message));
        }
        let nic = self.nic_on(&before.switch, wish.vm, wish.nic.as_deref())?;
        let forward = SwitchForward {
            id: wish.id.unwrap_or_else(ForwardId::random),
            protocol: wish.protocol,
            host_address,
            host_port,
            nic,
            guest_port,
        };
        let mut switch = before.switch.clone();
        switch.forwards = self.live_forwards(&switch);
        if switch.forwards.len() >= OF_A_SWITCH {
            return Err(Error::invalid("forwards", format!("be at most {OF_A_SWITCH} on one switch")));
        }
        if switch.forwards.iter().filter(|other| other.nic == nic).count() >= OF_A_NIC {
            return Err(Error::invalid("forwards", format!("be at most {OF_A_NIC} for one NIC")));
        }
        if forward.protocol == Protocol::Tcp && self.ctx.config.is_api_port(host_port) {
            return Err(Error::invalid("host_port", format!("not be {host_port}, which is a port of qherd's API")));
        }
        self.check_host_port(&forward)?;
        let _claim = self.places.claim_forward(id, &forward, &self.registry)?;
        switch.forwards.push(forward.clone());
        self.restate(&before, SwitchRecord { switch, ..before.clone() }).await?;
        let made = self.forwards(id)?.into_iter().find(|view| view.forward.id == forward.id);
        // Gone again where somebody was quick to remove the NIC.
        made.ok_or(Error::NicNotFound { name: nic.to_string() })
    }

    /// # Errors
    /// [`Error::SwitchNotFound`], [`Error::ForwardNotFound`]; [`Error::Failed`] with nothing changed.
    pub async fn remove_forward(&self, id: SwitchId, forward: ForwardId) -> Result<ForwardView> {
        let _turn = self.places.turn(id).await?;
        let before = self.places.record(id)?;
        let found = self.forwards(id)?.into_iter().find(|view| view.forward.id == forward);
        let found = found.ok_or(Error::ForwardNotFound(forward))?;
        let mut switch = before.switch.clone();
        switch.forwards = self.live_forwards(&switch);
        switch.forwards.retain(|other| other.id != forward);
        self.restate(&before, SwitchRecord { switch, ..before.clone() }).await?;
        Ok(found)
    }

    /// Those that lead somewhere.
    pub(super) fn live_forwards(&self, switch: &Switch) -> Vec<SwitchForward> {
        switch
            .forwards
            .iter()
            .filter(|forward| leads_to(forward, switch.id, &self.registry).is_some())
            .cloned()
            .collect()
    }

    /// Takes those out of the record that lead nowhere any more.
    pub(super) async fn forget_forwards(&self, id: SwitchId) {
        let Ok(_turn) = self.places.turn(id).await else { return };
        let Ok(before) = self.places.record(id) else { return };
        // What a record that cannot be read would name is not to be taken for nobody's.
        if before.switch.forwards.is_empty() || self.registry.has_unreadable() {
            return;
        }
        let mut record = before.clone();
        record.switch.forwards = self.live_forwards(&before.switch);
        if record.switch.forwards.len() == before.switch.forwards.len() {
            return;
        }
        match self.persist_switch(&record).await {
            Ok(()) => {
                self.places.ready(&record);
                let put = self.ctx.net.put_switch(&record.switch, record.moved.as_ref()).await;
                self.places.tell_problem(id, put.err().map(|error| error.to_string()));
            }
            Err(error) => {
                tracing::warn!(switch = %id, %error, "cannot forget forwards that lead nowhere; trying again")
            }
        }
    }

    /// The NIC of a VM that is meant, on this switch.
    fn nic_on(&self, switch: &Switch, vm: VmId, named: Option<&str>) -> Result<NicId> {
        let view = self.view(vm)?;
        let mut there = view.spec.nics.iter().filter(|nic| nic.switch() == Some(switch.id));
        match named {
            None => there.next().map(|nic| nic.id).ok_or_else(|| {
                let message = format!("The VM {} has no NIC on the switch {}.", view.spec.name, switch.name);
                Error::SwitchConflict(message)
            }),
            Some(text) => {
                let found = there.find(|nic| nic.is_called(text)).map(|nic| nic.id);
                found.ok_or_else(|| Error::NicNotFound { name: text.to_owned() })
            }
        }
    }

    /// Whether a program of the host listens there, this daemon among them, or a VM on the user-mode network.
    fn check_host_port(&self, forward: &SwitchForward) -> Result<()> {
        let address = forward.host_address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        for view in self.registry.views_with(Mark::HostPort(forward.protocol, forward.host_port)) {
            let user = view.spec.nics.iter().flat_map(|nic| nic.backend.forwards());
            let meets = |other: &&crate::model::Forward| {
                (other.protocol, other.host_port) == (forward.protocol, forward.host_port)
                    && (other.host_address == address
                        || other.host_address.is_unspecified()
                        || address.is_unspecified())
            };
            if let Some(other) = user.into_iter().find(meets) {
                let VmView { spec, .. } = &view;
                let message = format!("The port {other} of the host leads to the VM {} ({}).", spec.name, spec.id);
                return Err(Error::SwitchConflict(message));
            }
        }
        let taken = |why: std::io::Error| Error::PortTaken { port: forward.to_string(), why: why.to_string() };
        host_ports::check(forward.protocol, SocketAddrV4::new(address, forward.host_port)).map_err(taken)
    }
}
