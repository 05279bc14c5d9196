//! Which switches there are, and who has a place on them: a map under a lock. It sees to it that subnets and adapters
//! are claimed once, that addresses are given out once, and that no switch goes while a NIC is on it.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    conflict::conflict,
    names::Names,
    plugged::{leads_to, nics},
};
use crate::{
    model::{
        Error, MacAddr, Nic, Result, Subnet, Switch, SwitchForward, SwitchId, SwitchPort, SwitchRecord, SwitchState,
        VmId, VmView, same_name,
    },
    net::Host,
    service::registry::Registry,
    vm::Mark,
};

const UNREADABLE: &str = "a VM whose record cannot be read";

#[derive(Default)]
pub struct Places {
    switches: Shared,
}

type Shared = Arc<Mutex<HashMap<SwitchId, Entry>>>;

struct Entry {
    record: SwitchRecord,
    /// Reserved, and not yet in the definition of a VM.
    pending: Vec<(Owner, Option<Ipv4Addr>)>,
    problem: Option<String>,
    /// Held by whoever changes or removes the switch.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Held by whoever tidies up after its NICs.
    alone: Arc<tokio::sync::Mutex<()>>,
    /// Of VMs whose records cannot be read.
    unreadable: Vec<Host>,
    /// What a change that is under way will make of it.
    claimed_subnet: Option<Subnet>,
    claimed_forward: Option<SwitchForward>,
}

/// The NIC that a place is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub mac: MacAddr,
    pub vm: VmId,
    /// Of the VM.
    pub name: String,
    /// One address in two VLANs is two addresses.
    pub vlan: Option<u16>,
}

/// The address that a NIC is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any of the subnet; none where there is no subnet.
    Any,
    /// This one where it is free, else any.
    Rather(Ipv4Addr),
    /// This one.
    This(Ipv4Addr),
}

/// A reserved place on a switch; see [`crate::service::Service::reserve`].
#[derive(Debug)]
pub struct Reservation {
    pub switch: SwitchId,
    /// Where the switch has a subnet, or an address was wished for.
    pub address: Option<Ipv4Addr>,
    mac: MacAddr,
    places: std::sync::Weak<Mutex<HashMap<SwitchId, Entry>>>,
}

/// What a change of a switch claims, kept from others until this is dropped.
pub struct Claim {
    switch: SwitchId,
    places: Shared,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(entry) = lock(&self.places).get_mut(&self.switch) {
            (entry.claimed_subnet, entry.claimed_forward) = (None, None);
        }
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("record", &self.record).finish_non_exhaustive()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(places) = self.places.upgrade() else { return };
        if let Some(entry) = lock(&places).get_mut(&self.switch)
            && let Some(at) =
                entry.pending.iter().position(|(owner, address)| (owner.mac, *address) == (self.mac, self.address))
        {
            entry.pending.swap_remove(at);
        }
    }
}

impl Places {
    /// Puts a switch that is to be made on the list, invisible yet.
    pub fn claim(&self, switch: &Switch) -> Result<()> {
        let mut switches = lock(&self.switches);
        conflict(switch, others(&switches))?;
        let record = SwitchRecord { switch: switch.clone(), state: SwitchState::Creating, moved: None };
        switches.insert(switch.id, Entry::of(record));
        Ok(())
    }

    /// From now on this is what the switch is.
    pub fn ready(&self, record: &SwitchRecord) {
        let record = SwitchRecord { state: SwitchState::Ready, ..record.clone() };
        let mut switches = lock(&self.switches);
        let entry = switches.entry(record.switch.id).or_insert_with(|| Entry::of(record.clone()));
        entry.record = record;
    }

    /// The right to change a switch; others wait for it.
    pub async fn turn(&self, id: SwitchId) -> Result<tokio::sync::OwnedMutexGuard<()>> {
        let turn = lock(&self.switches).get(&id).map(|entry| entry.turn.clone());
        Ok(turn.ok_or(Error::SwitchNotFound(id.to_string()))?.lock_owned().await)
    }

