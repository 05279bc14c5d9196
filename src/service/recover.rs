//! The daemon's start: every record is met with what is really there.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{collections::HashSet, path::PathBuf, time::Duration};

use anyhow::{Context, bail};

use super::{Service, autostart, database, relocate};
use crate::{
    host::{STORAGE, in_time, memory},
    model::{Due, Status, VmId},
    store::{Batch, StoreError},
    vm::{
        self, mark_storage,
        records::{self, Stored},
        storage_of,
    },
};

/// Adopting a VM whose monitor answers takes milliseconds; one that is mute must not hold the daemon's start.
const ADOPTION: Duration = Duration::from_secs(1);
/// By then what follows from a start has happened.
const SETTLED: Duration = Duration::from_secs(15);

impl Service {
    /// Has every recorded VM taken over, finished or unwound by its own task (`vm::adopt`), all at once. Until that is done
    /// for a VM it shows as unresponsive, connecting.
    /// `older` are names that the state directory has had.
    pub(super) async fn recover(&self, older: Vec<PathBuf>) -> anyhow::Result<()> {
        let vms = records::scan(&self.ctx.store).context("cannot read the definitions of the VMs")?;
        // Before any VM is touched: what a newer qherd has stored is not for this one.
        if let Some(newer) = vms.iter().find_map(|(_, r)| r.as_ref().err().filter(|e| e.is_newer())) {
            bail!("cannot read the definitions of the VMs: {newer}");
        }
        let names: HashSet<_> = vms.iter().map(|(key, _)| key.clone()).collect();
        let found = database::vms_with_disks(&self.ctx.config.state_dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "whether there are disks of VMs that are not recorded is not seen");
            Default::default()
        });
        let unknown = found.into_iter().map(|id| id.to_string());
        let volumes = database::folders_of_volumes(&self.ctx.store).unwrap_or_default();
        let unknown: Vec<_> = unknown.filter(|id| !names.contains(id) && !volumes.contains(id)).collect();
        if !unknown.is_empty() {
            tracing::error!(
                ?unknown,
                "disks of VMs that are not recorded; they are not touched. If their records were lost, an older export \
                 may have them: qherd db restore --from FILE"
            );
        }
        let readable = vms.into_iter().filter_map(|(key, stored)| match stored {
            Ok(stored) => Some(stored),
            Err(error) => {
                self.leave_alone(&key, &error);
                None
            }
        });
        let mut vms: Vec<Stored> = readable.collect();
        self.bring_up_to_date(older, &mut vms).await;
        self.mark_storage(&vms).await;
        if let Err(error) = autostart::mark(&self.ctx.store, &mut vms).await {
            tracing::error!(%error, "cannot store that the host has booted");
        }
        self.sweep_seeds(&vms, &names).await;
        let mut owed = Vec::new();
        for stored in vms {
            let due = stored.record.run.upkeep.due == Some(Due::Boot);
            let handle = vm::adopt(self.ctx.clone(), stored);
            owed.extend(due.then(|| handle.clone()));
            self.registry.insert(handle);
        }
        tokio::spawn(autostart::run(owed));
        // To read all records, and to look for the files of all VMs, takes memory that is not needed again.
        tokio::spawn(async {
            tokio::time::sleep(SETTLED).await;
            memory::give_back();
        });
        Ok(())
    }

    /// What the records name in a state directory that has been moved or copied is found where it is today.
    async fn bring_up_to_date(&self, older: Vec<PathBuf>, vms: &mut [Stored]) {
        let names = relocate::Names::new(&self.ctx.config.state_dir, older, vms.iter().map(|vm| &vm.record));
        let mut moved: Vec<&mut Stored> =
            vms.iter_mut().filter_map(|vm| names.bring_up_to_date(&mut vm.record).then_some(vm)).collect();
        if let Err(error) = self.recover_volumes(&names).await {
            tracing::error!(%error, "cannot see to the volumes; the next start tries again");
        }
        if moved.is_empty() {
            return;
        }
        tracing::info!(vms = moved.len(), "disks are found where the state directory is today");
        if let Err(error) = records::commit_all(&self.ctx.store, Batch::new().from_reserve(), &mut moved).await {
            tracing::error!(%error, "cannot store where disks are today; the next start looks again");
        }
    }

    /// Every folder in which a disk of ours is found is marked, so that its storage is missed when it is not mounted.
    async fn mark_storage(&self, vms: &[Stored]) {
        let disks = vms.iter().flat_map(|vm| &vm.record.definition.disks);
        let files = disks.filter_map(|disk| Some(disk.file.own()?.to_path_buf()));
        let (files, folders): (Vec<_>, _) = (files.collect(), self.ctx.config.storage_dirs.clone());
        let marked = in_time(STORAGE, move || {
            let there = files.iter().filter(|file| file.exists());
            let there: HashSet<_> = there.filter_map(|file| storage_of(file, &folders)).collect();
            there.into_iter().for_each(|folder| mark_storage(folder));
            // Where there is nothing yet, nothing is missed.
            if files.is_empty() {
                mark_storage(&folders[0]);
            }
            Ok(())
        });
        if let Err(error) = marked.await {
            tracing::warn!(%error, "cannot mark the folders of disks");
        }
    }

    /// Waits a moment for the VMs whose process and storage answer to be taken over. Reads need not wait for it.
    pub async fn recovered(&self) {
        let recovered = self.registry.handles().into_iter().map(|handle| async move { handle.recovered().await });
        let _ = tokio::time::timeout(ADOPTION, futures_util::future::join_all(recovered)).await;
        let count = |status| self.registry.views().iter().filter(|view| view.status == status).count();
        tracing::info!(
            running = count(Status::Running),
            unresponsive = count(Status::Unresponsive),
            "took over the recorded VMs"
        );
    }

    /// One bad record does not keep the others from their VMs. It stays in the store, and what the VM has stays too.
    fn leave_alone(&self, key: &str, error: &StoreError) {
        tracing::error!(
            vm = key,
            %error,
            "a VM cannot be managed, because its record cannot be read; its record, its disks and its process are left as they are"
        );
        if let Some(id) = VmId::parse(key) {
            self.registry.set_aside(id, error.to_string());
        }
    }
}
