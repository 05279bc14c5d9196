//! Changes of a VM: what only the host can judge is checked here, the rest by the VM's task, which alone knows the
//! definition that the change meets.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::{
    Service,
    images::{self, ImageUse},
    nics::Nics,
};
use crate::{
    host::cpus::Host,
    model::{
        Alias, Applied, Change, CpuPinning, Error, MAX_PINNED, MAX_VCPUS, MetadataWish, Redefinition, Result, SwitchId,
        VmId, VmView, check_length,
    },
    vm::VmHandle,
};

impl Service {
    /// Changes a VM's definition and, where that is possible, the running VM. Returns the VM and when the change takes
    /// effect.
    ///
    /// # Errors
    /// [`Error::VmNotFound`], [`Error::Invalid`]; [`Error::Failed`] with nothing changed.
    pub async fn change(&self, id: VmId, change: Change) -> Result<(VmView, Applied)> {
        self.change_by(&self.handle(id)?, change).await
    }

    /// As [`Self::change`], for a request that came when its handle was taken.
    pub(super) async fn change_by(&self, handle: &VmHandle, change: Change) -> Result<(VmView, Applied)> {
        let mut port = false;
        for part in change.each() {
            if let Change::Cpu { pinning: Some(Some(pinning)), .. } = part {
                check_pinning(pinning, &self.ctx.host)?;
            }
            if let Change::GuestCpu(Some(cpu)) = part {
                self.ctx.caps.check_cpu(cpu)?;
            }
            // The hosts of a switch have the names of its VMs.
            port |= matches!(part, Change::AddNic(_) | Change::RemoveNic(_) | Change::Port { .. } | Change::Name(_));
        }
        let before = switches_of(&handle.view());
        let _room = self.room_to_change(&handle.view(), &change)?;
        let changed = handle.change(change).await;
        if port {
            self.tell_hosts(before.union(&switches_of(&handle.view())).copied());
        }
        changed
    }
}

impl Service {
    /// The change that has an image in the CD drive, in the client's words; `None` takes it out.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Failed`] when its storage does not answer.
    pub async fn medium(&self, id: VmId, named: Option<&Path>) -> Result<Change> {
        self.handle(id)?;
        Ok(Change::Medium(match named {
            Some(named) => {
                let (file, _) = images::locate(self, named, ImageUse::Iso).await?;
                Some(Alias { file, sent: named.to_owned() })
            }
            None => None,
        }))
    }
}

/// What a client wants of a VM that is off, decoded, not yet checked.
#[derive(Clone, Debug, Default)]
pub struct Redefine {
    pub name: Option<String>,
    /// GiB, of the root disk.
    pub disk_size: Option<i64>,
    /// Where the root disk lies, in the client's words.
    pub disk_folder: Option<PathBuf>,
    pub vcpus: Option<i64>,
    /// MiB.
    pub memory: Option<i64>,
    /// In the client's words; `Some(None)` takes it out.
    pub iso: Option<Option<PathBuf>>,
    pub nics: Option<Nics>,
    pub metadata: MetadataWish,
}

impl Service {
    /// Replaces what is given of a VM's definition, all or nothing. Returns whether that changed anything.
    ///
    /// # Errors
    /// [`Error::VmNotFound`], [`Error::Invalid`]; [`Error::Fixed`] for what cannot be changed; [`Error::Conflict`] when
    /// anything would change and the VM is not off.
    pub async fn redefine(&self, id: VmId, wish: Redefine) -> Result<bool> {
        let handle = self.handle(id)?;
        let iso = match wish.iso {
            Some(Some(sent)) => {
                let (file, _) = images::locate(self, &sent, ImageUse::Iso).await?;
                Some(Some(Alias { file, sent }))
            }
            Some(None) => Some(None),
            None => None,
        };
        if let Some(named) = &wish.disk_folder {
            images::check_same_folder(self, named, &handle.view().spec).await?;
        }
        // Kept until they stand in the definition, or do not.
        let (nics, _promises) = match wish.nics.clone() {
            Some(nics) => self.wanted_nics(&handle.view().spec, nics).map(|(nics, promises)| (Some(nics), promises))?,
            None => (None, Vec::new()),
        };
        let Redefine { name, disk_size, disk_folder, vcpus, memory, metadata, .. } = wish;
        let machine_type = None;
        let wanted = Redefinition { name, disk_size, disk_folder, vcpus, memory, iso, nics, metadata, machine_type };
        let before = switches_of(&handle.view());
        let _room = self.room_to_redefine(&handle.view(), &wanted)?;
        let changed = handle.redefine(wanted).await;
        self.tell_hosts(before.union(&switches_of(&handle.view())).copied());
        changed
    }
}

/// Those that a VM has a NIC on.
pub(super) fn switches_of(view: &VmView) -> HashSet<SwitchId> {
    let in_effect = view.in_effect.iter().flat_map(|now| &now.nics);
    view.spec.nics.iter().chain(in_effect).filter_map(|nic| nic.switch()).collect()
}

/// Ruling 15.
pub(super) fn check_pinning(pinning: &CpuPinning, host: &Host) -> Result<()> {
    if !pinning.cores.is_empty() && !pinning.vcpus.is_empty() {
        return Err(Error::invalid("cpu_pinning.cores", "not be combined with cpu_pinning.vcpus"));
    }
    check_length("cpu_pinning.cores", &pinning.cores, MAX_PINNED)?;
    check_length("cpu_pinning.emulator", &pinning.emulator, MAX_PINNED)?;
    check_length("cpu_pinning.vcpus", &pinning.vcpus, MAX_VCPUS)?;
    pinning.vcpus.iter().try_for_each(|cores| check_length("cpu_pinning.vcpus[]", cores, MAX_PINNED))?;
    if *pinning == CpuPinning::default() {
        return Err(Error::invalid("cpu_pinning", "hold cores, vcpus or emulator, or be null"));
    }
    if let Some(index) = pinning.vcpus.iter().position(Vec::is_empty) {
        return Err(Error::invalid(format!("cpu_pinning.vcpus[{index}]"), "name at least one core"));
    }
    for (field, cores) in pinning.named() {
        for (at, core) in cores.iter().enumerate() {
            if let Some(must) = host.refuse_core(*core) {
                return Err(Error::invalid(field, must));
            }
            if cores[..at].contains(core) {
                return Err(Error::invalid(field, format!("name every core once; {core} is repeated")));
            }
        }
    }
    Ok(())
}
