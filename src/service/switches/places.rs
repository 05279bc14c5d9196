//! Which switches there are, and who has a place on them: a map under a lock. It sees to it that subnets and adapters
//! are claimed once, that addresses are given out once, and that no switch goes while a card is on it.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    model::{
        Error, Nic, NicBackend, Result, Subnet, Switch, SwitchId, SwitchKind, SwitchPort, SwitchRecord, SwitchState,
        VmId, VmView, same_name,
    },
    service::registry::Registry,
};

#[derive(Default)]
pub struct Places {
    switches: Arc<Mutex<HashMap<SwitchId, Entry>>>,
    /// Held by whoever changes or removes a switch that is ready.
    pub turn: tokio::sync::Mutex<()>,
}

struct Entry {
    record: SwitchRecord,
    /// Reserved, and not yet in the definition of a VM.
    pending: Vec<Option<Ipv4Addr>>,
    problem: Option<String>,
}

/// A reserved place on a switch; see [`crate::service::Service::reserve_port`].
#[derive(Debug)]
pub struct Port {
    pub switch: SwitchId,
    /// Where the switch has a subnet.
    pub address: Option<Ipv4Addr>,
    places: std::sync::Weak<Mutex<HashMap<SwitchId, Entry>>>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("record", &self.record).finish_non_exhaustive()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let Some(places) = self.places.upgrade() else { return };
        if let Some(entry) = lock(&places).get_mut(&self.switch)
            && let Some(at) = entry.pending.iter().position(|address| *address == self.address)
        {
            entry.pending.swap_remove(at);
        }
    }
}

impl Places {
    /// Puts a switch that is to be made on the list, invisible yet.
    pub fn claim(&self, switch: &Switch) -> Result<()> {
        let mut switches = lock(&self.switches);
        for other in switches.values().map(|entry| &entry.record.switch) {
            if let (Some(wanted), Some(taken)) = (switch.subnet(), other.subnet())
                && wanted.overlaps(taken)
            {
                let told = format!(
                    "The subnet {wanted} overlaps {taken} of the switch {} ({}); choose another.",
                    other.name, other.id
                );
                return Err(Error::SwitchConflict(told));
            }
            if let (SwitchKind::External { adapter, .. }, SwitchKind::External { adapter: taken, .. }) =
                (&switch.kind, &other.kind)
                && adapter == taken
            {
                let told = format!("The adapter {adapter} belongs to the switch {} ({}).", other.name, other.id);
                return Err(Error::SwitchConflict(told));
            }
        }
        let record = SwitchRecord { switch: switch.clone(), state: SwitchState::Creating, moved: None };
        switches.insert(switch.id, Entry { record, pending: Vec::new(), problem: None });
        Ok(())
    }

    /// From now on this is what the switch is.
    pub fn ready(&self, record: &SwitchRecord) {
        let record = SwitchRecord { state: SwitchState::Ready, ..record.clone() };
        let mut switches = lock(&self.switches);
        match switches.get_mut(&record.switch.id) {
            Some(entry) => entry.record = record,
            None => {
                switches.insert(record.switch.id, Entry { record, pending: Vec::new(), problem: None });
            }
        }
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
        let switches = lock(&self.switches);
        let entry = switches.get(&id).filter(|entry| entry.record.state == SwitchState::Ready);
        entry.map(|e| e.record.clone()).ok_or(Error::SwitchNotFound(id.to_string()))
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

    pub fn reserve(&self, id: SwitchId, registry: &Registry) -> Result<Port> {
        let mut switches = lock(&self.switches);
        let entry = switches.get_mut(&id).filter(|entry| entry.record.state == SwitchState::Ready);
        let entry = entry.ok_or(Error::SwitchNotFound(id.to_string()))?;
        let address = match entry.record.switch.subnet() {
            None => None,
            Some(subnet) => Some(free_address(subnet, entry, registry)?),
        };
        entry.pending.push(address);
        Ok(Port { switch: id, address, places: Arc::downgrade(&self.switches) })
    }

    /// From now on nobody finds it any more, unless [`Self::ready`] brings it back.
    pub fn start_deleting(&self, id: SwitchId, registry: &Registry) -> Result<SwitchRecord> {
        let mut switches = lock(&self.switches);
        let entry = switches.get_mut(&id).filter(|entry| entry.record.state == SwitchState::Ready);
        let entry = entry.ok_or(Error::SwitchNotFound(id.to_string()))?;
        let mut users: Vec<String> =
            users(id, &registry.views()).into_iter().map(|(id, name)| format!("{name} ({id})")).collect();
        if users.is_empty() && !entry.pending.is_empty() {
            users.push("a VM that is being made or changed right now".into());
        }
        if !users.is_empty() {
            let told = format!("The switch {} is in use by {}.", entry.record.switch.name, users.join(", "));
            return Err(Error::SwitchConflict(told));
        }
        entry.record.state = SwitchState::Deleting;
        Ok(entry.record.clone())
    }
}

impl Entry {
    /// One that is being deleted is still there for those who look.
    fn visible(&self) -> bool {
        self.record.state != SwitchState::Creating
    }
}

/// Cards that a VM has, or still has in its running QEMU.
pub(super) fn cards(view: &VmView) -> impl Iterator<Item = &Nic> {
    view.spec.nics.iter().chain(view.in_effect.iter().flat_map(|spec| &spec.nics)).filter(|_| !view.gone)
}

pub(super) fn users(id: SwitchId, vms: &[VmView]) -> Vec<(VmId, String)> {
    let using = vms.iter().filter(|view| cards(view).any(|nic| nic.switch() == Some(id)));
    using.map(|view| (view.spec.id, view.spec.name.clone())).collect()
}

fn free_address(subnet: &Subnet, entry: &Entry, registry: &Registry) -> Result<Ipv4Addr> {
    let views = registry.views();
    let mut taken: HashSet<Ipv4Addr> = entry.pending.iter().copied().flatten().collect();
    for nic in views.iter().flat_map(cards) {
        if let NicBackend::Switch(SwitchPort { switch, address: Some(address), .. }) = &nic.backend
            && *switch == entry.record.switch.id
        {
            taken.insert(*address);
        }
    }
    subnet.guests().find(|address| !taken.contains(address)).ok_or_else(|| {
        let name = &entry.record.switch.name;
        Error::SwitchConflict(format!("The subnet {subnet} of the switch {name} has no address left."))
    })
}

// Every change under the lock is whole, so a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
