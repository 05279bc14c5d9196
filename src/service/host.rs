//! What the host has, and which of its cores are spoken for.

use super::Service;
use crate::{
    host::inventory::Inventory,
    model::{Error, Operation, Result, Status, VmId, VmView},
};

/// The host at one moment.
#[derive(Clone, Debug)]
pub struct HostView {
    pub inventory: Inventory,
    /// Oldest first.
    pub pinned: Vec<PinnedVm>,
}

/// A VM whose definition pins its vCPUs, whether it runs or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedVm {
    pub id: VmId,
    pub name: String,
    pub status: Status,
    /// The cores of each vCPU.
    pub vcpus: Vec<Vec<u32>>,
}

impl PinnedVm {
    fn of(view: &VmView) -> Option<Self> {
        let pinning = view.spec.cpu_pinning.as_ref().filter(|_| !view.gone)?;
        let vcpus = view.spec.vcpus;
        Some(Self {
            id: view.spec.id,
            name: view.spec.name.clone(),
            status: view.status,
            vcpus: (0..vcpus as usize).map(|index| pinning.cores_for(index, vcpus).to_vec()).collect(),
        })
    }
}

impl Service {
    /// QEMUs of VMs.
    pub fn processes(&self) -> Vec<i32> {
        self.ctx.census.processes()
    }

    /// What there is to run VMs on.
    ///
    /// # Errors
    /// [`Error::Failed`] when /sys or /proc cannot be read.
    pub async fn host(&self) -> Result<HostView> {
        // The kernel answers at once, but of many nodes it has many files.
        let read = tokio::task::spawn_blocking(Inventory::read).await;
        let inventory = read
            .map_err(|e| e.to_string())
            .and_then(|r| r.map_err(|e| e.to_string()))
            .map_err(|e| Error::failed(Operation::Host, e))?;
        Ok(HostView { inventory, pinned: self.registry.views().iter().filter_map(PinnedVm::of).collect() })
    }
}
