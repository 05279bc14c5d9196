//! What the cloud-init of VMs is given: written before a definition names it, and gone when none does any more. The files
//! themselves are `vm::seeds`'.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use super::Service;
use crate::{
    host::{STORAGE, on_storage},
    model::{CloudInit, Error, Operation, Result, Seed, SeedId, VmId, VmSpec, hashed},
    vm::{
        VmHandle,
        records::Stored,
        seeds::{self, Seeds},
    },
};

/// Those that a request is about to put into a definition, or may have to put back.
#[derive(Clone, Debug, Default)]
pub(super) struct Underway(Arc<Mutex<HashSet<SeedId>>>);

/// What a request wants a VM to have, written. It is nobody's until that is concluded; one that never is stays until the
/// next start of the daemon, for nobody knows whether a definition names it.
#[derive(Debug)]
pub(super) struct Written {
    /// `None` for nothing any more.
    pub seed: Option<Seed>,
    /// What there was before.
    pub over: Option<SeedId>,
}

impl Underway {
    fn with<T>(&self, work: impl FnOnce(&mut HashSet<SeedId>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Written {
    fn ids(&self) -> impl Iterator<Item = SeedId> {
        self.seed.as_ref().map(|seed| seed.id).into_iter().chain(self.over)
    }
}

impl Service {
    /// What a VM's cloud-init is given, as whoever may change it is shown it; without what is in it where the data is not
    /// there any more.
    ///
    /// # Errors
    /// [`Error::Failed`] when its storage does not answer.
    pub async fn cloud_init(&self, spec: &VmSpec) -> Result<Option<CloudInit>> {
        let Some(seed) = &spec.seed else { return Ok(None) };
        match self.data(spec.id, seed.id).await {
            Ok(data) => Ok(Some(data.shown())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(CloudInit::hidden(seed))),
            Err(error) => Err(Error::failed(Operation::ReadRecord, error)),
        }
    }

    async fn data(&self, vm: VmId, id: SeedId) -> io::Result<CloudInit> {
        let seeds = self.ctx.seeds(vm);
        on_storage(&self.ctx.config.state_dir, STORAGE, move || seeds.read(id)).await
    }

    /// Checks and writes what a VM is to have in the place of what it has. `None` where it has that already.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Failed`] when it cannot be written.
    pub(super) async fn write_seed(
        &self,
        vm: VmId,
        before: Option<&Seed>,
        wish: Option<CloudInit>,
    ) -> Result<Option<Written>> {
        let over = before.map(|seed| seed.id);
        let failed = |error: io::Error| Error::failed(Operation::Change, format!("the data for cloud-init: {error}"));
        let Some(wish) = wish else {
            let written = Written { seed: None, over };
            self.underway.with(|ids| ids.extend(written.ids()));
            return Ok(over.map(|_| written));
        };
        let known = match before {
            Some(seed) => match self.data(vm, seed.id).await {
                Ok(data) => Some(data),
                // It is replaced, and what is withheld of it cannot stay.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(failed(error)),
            },
            None => None,
        };
        let wish = wish.over(known.as_ref())?;
        wish.check()?;
        if known.as_ref() == Some(&wish) {
            return Ok(None);
        }
        let seed = Seed { id: SeedId::random(), parts: wish.parts() };
        let written = Written { seed: Some(seed.clone()), over };
        self.underway.with(|ids| ids.extend(written.ids()));
        let seeds = self.ctx.seeds(vm);
        let done = on_storage(&self.ctx.config.state_dir, STORAGE, move || {
            let password = wish.password.as_deref().map(hashed);
            seeds.write(seed.id, &CloudInit { password, ..wish })
        });
        if let Err(error) = done.await {
            self.conclude_seed(vm, written).await;
            return Err(failed(error));
        }
        Ok(Some(written))
    }

    /// A definition names what was written by now, or will not. What none names goes; where that fails the next start of the
    /// daemon does it.
    pub(super) async fn conclude_seed(&self, vm: VmId, written: Written) {
        self.underway.with(|ids| ids.retain(|id| !written.ids().any(|over| over == *id)));
        let (seeds, underway, handle) = (self.ctx.seeds(vm), self.underway.clone(), self.registry.get(vm));
        let swept = on_storage(&self.ctx.config.state_dir, STORAGE, move || sweep(&seeds, &underway, handle.as_ref()));
        if let Err(error) = swept.await {
            tracing::warn!(vm = %vm, %error, "cannot remove what cloud-init is not given any more");
        }
    }

    /// What a daemon that was killed had written, and nobody knew of yet. Of a VM whose record is lost or cannot be read
    /// everything stays, as its disks do.
    pub(super) async fn sweep_seeds(&self, vms: &[Stored], recorded: &HashSet<String>) {
        let named = |stored: &Stored| {
            let record = &stored.record;
            let named = record.definition.seed.as_ref().map(|seed| seed.id);
            (record.definition.id, named)
        };
        let named: Vec<_> = vms.iter().map(named).collect();
        let (ctx, recorded) = (self.ctx.clone(), recorded.clone());
        let swept = on_storage(&self.ctx.config.state_dir, STORAGE, move || {
            for vm in seeds::vms(&ctx.config.state_dir)? {
                let known = named.iter().find(|(id, _)| *id == vm);
                let is_lost = known.is_none()
                    && (recorded.contains(&vm.to_string()) || ctx.image_folder(&vm).try_exists().unwrap_or(true));
                if is_lost {
                    continue;
                }
                let seeds = ctx.seeds(vm);
                let kept = known.and_then(|(_, seed)| *seed);
                seeds.remove(seeds.found()?.into_iter().filter(|id| Some(*id) != kept))?;
            }
            Ok(())
        });
        if let Err(error) = swept.await {
            tracing::warn!(%error, "cannot look for what cloud-init is not given any more");
        }
    }
}

/// Those that were found first, and that neither the VM nor a request names after that: whoever writes one has said so before.
/// What QEMU has is a copy.
fn sweep(seeds: &Seeds, underway: &Underway, handle: Option<&VmHandle>) -> io::Result<()> {
    let found = seeds.found()?;
    let underway = underway.with(|ids| ids.clone());
    let view = handle.map(VmHandle::view);
    let named = view.as_ref().filter(|view| !view.gone).and_then(|view| view.spec.seed.as_ref()).map(|seed| seed.id);
    seeds.remove(found.into_iter().filter(|id| Some(*id) != named && !underway.contains(id)))
}