    /// The right to tidy up after the NICs of a switch; none while somebody does.
    pub fn alone(&self, id: SwitchId) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        lock(&self.switches).get(&id)?.alone.clone().try_lock_owned().ok()
    }

    /// Whether somebody has the turn of a switch right now.
    pub fn is_busy(&self, id: SwitchId) -> bool {
        lock(&self.switches).get(&id).is_some_and(|entry| entry.turn.try_lock().is_err())
    }

    /// Keeps the subnet that a switch is about to have from others.
    pub fn claim_subnet(&self, switch: &Switch) -> Result<Claim> {
        let mut switches = lock(&self.switches);
        conflict(switch, others(&switches))?;
        if let Some(entry) = switches.get_mut(&switch.id) {
            entry.claimed_subnet = switch.subnet().cloned();
        }
        Ok(Claim { switch: switch.id, places: self.switches.clone() })
    }

    /// Keeps the port of the host that a NIC of a switch is about to have from others.
    pub fn claim_forward(&self, switch: SwitchId, forward: &SwitchForward, registry: &Registry) -> Result<Claim> {
        let mut switches = lock(&self.switches);
        for (id, entry) in &*switches {
            let recorded = entry.record.switch.forwards.iter().filter(|other| leads_to(other, *id, registry).is_some());
            if let Some(other) = recorded.chain(&entry.claimed_forward).find(|other| other.meets(forward)) {
                let to = leads_to(other, *id, registry)
                    .map(|(view, _)| format!(" to the VM {} ({})", view.spec.name, view.spec.id));
                let (name, to) = (&entry.record.switch.name, to.unwrap_or_default());
                let message = format!("The port {other} of the host leads{to} on the switch {name} ({id}).");
                return Err(Error::SwitchConflict(message));
            }
        }
        if let Some(entry) = switches.get_mut(&switch) {
            entry.claimed_forward = Some(forward.clone());
        }
        Ok(Claim { switch, places: self.switches.clone() })
    }

    pub fn tell_problem(&self, id: SwitchId, problem: Option<String>) {
        if let Some(entry) = lock(&self.switches).get_mut(&id) {
            entry.problem = problem;
        }
    }

    pub fn remove(&self, id: SwitchId) {
        lock(&self.switches).remove(&id);
    }

    pub fn get(&self, id: SwitchId) -> Result<(Switch, Option<String>)> {
        let switches = lock(&self.switches);
        let entry = switches.get(&id).filter(|entry| entry.visible());
        entry.map(|e| (e.record.switch.clone(), e.problem.clone())).ok_or(Error::SwitchNotFound(id.to_string()))
    }

    pub fn record(&self, id: SwitchId) -> Result<SwitchRecord> {
        let ready = self.known(id).filter(|record| record.state == SwitchState::Ready);
        ready.ok_or(Error::SwitchNotFound(id.to_string()))
    }

    /// What is known of it, however far it has come.
    pub fn known(&self, id: SwitchId) -> Option<SwitchRecord> {
        lock(&self.switches).get(&id).map(|entry| entry.record.clone())
    }

    /// Oldest first, then by id.
    pub fn all(&self) -> Vec<(Switch, Option<String>)> {
        let switches = lock(&self.switches);
        let mut all: Vec<_> =
            switches.values().filter(|e| e.visible()).map(|e| (e.record.switch.clone(), e.problem.clone())).collect();
        all.sort_by_key(|(switch, _)| (switch.created_at, switch.id));
        all
    }

    /// Those that bear a name, without regard to case, oldest first.
    pub fn named(&self, name: &str) -> Vec<Switch> {
        self.all().into_iter().map(|(switch, _)| switch).filter(|switch| same_name(&switch.name, name)).collect()
    }

    pub fn reserve(&self, id: SwitchId, owner: Owner, wanted: Wanted, registry: &Registry) -> Result<Reservation> {
        let mut switches = lock(&self.switches);
        let entry = switches.get_mut(&id).filter(|entry| entry.record.state == SwitchState::Ready);
        let entry = entry.ok_or(Error::SwitchNotFound(id.to_string()))?;
        if entry.unreadable.iter().any(|host| host.mac == owner.mac) {
            let message = format!("The MAC address {} belongs to {UNREADABLE}; choose another.", owner.mac);
            return Err(Error::SwitchConflict(message));
        }
        let address = entry.address(&owner, wanted, registry)?;
        let mac = owner.mac;
        entry.pending.push((owner, address));
        Ok(Reservation { switch: id, address, mac, places: Arc::downgrade(&self.switches) })
    }

    /// These NICs, of which no more is known, keep their addresses.
    pub fn keep_hosts(&self, id: SwitchId, hosts: Vec<Host>) {
        if let Some(entry) = lock(&self.switches).get_mut(&id) {
            entry.unreadable = hosts;
        }
    }

    /// The NICs that have an address on a switch, also those that are about to come, by age of their VMs.
    pub fn hosts(&self, id: SwitchId, vms: &[VmView]) -> Vec<Host> {
        let switches = lock(&self.switches);
        let Some(entry) = switches.get(&id) else { return Vec::new() };
        let mut names = Names::default();
        let mut hosts: Vec<Host> = Vec::new();
        let (mut macs, mut addresses) = (HashSet::new(), HashSet::new());
        let mut add = |mac: MacAddr, address: Ipv4Addr, vm: VmId, name: &str| {
            // What is defined of a NIC comes before what its QEMU has.
            if !macs.contains(&mac) && addresses.insert(address) {
                macs.insert(mac);
                hosts.push(Host { mac, address, label: Some(names.label(name, vm)) });
            }
        };
        for view in vms {
            for nic in nics(view) {
                if let Some(SwitchPort { switch, address: Some(address), .. }) = nic.port()
                    && *switch == id
                {
                    add(nic.mac, *address, view.spec.id, &view.spec.name);
                }
            }
        }
        for (owner, address) in &entry.pending {
            if let Some(address) = address {
                add(owner.mac, *address, owner.vm, &owner.name);
            }
        }
        for left in entry.unreadable() {
            if hosts.iter().all(|host| host.mac != left.mac && host.address != left.address) {
                let label = left.label.clone().filter(|_| hosts.iter().all(|host| host.label != left.label));
                hosts.push(Host { label, ..left.clone() });
            }
        }
        hosts
    }

    /// From now on nobody finds it any more, unless [`Self::ready`] brings it back.
    pub fn start_deleting(&self, id: SwitchId, registry: &Registry) -> Result<SwitchRecord> {
        let mut switches = lock(&self.switches);
        let entry = switches.get_mut(&id).filter(|entry| entry.record.state == SwitchState::Ready);
        let entry = entry.ok_or(Error::SwitchNotFound(id.to_string()))?;
        let mut users: Vec<String> = users(id, &registry.views_with(Mark::Switch(id)))
            .into_iter()
            .map(|(id, name)| format!("{name} ({id})"))
            .collect();
        if users.is_empty() && !entry.pending.is_empty() {
            users.push("a VM that is being made or changed right now".into());
        }
        if !users.is_empty() {
            let message = format!("The switch {} is in use by {}.", entry.record.switch.name, users.join(", "));
            return Err(Error::SwitchConflict(message));
        }
        // Nobody can tell whether these use it, and their guests may live.
        if let [first, ..] = registry.set_aside_all()[..] {
            let message =
                format!("The switch may be used by {UNREADABLE} ({first}); see to that first (qherd db check).");
            return Err(Error::SwitchConflict(message));
        }
        entry.record.state = SwitchState::Deleting;
        Ok(entry.record.clone())
    }
}

