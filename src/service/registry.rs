//! Which VMs there are: a map under a lock that only routes. It also sees to it that no two VMs share a MAC address.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::Filter;
use crate::{
    model::{MacAddr, VmId, VmView, same_name},
    vm::VmHandle,
};

#[derive(Default)]
pub(super) struct Registry(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    /// By age, which is the order of every list.
    vms: BTreeMap<(u64, VmId), VmHandle>,
    ages: HashMap<VmId, u64>,
    macs: HashSet<MacAddr>,
}

/// Some VMs, oldest first.
#[derive(Clone, Debug)]
pub struct Page {
    pub vms: Vec<VmView>,
    /// Where the next page begins: after this one. None at the end.
    pub next: Option<(u64, VmId)>,
}

impl Registry {
    pub fn insert(&self, handle: VmHandle) {
        let spec = handle.view().spec;
        let mut inner = self.write();
        inner.macs.extend(spec.nics.iter().map(|nic| nic.mac));
        inner.ages.insert(spec.id, spec.created_at);
        inner.vms.insert((spec.created_at, spec.id), handle);
    }

    pub fn get(&self, id: VmId) -> Option<VmHandle> {
        let inner = self.read();
        inner.vms.get(&(*inner.ages.get(&id)?, id)).cloned()
    }

    pub fn remove(&self, id: VmId) {
        let mut inner = self.write();
        if let Some(age) = inner.ages.remove(&id)
            && let Some(handle) = inner.vms.remove(&(age, id))
        {
            for nic in &handle.view().spec.nics {
                inner.macs.remove(&nic.mac);
            }
        }
    }

    /// A MAC address that no VM of this host has; it is taken until [`Self::release`] or the end of its VM.
    pub fn reserve_mac(&self) -> MacAddr {
        let mut inner = self.write();
        loop {
            let mac = MacAddr::random();
            if inner.macs.insert(mac) {
                return mac;
            }
        }
    }

    pub fn release(&self, mac: MacAddr) {
        self.write().macs.remove(&mac);
    }

    pub fn handles(&self) -> Vec<VmHandle> {
        self.read().vms.values().cloned().collect()
    }

    pub fn views(&self) -> Vec<VmView> {
        self.read().vms.values().map(VmHandle::view).collect()
    }

    pub fn page(&self, filter: &Filter, after: Option<(u64, VmId)>, limit: Option<usize>) -> Page {
        use std::ops::Bound::{Excluded, Unbounded};
        let inner = self.read();
        let wanted = |view: &VmView| {
            !view.gone
                && filter.status.is_none_or(|status| status == view.status)
                && filter.name.as_ref().is_none_or(|name| *name == view.spec.name)
                && filter.name_in_any_case.as_ref().is_none_or(|name| same_name(name, &view.spec.name))
        };
        let start = after.map_or(Unbounded, Excluded);
        let mut matching = inner.vms.range((start, Unbounded)).map(|(_, handle)| handle.view()).filter(wanted);
        let vms: Vec<VmView> = matching.by_ref().take(limit.unwrap_or(usize::MAX)).collect();
        let next = matching.next().and(vms.last()).map(|last| (last.spec.created_at, last.spec.id));
        Page { vms, next }
    }

    // A panic while the lock is held leaves the map whole: every change is one insertion or removal.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
