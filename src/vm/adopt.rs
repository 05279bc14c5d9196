//! What an earlier daemon left: a VM's record is met with what is really there, and what was begun is finished or
//! unwound. Connecting to a monitor again is `live`'s work.

use super::{Context, actor::Actor, live::Machine};
use crate::{
    host::process,
    model::{Ending, Intent, Run, VmRecord},
    store::Batch,
};

impl Actor {
    /// The first thing a VM's task does.
    pub(super) async fn arrive(&mut self) {
        self.drop_unmade_disks().await;
        match (&self.record.run, &self.machine) {
            // Nobody was told that it runs, and its guest may never have: unwound.
            (Run::Starting { .. }, _) => {
                self.ctx.end_strays(&self.record).await;
                let _ = self.ended(Ending::Clean, false).await;
            }
            (Run::Live(run), Machine::Down) => {
                let ending = match run.intent {
                    Intent::Stop { .. } => Ending::Clean,
                    Intent::Run | Intent::Reboot { .. } if rebooted(&run.process.boot_id) => {
                        Ending::Crashed { reason: "the host was restarted while the VM was running".into() }
                    }
                    Intent::Run | Intent::Reboot { .. } => {
                        Ending::Crashed { reason: "QEMU ended while qherd was not running".into() }
                    }
                };
                let _ = self.ended(ending, true).await;
            }
            _ => {}
        }
    }
}

fn rebooted(boot_id: &str) -> bool {
    process::boot_id().is_ok_and(|now| now != boot_id)
}

impl Context {
    /// Ends every QEMU that was started for this VM in this state directory, by command line: for a start of which it
    /// is not known how far it came.
    pub async fn end_strays(&self, record: &VmRecord) {
        let id = record.spec.id;
        let pidfile = self.run_paths(&id).pid().display().to_string();
        for pid in process::find(&id.to_string(), &pidfile) {
            if let Ok(stray) = process::open(pid) {
                tracing::info!(vm = %id, pid, "ending a QEMU whose start was not completed");
                stray.kill();
                stray.exited().await;
            }
        }
    }

    /// Removes the disks that qherd made for a VM, its run directory and, last, its record.
    ///
    /// # Errors
    /// What could not be removed; the record is kept then, and removing can be tried again.
    pub async fn erase(&self, record: &VmRecord) -> Result<(), String> {
        let spec = &record.spec;
        for disk in &spec.disks {
            absent(tokio::fs::remove_file(&disk.file).await, &disk.file)?;
        }
        for folder in [self.image_folder(&spec.id), self.run_paths(&spec.id).dir().to_owned()] {
            absent(tokio::fs::remove_dir_all(&folder).await, &folder)?;
        }
        let batch = Batch::new().remove::<VmRecord>(&spec.id.to_string());
        self.store.commit(batch).await.map_err(|e| e.to_string())
    }
}

fn absent(removed: std::io::Result<()>, path: &std::path::Path) -> Result<(), String> {
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("cannot remove {}: {e}", path.display())),
        _ => Ok(()),
    }
}