impl Entry {
    fn of(record: SwitchRecord) -> Self {
        Self {
            record,
            pending: Vec::new(),
            problem: None,
            turn: Arc::default(),
            alone: Arc::default(),
            unreadable: Vec::new(),
            claimed_subnet: None,
            claimed_forward: None,
        }
    }

    /// An address for a NIC, as it is wanted.
    fn address(&self, owner: &Owner, wanted: Wanted, registry: &Registry) -> Result<Option<Ipv4Addr>> {
        let switch = &self.record.switch;
        let holder = |address: Ipv4Addr| self.holder(address, owner, registry);
        let subnet = switch.subnet();
        match (wanted, subnet) {
            (Wanted::This(address), _) => {
                if let Some(subnet) = subnet.filter(|subnet| !subnet.is_for_guests(address)) {
                    let (first, last) = (u32::from(subnet.gateway()) + 1, u32::from(subnet.broadcast()) - 1);
                    let (first, last) = (Ipv4Addr::from(first), Ipv4Addr::from(last));
                    return Err(Error::invalid(
                        "address",
                        format!("be one of {first} to {last}, the guests' in {subnet}"),
                    ));
                }
                let whose =
                    |ip: Ipv4Addr| ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast();
                if whose(address) {
                    return Err(Error::invalid("address", "be an address that a guest can have"));
                }
                match holder(address) {
                    Some(whose) => Err(Error::SwitchConflict(format!(
                        "The address {address} on the switch {} belongs to {whose}; choose another.",
                        switch.name
                    ))),
                    None => Ok(Some(address)),
                }
            }
            (_, None) => Ok(None),
            (Wanted::Rather(address), Some(_)) if holder(address).is_none() => Ok(Some(address)),
            (Wanted::Rather(_) | Wanted::Any, Some(subnet)) => {
                let free = subnet.guests().find(|address| holder(*address).is_none());
                free.map(Some).ok_or_else(|| {
                    Error::SwitchConflict(format!(
                        "The subnet {subnet} of the switch {} has no address left.",
                        switch.name
                    ))
                })
            }
        }
    }

