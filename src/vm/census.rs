//! What all VMs have together, kept up as each of their tasks publishes: the sums that bounds are held against, and who has
//! what nobody else may have. A request looks here instead of at every VM, so none costs more where there are more of them.
//! It narrows a search and decides nothing: what is found is judged by the VMs' own views.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    net::Ipv4Addr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

use crate::model::{Figures, LayerId, MacAddr, NicId, Protocol, SwitchId, VmId, VmSpec, VmView};

/// Something that a VM has, by which it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Mac(MacAddr),
    Nic(NicId),
    /// A NIC on this switch.
    Switch(SwitchId),
    /// A NIC with this address, in whatever VLAN.
    Address(SwitchId, Ipv4Addr),
    /// A port of the host that leads to the VM's user-mode network.
    HostPort(Protocol, u16),
    /// A digest of the path of a disk's file.
    Disk(u64),
    /// A digest of the path of an image that a disk was cloned from: thousands of VMs bear it.
    Image(u64),
    /// A digest of the path of a folder that was made for the VM.
    Folder(u64),
    /// A disk that lies on this layer of an image.
    Base(LayerId),
    /// A disk that was there before it, and may have other names.
    Attached,
}

impl Mark {
    pub fn disk(file: &Path) -> Self {
        Self::Disk(digest(file))
    }

    pub fn image(file: &Path) -> Self {
        Self::Image(digest(file))
    }

    pub fn folder(path: &Path) -> Self {
        Self::Folder(digest(path))
    }

    fn all_of(spec: &VmSpec) -> impl Iterator<Item = Self> {
        let nics = spec.nics.iter().flat_map(|nic| {
            let address = nic.port().and_then(|port| Some(Self::Address(port.switch, port.address?)));
            let forwards = nic.backend.forwards().iter().map(|to| Self::HostPort(to.protocol, to.host_port));
            let own = [Self::Mac(nic.mac), Self::Nic(nic.id)];
            own.into_iter().chain(nic.switch().map(Self::Switch)).chain(address).chain(forwards)
        });
        let disks = spec.disks.iter().map(|disk| Self::disk(&disk.file));
        let layers = spec.disks.iter().filter_map(|disk| Some(Self::Base(disk.backing_file()?.layer?)));
        let bases = spec.disks.iter().filter_map(|disk| Some(Self::image(&disk.base.as_ref()?.path)));
        let below = spec.disks.iter().flat_map(|disk| disk.file.below()).map(|below| Self::image(&below.path));
        nics.chain(disks)
            .chain(bases)
            .chain(below)
            .chain(spec.disks.iter().any(|disk| disk.file.foreign().is_some()).then_some(Self::Attached))
            .chain(layers)
            .chain(spec.named.folders.iter().map(|folder| Self::folder(&folder.path)))
    }
}

fn digest(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// What a VM has of the host, or all of them have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub defined: Figures,
    pub running: Figures,
}

impl Share {
    pub fn with(self, other: Self, by: impl Fn(Figures, Figures) -> Figures) -> Self {
        Self { defined: by(self.defined, other.defined), running: by(self.running, other.running) }
    }
}

#[derive(Debug, Default)]
pub struct Census(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    vms: HashMap<VmId, Known>,
    sum: Share,
    marks: BTreeSet<(Mark, VmId)>,
}

/// A VM as it was last published. What it counts for is taken away by this, so sums do not drift.
#[derive(Debug)]
struct Known {
    spec: Arc<VmSpec>,
    in_effect: Option<Arc<VmSpec>>,
    pid: Option<i32>,
}

impl Known {
    fn of(view: &VmView) -> Self {
        Self { spec: view.spec.clone(), in_effect: view.in_effect.clone(), pid: view.pid }
    }

    fn is(&self, view: &VmView) -> bool {
        let same = match (&self.in_effect, &view.in_effect) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        same && Arc::ptr_eq(&self.spec, &view.spec) && self.pid == view.pid
    }

    /// A process without a definition in effect is one that starts, or that the kernel holds.
    fn share(&self) -> Share {
        let running = self.in_effect.as_ref().or(self.pid.is_some().then_some(&self.spec));
        Share {
            defined: Figures::of(&self.spec),
            running: running.map_or_else(Figures::default, |spec| Figures::of(spec)),
        }
    }

    fn has_disk(&self, file: &Path) -> bool {
        let specs = [Some(&self.spec), self.in_effect.as_ref()];
        specs.into_iter().flatten().any(|spec| spec.disks.iter().any(|disk| *disk.file == *file))
    }

    fn marks(&self) -> impl Iterator<Item = Mark> {
        let in_effect = self.in_effect.iter().flat_map(|spec| Mark::all_of(spec));
        Mark::all_of(&self.spec).chain(in_effect)
    }
}

impl Inner {
    fn bearing(&self, mark: Mark) -> impl Iterator<Item = VmId> {
        let from = self.marks.range((mark, VmId::from(Uuid::nil()))..);
        from.take_while(move |(other, _)| *other == mark).map(|(_, id)| *id)
    }
}

impl Census {
    /// What a VM's task is about to publish; whoever is answered after it finds it here.
    pub(super) fn publish(&self, view: &VmView) {
        let mut inner = self.lock();
        let id = view.spec.id;
        if inner.vms.get(&id).is_some_and(|known| !view.gone && known.is(view)) {
            return;
        }
        if let Some(before) = inner.vms.remove(&id) {
            inner.sum = inner.sum.with(before.share(), Figures::minus);
            for mark in before.marks() {
                inner.marks.remove(&(mark, id));
            }
        }
        if !view.gone {
            let now = Known::of(view);
            inner.sum = inner.sum.with(now.share(), Figures::plus);
            inner.marks.extend(now.marks().map(|mark| (mark, id)));
            inner.vms.insert(id, now);
        }
    }

    /// What all VMs have, and what each of `some` has: nothing, of one that nobody knows.
    pub fn sum(&self, some: impl Iterator<Item = VmId>) -> (Share, Vec<(VmId, Share)>) {
        let inner = self.lock();
        let each = some.map(|id| (id, inner.vms.get(&id).map_or_else(Share::default, Known::share)));
        (inner.sum, each.collect())
    }

    /// Whether there is such a VM.
    pub fn knows(&self, id: VmId) -> bool {
        self.lock().vms.contains_key(&id)
    }

    /// The VMs that bear a mark.
    pub fn bearing(&self, mark: Mark) -> Vec<VmId> {
        self.lock().bearing(mark).collect()
    }

    /// Whether a file is a disk of a VM, or one that its QEMU still has.
    pub fn has_disk(&self, file: &Path) -> bool {
        let inner = self.lock();
        inner.bearing(Mark::disk(file)).any(|id| inner.vms.get(&id).is_some_and(|known| known.has_disk(file)))
    }

    /// QEMUs of VMs.
    pub fn processes(&self) -> Vec<i32> {
        self.lock().vms.values().filter_map(|known| known.pid).collect()
    }

    // A panic while the lock is held would be one of the allocator.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
