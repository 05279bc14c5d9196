//! What of the host is spoken for: before VMs are made, grow or start, what they would have together is held against the
//! bounds of the settings. What starts unasked (after a crash, or a boot of the host) was admitted when it was defined, and
//! is not held up here.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Service;
use crate::{
    config::Config,
    host::cpus::Host,
    model::{
        Change, Error, Figures, Redefinition, Result, VmId, VmSpec, VmView, check_disk_size, check_memory, check_vcpus,
    },
    vm::{Census, Share},
};

/// The bounds, and what is promised to those who are at it right now.
pub(super) struct Capacity {
    bounds: Share,
    promised: Mutex<Promised>,
}

/// What each VM will have when what was admitted is done, by the claims that are open.
#[derive(Default)]
struct Promised {
    last: u64,
    claims: HashMap<VmId, Vec<(u64, Share)>>,
}

/// What was admitted, until it shows in the VM itself.
pub(super) struct Claim<'a> {
    capacity: &'a Capacity,
    vm: VmId,
    number: u64,
}

impl Promised {
    /// All of it for a VM: a claim says what it has in the end, so of several the largest counts.
    fn to(&self, vm: VmId) -> Share {
        let claims = self.claims.get(&vm).into_iter().flatten();
        claims.fold(Share::default(), |sum, (_, share)| sum.with(*share, Figures::max))
    }
}

impl Capacity {
    pub fn new(config: &Config, host: &Host) -> Self {
        let defined = config.max_defined.defined(host.memory);
        let running = config.max_running.running(host.online.len() as u64, host.memory);
        Self { bounds: Share { defined, running }, promised: Mutex::default() }
    }

    // A panic leaves the list of claims whole.
    fn promised(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `after` says what the VM would have, by what it has or is promised now.
    fn claim(&self, census: &Census, vm: VmId, after: impl Fn(Share) -> Share) -> Result<Claim<'_>> {
        let mut promised = self.promised();
        // Read only now: a claim ends when its VM shows what it was for, and none ends while this lock is held.
        let (mut used, each) = census.sum(promised.claims.keys().copied().chain([vm]));
        let now = each.last().map_or_else(Share::default, |(_, present)| present.with(promised.to(vm), Figures::max));
        for (id, present) in &each[..each.len().saturating_sub(1)] {
            let more = promised.to(*id).with(*present, Figures::minus);
            used = used.with(more, Figures::plus);
        }
        let after = after(now);
        let more = after.with(now, Figures::minus);
        let admitted = self
            .bounds
            .defined
            .admit(used.defined, more.defined, "defined", "--max-defined")
            .and_then(|()| self.bounds.running.admit(used.running, more.running, "running", "--max-running"));
        admitted.map_err(Error::BeyondBounds)?;
        promised.last += 1;
        let number = promised.last;
        promised.claims.entry(vm).or_default().push((number, after));
        Ok(Claim { capacity: self, vm, number })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut promised = self.capacity.promised();
        if let Some(claims) = promised.claims.get_mut(&self.vm) {
            claims.retain(|(number, _)| *number != self.number);
            if claims.is_empty() {
                promised.claims.remove(&self.vm);
            }
        }
    }
}

/// The definition that a VM runs by, if it does.
fn in_effect(view: &VmView) -> Option<&VmSpec> {
    view.in_effect.as_deref().or_else(|| view.pid.is_some().then_some(view.spec.as_ref()))
}

/// What a definition comes to by a change. One that will be refused for what it says changes nothing.
fn changed(figures: Figures, spec: &VmSpec, change: &Change, host: &Host) -> Figures {
    match change {
        Change::Cpu { vcpus, .. } => figures.with_vcpus(*vcpus),
        Change::Memory(memory) => figures.with_memory(Some(*memory), host),
        Change::Disk { name, size, .. } => figures.with_disk(spec, name, *size),
        Change::AddDisk { disk, .. } => Figures { disk: figures.disk.saturating_add(disk.size), ..figures },
        Change::Several(changes) => {
            changes.iter().fold(figures, |figures, change| changed(figures, spec, change, host))
        }
        _ => figures,
    }
}

impl Figures {
    fn with_vcpus(self, wanted: Option<i64>) -> Self {
        let vcpus = wanted.and_then(|vcpus| check_vcpus(vcpus).ok());
        Self { vcpus: vcpus.map_or(self.vcpus, u64::from), ..self }
    }

    fn with_memory(self, wanted: Option<i64>, host: &Host) -> Self {
        let memory = wanted.and_then(|memory| check_memory(memory, host.memory).ok());
        Self { memory: memory.unwrap_or(self.memory), ..self }
    }

    fn with_disk(self, spec: &VmSpec, name: &str, wanted: Option<i64>) -> Self {
        let size = wanted.and_then(|size| check_disk_size(size).ok());
        let before = spec.disks.iter().find(|disk| disk.name == name).map(|disk| disk.size);
        let grown = size.zip(before).map_or(0, |(size, before)| size.saturating_sub(before));
        Self { disk: self.disk.saturating_add(grown), ..self }
    }
}

impl Service {
    /// Room for a new VM, which also starts where `start`.
    pub(super) fn room_for_new(&self, spec: &VmSpec, start: bool) -> Result<Claim<'_>> {
        let defined = Figures::of(spec);
        let running = if start { defined } else { Figures::default() };
        self.capacity.claim(&self.ctx.census, spec.id, |_| Share { defined, running })
    }

    /// Room for a start. One that runs has its room.
    pub(super) fn room_to_start(&self, view: &VmView) -> Result<Claim<'_>> {
        let wanted = if in_effect(view).is_some() { Figures::default() } else { Figures::of(&view.spec) };
        let started = |now: Share| Share { running: now.running.max(wanted), ..now };
        self.capacity.claim(&self.ctx.census, view.spec.id, started)
    }

    /// Room for what a VM has more after a change.
    pub(super) fn room_to_change(&self, view: &VmView, change: &Change) -> Result<Claim<'_>> {
        self.room_to_grow(view, |figures| changed(figures, &view.spec, change, &self.ctx.host))
    }

    /// The same of several changes at once.
    pub(super) fn room_to_redefine(&self, view: &VmView, wanted: &Redefinition) -> Result<Claim<'_>> {
        self.room_to_grow(view, |figures| {
            let figures = figures.with_vcpus(wanted.vcpus).with_memory(wanted.memory, &self.ctx.host);
            figures.with_disk(&view.spec, "root", wanted.disk_size)
        })
    }

    fn room_to_grow(&self, view: &VmView, after: impl Fn(Figures) -> Figures) -> Result<Claim<'_>> {
        let live = in_effect(view).is_some();
        self.capacity.claim(&self.ctx.census, view.spec.id, |now| {
            let defined = after(now.defined);
            // What is added to a VM that runs is added live, or at its next start, which asks again.
            let more = if live { defined.minus(now.defined) } else { Figures::default() };
            Share { defined, running: now.running.plus(more) }
        })
    }
}
