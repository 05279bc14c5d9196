//! What goes with a VM, or with a disk that was taken out, and what proves that it is the VM's own and unused (ADR 0014):
//! its name, in the VM's own folder or in the record; that the storage which would hold it is there; that no program has
//! it open. Where one of these is missing, nothing goes.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};

use super::{Context, actor::Actor, live::Instance, storage::check};
use crate::{
    host::{STORAGE, folder, in_time, remove_image},
    model::{Disk, Ending, Error, MadeFolder, Operation, Result, Run, VmRecord, VmSpec},
    store::Batch,
};

/// Freeing the blocks of a large image takes seconds; storage that hangs must not hold the VM's task.
const REMOVAL: Duration = Duration::from_secs(60);
/// How long a request waits for the images of disks that were taken out to be removed.
const ORPHANS: Duration = Duration::from_millis(500);
/// How long a VM that is stopped is asked for its disks before anybody is answered.
const LOOK: Duration = Duration::from_secs(1);

impl Context {
    fn own_disks(&self, spec: &VmSpec) -> Vec<PathBuf> {
        spec.disks.iter().filter(|disk| self.owns(disk, spec).is_ok()).map(|disk| disk.file.clone()).collect()
    }

    /// Whether a VM's disks could be removed, before anything is done about it.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub(super) async fn check_removable(&self, record: &VmRecord, patience: Duration) -> Result<()> {
        let (files, folders) = (self.own_disks(&record.spec), self.config.storage_dirs.clone());
        let checked = in_time(patience, move || Ok(files.iter().try_for_each(|file| check(file, &folders)))).await;
        checked.map_err(|error| Error::failed(Operation::Delete, error))?.map_err(Error::Storage)
    }

    /// Removes the disks that qherd made for a VM, its run directory and, last, its record. One that was never told of may
    /// have been interrupted before its disks were made.
    ///
    /// # Errors
    /// What could not be removed; the record is kept then, and removing can be tried again.
    pub async fn erase(&self, record: &VmRecord, half_made: bool) -> Result<()> {
        if !half_made {
            self.check_removable(record, STORAGE).await?;
        }
        let spec = &record.spec;
        let folder = self.image_folder(&spec.id);
        let mut images = self.own_disks(spec);
        images.push(folder.join("root.qcow2"));
        images.extend((1..=spec.disks_added).map(|number| folder.join(VmSpec::image_name(number))));
        let (run, folders) = (self.run_paths(&spec.id), self.config.storage_dirs.clone());
        let removed = in_time(REMOVAL, move || {
            for file in images {
                let removed = remove_image(&file, &folders);
                removed.map_err(|e| io::Error::new(e.kind(), format!("cannot remove {}: {e}", file.display())))?;
            }
            remove_emptied(&folder)?;
            for file in run.all() {
                absent(fs::remove_file(&file), &file)?;
            }
            remove_emptied(run.dir())
        });
        removed.await.map_err(|error| Error::failed(Operation::Delete, error))?;
        if let Some(place) = spec.root().and_then(|root| root.file.parent()).map(Path::to_owned) {
            remove_folders(place, spec.id.to_string(), spec.named.folders.clone()).await;
        }
        let batch = Batch::new().remove::<VmRecord>(&spec.id.to_string());
        self.store.commit(batch.from_reserve()).await.map_err(|error| Error::failed(Operation::Delete, error))
    }
}

/// Folders that were made for its disk, where no other VM's is in them. One that is not the one that was made stays, and
/// keeps nothing else.
async fn remove_folders(place: PathBuf, owner: String, folders: Vec<MadeFolder>) {
    let removal = in_time(REMOVAL, move || {
        folder::discard_all(&place, &owner);
        folders.iter().rev().try_for_each(|made| folder::remove(made).map(|removed| tracing::debug!(?made, removed)))
    });
    if let Err(error) = removal.await {
        tracing::warn!(%error, "cannot remove a folder that was made for a disk");
    }
}

fn absent(removed: io::Result<()>, path: &Path) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(e.kind(), format!("cannot remove {}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}

/// A folder of ours, in which somebody may have put something of theirs.
fn remove_emptied(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(folder = %folder.display(), "there is something in the folder of a deleted VM that is not qherd's; it stays");
            Ok(())
        }
        removed => absent(removed, folder),
    }
}