    /// NICs of VMs whose records cannot be read.
    fn unreadable(&self) -> impl Iterator<Item = &Host> {
        let subnet = self.record.switch.subnet();
        self.unreadable.iter().filter(move |host| subnet.is_some_and(|subnet| subnet.is_for_guests(host.address)))
    }

    /// Who else has an address on the switch.
    fn holder(&self, address: Ipv4Addr, asks: &Owner, registry: &Registry) -> Option<String> {
        let here = |nic: &&Nic| {
            let port = nic.port().map(|port| (port.switch, port.vlan, port.address));
            nic.mac != asks.mac && port == Some((self.record.switch.id, asks.vlan, Some(address)))
        };
        let pending = self.pending.iter().map(|(owner, reserved)| (owner, *reserved == Some(address)));
        let mut pending = pending.filter(|(owner, same)| *same && owner.mac != asks.mac && owner.vlan == asks.vlan);
        if let Some((owner, _)) = pending.next_back() {
            return Some(format!("the VM {} ({}), which is being made or changed", owner.name, owner.vm));
        }
        let views = registry.views_with(Mark::Address(self.record.switch.id, address));
        if let Some(view) = views.iter().rfind(|view| nics(view).any(|nic| here(&nic))) {
            return Some(format!("the VM {} ({})", view.spec.name, view.spec.id));
        }
        self.unreadable().any(|host| host.address == address).then(|| UNREADABLE.to_owned())
    }

    /// One that is being deleted is still there for those who look.
    fn visible(&self) -> bool {
        self.record.state != SwitchState::Creating
    }
}

pub(super) fn users(id: SwitchId, vms: &[VmView]) -> Vec<(VmId, String)> {
    let using = vms.iter().filter(|view| nics(view).any(|nic| nic.switch() == Some(id)));
    using.map(|view| (view.spec.id, view.spec.name.clone())).collect()
}

fn others(switches: &HashMap<SwitchId, Entry>) -> impl Iterator<Item = (&Switch, Option<&Subnet>)> {
    switches.values().map(|entry| (&entry.record.switch, entry.claimed_subnet.as_ref()))
}

// Every change under the lock is whole, so a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
