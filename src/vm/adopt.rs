//! What an earlier daemon left: a VM's record is met with what is really there, and what was begun is finished or
//! unwound. Connecting to a monitor again is `live`'s work.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout;

use super::{Context, actor::Actor, live::Machine, power::killed};
use crate::{
    host::{
        folder, in_time,
        process::{self, Process},
    },
    model::{Ending, Intent, MadeFolder, Run, VmRecord},
    store::Batch,
};

/// Freeing the blocks of a large image takes seconds; storage that hangs must not hold the VM's task.
const REMOVAL: Duration = Duration::from_secs(60);

impl Actor {
    /// The first thing a VM's task does.
    pub(super) async fn arrive(&mut self) {
        self.drop_unmade_disks().await;
        match (&self.record.run, &self.machine) {
            // Nobody was told that it exists: it never did.
            (Run::Creating | Run::Starting { new: true, .. }, _) => {
                self.record.run = Run::Deleting;
                self.unwind().await;
            }
            // Its owner wanted it gone; or nobody was told that it runs, and its guest may never have.
            (Run::Deleting | Run::Starting { .. }, _) => self.unwind().await,
            (Run::Live(run), Machine::Down) => {
                let ending = match run.intent {
                    Intent::Stop { .. } | Intent::Off { .. } => Ending::Clean,
                    Intent::Run | Intent::Reboot { .. } if rebooted(&run.process.boot_id) => {
                        Ending::Crashed { reason: "the host was restarted while the VM was running".into() }
                    }
                    Intent::Run | Intent::Reboot { .. } => {
                        Ending::Crashed { reason: "QEMU ended while qherd was not running".into() }
                    }
                };
                let _ = self.ended(ending, true).await;
            }
            (Run::Live(run), _) => {
                for nic in run.in_effect.nics.iter().filter(|nic| nic.switch().is_some()) {
                    self.ctx.net.adopt(nic).await;
                }
            }
            (Run::Down { .. }, _) => {}
        }
    }

    /// Ends what may be running, and goes on as after every end.
    async fn unwind(&mut self) {
        match self.end_strays().await {
            Some(held) => drop(self.doom(held)),
            None => drop(self.ended(Ending::Clean, true).await),
        }
    }

    /// Ends what a launch has started: the process, and then what that may have started in its turn. Returns one that the
    /// kernel holds.
    pub(super) async fn end_all(&mut self, process: Arc<Process>) -> Option<Arc<Process>> {
        if killed(&process).await { self.end_strays().await } else { Some(process) }
    }

    async fn end_strays(&mut self) -> Option<Arc<Process>> {
        let mut held = None;
        for stray in self.ctx.strays(&self.record) {
            tracing::info!(vm = %self.record.spec.id, pid = stray.pid(), "ending a QEMU that nobody waits for");
            if !killed(&stray).await {
                held = Some(Arc::new(stray));
            }
        }
        held
    }
}

fn rebooted(boot_id: &str) -> bool {
    process::boot_id().is_ok_and(|now| now != boot_id)
}

impl Context {
    /// Every QEMU that was started for this VM in this state directory, by command line: for a record that does not
    /// tell how far a start had come.
    fn strays(&self, record: &VmRecord) -> Vec<Process> {
        let id = record.spec.id;
        let pidfile = self.run_paths(&id).pid().display().to_string();
        process::find(&id.to_string(), &pidfile).into_iter().filter_map(|pid| process::open(pid).ok()).collect()
    }

    /// Removes the disks that qherd made for a VM, its run directory and, last, its record.
    ///
    /// # Errors
    /// What could not be removed; the record is kept then, and removing can be tried again.
    pub async fn erase(&self, record: &VmRecord) -> Result<(), String> {
        let spec = &record.spec;
        for disk in &spec.disks {
            absent(tokio::fs::remove_file(&disk.file), &disk.file).await?;
        }
        for folder in [self.image_folder(&spec.id), self.run_paths(&spec.id).dir().to_owned()] {
            absent(tokio::fs::remove_dir_all(&folder), &folder).await?;
        }
        if let Some(place) = spec.root().and_then(|root| root.file.parent()).map(Path::to_owned) {
            remove_folders(place, spec.id.to_string(), spec.named.folders.clone()).await;
        }
        let batch = Batch::new().remove::<VmRecord>(&spec.id.to_string());
        self.store.commit(batch.from_reserve()).await.map_err(|e| e.to_string())
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

async fn absent(removal: impl Future<Output = std::io::Result<()>>, path: &Path) -> Result<(), String> {
    match timeout(REMOVAL, removal).await {
        Ok(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("cannot remove {}: {e}", path.display())),
        Ok(_) => Ok(()),
        Err(_) => Err(format!("{} is not removed after {} s", path.display(), REMOVAL.as_secs())),
    }
}
