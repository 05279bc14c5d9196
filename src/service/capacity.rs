//! What of the host is spoken for: before VMs are made, grow or start, what they would have together is held against the
//! bounds of the settings. What starts unasked (after a crash, or a boot of the host) was admitted when it was defined, and
//! is not held up here.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Service;
use crate::{
    config::Config,
    host::cpus::Host,
    model::{Change, Error, Figures, Redefinition, Result, VmSpec, VmView, check_disk_size, check_memory, check_vcpus},
};

/// The bounds, and what is promised to those who are at it right now.
pub(super) struct Capacity {
    defined: Figures,
    running: Figures,
    promised: Mutex<Promised>,
}

#[derive(Clone, Copy, Default)]
struct Promised {
    defined: Figures,
    running: Figures,
}

/// What was admitted, until it shows in the VM itself.
pub(super) struct Claim<'a> {
    capacity: &'a Capacity,
    of: Promised,
}

impl Capacity {
    pub fn new(config: &Config, host: &Host) -> Self {
        Self {
            defined: config.max_defined.defined(host.memory),
            running: config.max_running.running(host.online.len() as u64, host.memory),
            promised: Mutex::default(),
        }
    }

    // Two additions; a panic leaves them whole enough.
    fn promised(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `views` are all VMs as they are.
    fn claim(&self, views: &[VmView], defined: Figures, running: Figures) -> Result<Claim<'_>> {
        let (all, live) = used(views);
        let mut promised = self.promised();
        let admitted = self
            .defined
            .admit(all.plus(promised.defined), defined, "defined", "--max-defined")
            .and_then(|()| self.running.admit(live.plus(promised.running), running, "running", "--max-running"));
        admitted.map_err(Error::BeyondBounds)?;
        promised.defined = promised.defined.plus(defined);
        promised.running = promised.running.plus(running);
        Ok(Claim { capacity: self, of: Promised { defined, running } })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut promised = self.capacity.promised();
        promised.defined = promised.defined.minus(self.of.defined);
        promised.running = promised.running.minus(self.of.running);
    }
}

/// What is defined, and what runs.
fn used(views: &[VmView]) -> (Figures, Figures) {
    let sum = |figures: &mut Figures, spec: &VmSpec| *figures = figures.plus(Figures::of(spec));
    let (mut all, mut live) = (Figures::default(), Figures::default());
    for view in views.iter().filter(|view| !view.gone) {
        sum(&mut all, &view.spec);
        if let Some(now) = in_effect(view) {
            sum(&mut live, now);
        }
    }
    (all, live)
}

/// The definition that a VM runs by, if it does.
fn in_effect(view: &VmView) -> Option<&VmSpec> {
    view.in_effect.as_deref().or_else(|| view.pid.is_some().then_some(view.spec.as_ref()))
}

/// What a definition has after a change. One that will be refused for what it says changes nothing.
fn changed(spec: &VmSpec, change: &Change, host: &Host) -> Figures {
    let figures = Figures::of(spec);
    match change {
        Change::Cpu { vcpus, .. } => figures.with_vcpus(*vcpus),
        Change::Memory(memory) => figures.with_memory(Some(*memory), host),
        Change::Disk { name, size, .. } => figures.with_disk(spec, name, *size),
        Change::AddDisk { disk, .. } => Figures { disk: figures.disk.saturating_add(disk.size), ..figures },
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
        let figures = Figures::of(spec);
        let running = if start { figures } else { Figures::default() };
        self.capacity.claim(&self.registry.views(), figures, running)
    }

    /// Room for a start. One that runs has its room.
    pub(super) fn room_to_start(&self, view: &VmView) -> Result<Claim<'_>> {
        let running = if in_effect(view).is_some() { Figures::default() } else { Figures::of(&view.spec) };
        self.capacity.claim(&self.registry.views(), Figures::default(), running)
    }

    /// Room for what a VM has more after a change.
    pub(super) fn room_to_change(&self, view: &VmView, change: &Change) -> Result<Claim<'_>> {
        self.room_to_grow(view, changed(&view.spec, change, &self.ctx.host))
    }

    /// The same of several changes at once.
    pub(super) fn room_to_redefine(&self, view: &VmView, wanted: &Redefinition) -> Result<Claim<'_>> {
        let figures = Figures::of(&view.spec).with_vcpus(wanted.vcpus).with_memory(wanted.memory, &self.ctx.host);
        self.room_to_grow(view, figures.with_disk(&view.spec, "root", wanted.disk_size))
    }

    fn room_to_grow(&self, view: &VmView, after: Figures) -> Result<Claim<'_>> {
        let more = after.minus(Figures::of(&view.spec));
        // What is added to a VM that runs is added live, or at its next start, which asks again.
        let running = if in_effect(view).is_some() { more } else { Figures::default() };
        self.capacity.claim(&self.registry.views(), more, running)
    }
}