impl Actor {
    /// Takes everything back that belongs to the VM. That it is to be gone is stored before its power is cut: from
    /// then on it is deleted, whatever happens to the daemon in between.
    pub(super) async fn remove(&mut self) -> Result<()> {
        self.condemn().await?;
        match self.instance {
            Instance::Down => self.erase().await,
            _ => self.cut().await,
        }
    }

    /// Stores that the VM is to be gone, unless it is known that its disks could not be removed.
    pub(super) async fn condemn(&mut self) -> Result<()> {
        let removable = self.ctx.check_removable(&self.record, LOOK).await;
        match (matches!(self.instance, Instance::Down), removable) {
            // The power of a live VM is cut whether its storage answers or not.
            (true, Err(error)) | (false, Err(error @ Error::Storage(_))) => return Err(error),
            _ => {}
        }
        let before = std::mem::replace(&mut self.record.run, Run::Deleting);
        if let Err(error) = self.ctx.persist(&self.record).await {
            self.record.run = before;
            return Err(Error::failed(Operation::Delete, error));
        }
        if let Run::Live(run) = before {
            self.deleted_nics = run.in_effect.nics.clone();
        }
        self.publish();
        Ok(())
    }

    /// The last step of a deletion, once there is no process; it ends this task.
    pub(super) async fn erase(&mut self) -> Result<()> {
        if let Err(error) = self.ctx.erase(&self.record, self.half_made).await {
            tracing::error!(vm = %self.record.spec.id, %error, "cannot remove all of a VM");
            // It can be deleted again. After a failure the stored record still says `Deleting`: the next start of qherd
            // tries again, unless the VM is started before that. What was refused is not done later, unasked.
            self.record.run = Run::Down { last: Ending::Clean };
            if let Error::Storage(_) = error
                && let Err(error) = self.ctx.persist(&self.record).await
            {
                tracing::warn!(vm = %self.record.spec.id, %error, "cannot store that a VM is not to be gone");
            }
            return Err(error);
        }
        self.gone = true;
        Ok(())
    }

    /// Removes the images of disks that were added once and that neither the definition nor QEMU has any more: by their
    /// names in the VM's folder, whatever the folder is called today. Where a disk of the record is missing, the folder
    /// is not the one that the record tells of, and nothing is removed.
    pub(in crate::vm) async fn remove_orphans(&mut self) {
        let spec = self.record.spec.clone();
        if spec.disks_added == 0 {
            return;
        }
        let folder = self.ctx.image_folder(&spec.id);
        let in_effect = if let Run::Live(run) = &self.record.run { run.in_effect.disks.clone() } else { Vec::new() };
        let disks: Vec<Disk> = spec.disks.iter().cloned().chain(in_effect).collect();
        let folders = self.ctx.config.storage_dirs.clone();
        let removal = spawn_blocking(move || {
            let orphans = orphans(&folder, &disks, spec.disks_added);
            if orphans.is_empty() {
                return;
            }
            if let Some(missing) =
                disks.iter().find(|disk| !disk.in_making && fs::symlink_metadata(&disk.file).is_err())
            {
                tracing::warn!(vm = %spec.id, missing = %missing.file.display(), ?orphans, "images that no disk uses stay, because one that is used is missing");
                return;
            }
            for file in orphans {
                match remove_image(&file, &folders) {
                    Ok(_) => tracing::info!(file = %file.display(), "removed the image of a disk that was taken out"),
                    Err(error) => {
                        tracing::warn!(file = %file.display(), %error, "cannot remove an image that no disk uses");
                    }
                }
            }
        });
        // Their names are never used again, so storage that takes its time does not hold up the VM.
        let _ = timeout(ORPHANS, removal).await;
    }
}

/// Images in a VM's folder, of disks that were added, that none of `disks` has.
fn orphans(folder: &Path, disks: &[Disk], added: u32) -> Vec<PathBuf> {
    let inside = disks.iter().filter(|disk| disk.file.parent() == Some(folder));
    let kept: HashSet<OsString> = inside.filter_map(|disk| Some(disk.file.file_name()?.to_owned())).collect();
    let there = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let orphan = |name: &OsString| {
        let number = name.to_str().and_then(VmSpec::image_number);
        number.is_some_and(|number| number <= added) && !kept.contains(name)
    };
    there.filter(orphan).map(|name| folder.join(name)).collect()
}
