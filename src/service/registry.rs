//! Which VMs there are: a map under a lock that only routes. It also sees to it that no two VMs share a MAC address.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::Filter;
use crate::{
    model::{Error, MacAddr, Result, VmId, VmSpec, VmView},
    vm::{Census, Mark, VmHandle},
};

pub(super) struct Registry {
    census: Arc<Census>,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By age, which is the order of every list.
    vms: BTreeMap<(u64, VmId), VmHandle>,
    ages: HashMap<VmId, u64>,
    /// Started before anybody was told that they exist.
    making: HashMap<VmId, VmHandle>,
    /// Given out, and not yet in the definition of a VM.
    promised: HashSet<MacAddr>,
    /// Recorded, but their records cannot be read: why.
    unreadable: HashMap<VmId, String>,
}

/// A MAC address that no VM of this host has. It is kept for a NIC until this is dropped; by then the NIC is to stand
/// in the published definition of a VM, which does the same.
pub(super) struct Promise<'a> {
    pub mac: MacAddr,
    registry: &'a Registry,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.registry.write().promised.remove(&self.mac);
    }
}

/// A VM that is started before it is on the list; those who stop every VM know of it for as long as this lives.
pub(super) struct Making<'a> {
    id: VmId,
    registry: &'a Registry,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.registry.write().making.remove(&self.id);
    }
}

/// Some VMs, oldest first.
#[derive(Clone, Debug)]
pub struct Page {
    pub vms: Vec<VmView>,
    /// Where the next page begins: after this one. None at the end.
    pub next: Option<(u64, VmId)>,
}

impl Registry {
    pub fn new(census: Arc<Census>) -> Self {
        Self { census, inner: RwLock::default() }
    }

    pub fn insert(&self, handle: VmHandle) {
        let spec = handle.view().spec;
        let mut inner = self.write();
        inner.ages.insert(spec.id, spec.created_at);
        inner.vms.insert((spec.created_at, spec.id), handle);
    }

    /// For a request that comes now.
    pub fn get(&self, id: VmId) -> Option<VmHandle> {
        let inner = self.read();
        inner.handle(id).map(VmHandle::for_request)
    }

    /// A VM whose record cannot be read. It is in no list, and whatever it has stays as it is.
    pub fn set_aside(&self, id: VmId, why: String) {
        self.write().unreadable.insert(id, why);
    }

    pub fn has_unreadable(&self) -> bool {
        !self.read().unreadable.is_empty()
    }

    pub fn unreadable(&self, id: VmId) -> Option<String> {
        self.read().unreadable.get(&id).cloned()
    }

    /// All of which nobody knows what they use.
    pub fn set_aside_all(&self) -> Vec<VmId> {
        let mut all: Vec<VmId> = self.read().unreadable.keys().copied().collect();
        all.sort();
        all
    }

    pub fn remove(&self, id: VmId) {
        let mut inner = self.write();
        if let Some(age) = inner.ages.remove(&id) {
            inner.vms.remove(&(age, id));
        }
    }

    /// A MAC address for a new NIC: this one, or a random one.
    ///
    /// # Errors
    /// [`Error::SwitchConflict`] that says who has it.
    pub fn promise_mac(&self, wanted: Option<MacAddr>) -> Result<Promise<'_>> {
        let mut inner = self.write();
        let bears = |spec: &VmSpec, mac| spec.nics.iter().any(|nic| nic.mac == mac);
        // A NIC that was removed is there for as long as its guest holds it.
        let taken =
            |view: &VmView, mac| bears(&view.spec, mac) || view.in_effect.as_ref().is_some_and(|spec| bears(spec, mac));
        loop {
            let mac = wanted.unwrap_or_else(MacAddr::random);
            let bearing = self.census.bearing(Mark::Mac(mac));
            let owner = inner.views(&bearing).into_iter().find(|view| taken(view, mac)).map(|view| view.spec);
            if owner.is_none() && inner.promised.insert(mac) {
                return Ok(Promise { mac, registry: self });
            }
            if wanted.is_some() {
                let owner = owner.map(|spec| format!("the VM {} ({})", spec.name, spec.id));
                let owner = owner.unwrap_or_else(|| "a VM that is being made or changed right now".into());
                return Err(Error::SwitchConflict(format!(
                    "The MAC address {mac} belongs to {owner}; choose another."
                )));
            }
        }
    }

    pub fn handles(&self) -> Vec<VmHandle> {
        self.read().vms.values().map(VmHandle::for_request).collect()
    }

    /// With those that are on no list yet.
    pub fn everyone(&self) -> Vec<VmHandle> {
        let inner = self.read();
        inner.vms.values().chain(inner.making.values()).map(VmHandle::for_request).collect()
    }

    pub fn making(&self, handle: VmHandle) -> Making<'_> {
        let id = handle.view().spec.id;
        self.write().making.insert(id, handle);
        Making { id, registry: self }
    }

    /// All of them: for lists, and for what happens once.
    pub fn views(&self) -> Vec<VmView> {
        self.read().vms.values().map(VmHandle::view).collect()
    }

    /// Those that may bear a mark, the oldest first. Who asks looks whether they do.
    pub fn views_with(&self, mark: Mark) -> Vec<VmView> {
        let bearing = self.census.bearing(mark);
        self.read().views(&bearing)
    }

    pub fn with(&self, mark: Mark) -> Vec<VmHandle> {
        let bearing = self.census.bearing(mark);
        let inner = self.read();
        bearing.iter().filter_map(|id| inner.handle(*id)).map(VmHandle::for_request).collect()
    }

    pub fn page(&self, filter: &Filter, after: Option<(u64, VmId)>, limit: Option<usize>) -> Page {
        use std::ops::Bound::{Excluded, Unbounded};
        let inner = self.read();
        let wanted = |view: &VmView| !view.gone && filter.wants(view);
        let start = after.map_or(Unbounded, Excluded);
        let mut matching = inner.vms.range((start, Unbounded)).map(|(_, handle)| handle.view()).filter(wanted);
        let vms: Vec<VmView> = matching.by_ref().take(limit.unwrap_or(usize::MAX)).collect();
        let next = matching.next().and(vms.last()).map(|last| (last.spec.created_at, last.spec.id));
        Page { vms, next }
    }

    // A panic while the lock is held leaves the map whole: every change is one insertion or removal.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn handle(&self, id: VmId) -> Option<&VmHandle> {
        self.vms.get(&(*self.ages.get(&id)?, id))
    }

    /// Oldest first.
    fn views(&self, ids: &[VmId]) -> Vec<VmView> {
        let mut views: Vec<VmView> = ids.iter().filter_map(|id| self.handle(*id)).map(VmHandle::view).collect();
        views.sort_by_key(|view| (view.spec.created_at, view.spec.id));
        views
    }
}
