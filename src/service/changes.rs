//! Changes of a VM: what only the host can judge is checked here, the rest by the VM's task, which alone knows the
//! definition that the change meets.

use std::{collections::HashSet, path::PathBuf};

use super::{
    Service,
    images::{self, Kind},
    nics::Nics,
};
use crate::{
    host::cpus::Host,
    model::{Applied, Change, CpuPinning, Error, Redefinition, Result, SwitchId, VmId, VmView},
};

impl Service {
    /// Changes a VM's definition and, where that is possible, the running VM. Returns the VM and when the change takes
    /// effect.
    ///
    /// # Errors
    /// [`Error::VmNotFound`], [`Error::Invalid`]; [`Error::Failed`] with nothing changed.
    pub async fn change(&self, id: VmId, change: Change) -> Result<(VmView, Applied)> {
        let handle = self.handle(id)?;
        if let Change::Cpu { pinning: Some(Some(pinning)), .. } = &change {
            check_pinning(pinning, &self.ctx.host)?;
        }
        let port = matches!(change, Change::AddNic(_) | Change::RemoveNic(_) | Change::Port { .. });
        let before = switches_of(&handle.view());
        let changed = handle.change(change).await;
        if port {
            self.tell_hosts(before.union(&switches_of(&handle.view())).copied());
        }
        changed
    }
}

/// What a client wants of a VM that is off, decoded, not yet checked.
#[derive(Clone, Debug, Default)]
pub struct Redefine {
    pub vcpus: Option<i64>,
    /// MiB.
    pub memory: Option<i64>,
    /// In the client's words; `Some(None)` takes it out.
    pub iso: Option<Option<PathBuf>>,
    pub nics: Option<Nics>,
}

impl Service {
    /// Replaces what is given of a VM's definition, all or nothing. Returns whether that changed anything.
    ///
    /// # Errors
    /// [`Error::VmNotFound`], [`Error::Invalid`]; [`Error::Conflict`] when anything would change and the VM is not off.
    pub async fn redefine(&self, id: VmId, wish: Redefine) -> Result<bool> {
        let handle = self.handle(id)?;
        let iso = match wish.iso {
            Some(Some(named)) => Some(Some(images::locate(self, &named, Kind::Iso).await?.0)),
            Some(None) => Some(None),
            None => None,
        };
        // Kept until they stand in the definition, or do not.
        let (nics, _promises) = match wish.nics {
            Some(nics) => self.wanted_nics(&handle.view().spec, nics).map(|(nics, promises)| (Some(nics), promises))?,
            None => (None, Vec::new()),
        };
        let before = switches_of(&handle.view());
        let changed = handle.redefine(Redefinition { vcpus: wish.vcpus, memory: wish.memory, iso, nics }).await;
        self.tell_hosts(before.union(&switches_of(&handle.view())).copied());
        changed
    }
}

/// Those that a VM has a card on.
pub(super) fn switches_of(view: &VmView) -> HashSet<SwitchId> {
    let in_effect = view.in_effect.iter().flat_map(|now| &now.nics);
    view.spec.nics.iter().chain(in_effect).filter_map(|nic| nic.switch()).collect()
}

/// Ruling 15.
pub(super) fn check_pinning(pinning: &CpuPinning, host: &Host) -> Result<()> {
    if !pinning.cores.is_empty() && !pinning.vcpus.is_empty() {
        return Err(Error::invalid("cpu_pinning.cores", "not be combined with cpu_pinning.vcpus"));
    }
    if *pinning == CpuPinning::default() {
        return Err(Error::invalid("cpu_pinning.cores", "name at least one core"));
    }
    if pinning.vcpus.iter().any(Vec::is_empty) {
        return Err(Error::invalid("cpu_pinning.vcpus", "name at least one core for each vCPU it lists"));
    }
    for (field, core) in pinning.named() {
        if let Some(must) = host.refuse_core(core) {
            return Err(Error::invalid(field, must));
        }
    }
    let sets = [("cpu_pinning.cores", &pinning.cores), ("cpu_pinning.emulator", &pinning.emulator)];
    let sets = sets.into_iter().chain(pinning.vcpus.iter().map(|cores| ("cpu_pinning.vcpus", cores)));
    for (field, cores) in sets {
        if let Some(core) = cores.iter().enumerate().find_map(|(i, core)| cores[..i].contains(core).then_some(core)) {
            return Err(Error::invalid(field, format!("name every core once; {core} is repeated")));
        }
    }
    Ok(())
}
