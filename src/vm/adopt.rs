//! What an earlier daemon left: a VM's record is met with what is really there, and what was begun is finished or
//! unwound. Connecting to a monitor again is `live`'s work.

use std::sync::Arc;

use super::{Context, actor::Actor, live::Instance, power::killed};
use crate::{
    host::process::{self, Process},
    model::{Ending, Intent, Run, VmRecord},
};

impl Actor {
    /// The first thing a VM's task does.
    pub(super) async fn recover(&mut self) {
        self.drop_unmade_disks().await;
        // A record of an older daemon knows the wall clock alone.
        if let Run::Live(run) = &mut self.record.run {
            run.intent = run.intent.fixed();
        }
        self.record.upkeep = self.record.upkeep.fixed();
        match (&self.record.run, &self.instance) {
            // Nobody was told that it exists: it never did.
            (Run::Creating | Run::Starting { new: true, .. }, _) => {
                self.record.run = Run::Deleting;
                self.half_made = true;
                self.unwind().await;
            }
            // Its owner wanted it gone; or nobody was told that it runs, and its guest may never have.
            (Run::Deleting | Run::Starting { .. }, _) => self.unwind().await,
            (Run::Live(run), Instance::Down) => {
                let elsewhere = self.ctx.elsewhere(&self.record).is_some();
                let ending = match run.intent {
                    Intent::Stop { .. } | Intent::Off { .. } => Ending::Clean,
                    Intent::Run | Intent::Reboot { .. } if elsewhere => Ending::Crashed {
                        reason: format!(
                            "its QEMU (process {}) runs on other files than those of this state directory, which was \
                             copied or restored; it is left alone",
                            run.process.pid
                        ),
                    },
                    Intent::Run | Intent::Reboot { .. } if rebooted(&run.process.boot_id) => {
                        Ending::Crashed { reason: "the host was restarted while the VM was running".into() }
                    }
                    Intent::Run | Intent::Reboot { .. } => {
                        Ending::Crashed { reason: "QEMU ended while qherd was not running".into() }
                    }
                };
                if elsewhere && let Run::Live(run) = &mut self.record.run {
                    // Nobody wants two of it at once: it is not started again by itself.
                    run.intent = Intent::Off { by_client: true };
                }
                let _ = self.ended(ending, true).await;
            }
            (Run::Live(run), _) => {
                for nic in run.in_effect.nics.iter().filter(|nic| nic.switch().is_some()) {
                    self.ctx.net.adopt(nic).await;
                }
            }
            (Run::Down { .. }, _) => {}
        }
        self.look_for_files().await;
    }

    /// Ends what may be running, and goes on as after every end.
    async fn unwind(&mut self) {
        match self.end_strays().await {
            Some(held) => drop(self.leave_to_kernel(held)),
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

pub(super) fn rebooted(boot_id: &str) -> bool {
    process::boot_id().is_ok_and(|now| now != boot_id)
}

impl Context {
    /// The process of a run, if it is one of this state directory: the QEMU of the one that this was copied from has the
    /// same id, number and command line.
    pub(super) fn process_of(&self, record: &VmRecord) -> Option<Process> {
        let Run::Live(run) = &record.run else { return None };
        let process = Process::adopt(&run.process, &record.spec.id.to_string())?;
        // Another user's is not told apart, nor could it be ended.
        self.is_here(process.pid(), record).unwrap_or(true).then_some(process)
    }

    /// The process of a run that is another state directory's.
    fn elsewhere(&self, record: &VmRecord) -> Option<Process> {
        let Run::Live(run) = &record.run else { return None };
        let process = Process::adopt(&run.process, &record.spec.id.to_string())?;
        matches!(self.is_here(process.pid(), record), Ok(false)).then_some(process)
    }

    /// Whether a process has files of this VM open: its logs or, where somebody has removed those, its disks.
    fn is_here(&self, pid: i32, record: &VmRecord) -> std::io::Result<bool> {
        let disks: Vec<_> = record.spec.disks.iter().map(|disk| disk.file.clone()).collect();
        Ok(process::has_open(pid, &self.run_paths(&record.spec.id).logs())? || process::has_open(pid, &disks)?)
    }

    /// Every QEMU that was started for this VM in this state directory: for a record that does not tell how far a start
    /// had come. One that cannot be proved to be ours is left alone.
    fn strays(&self, record: &VmRecord) -> Vec<Process> {
        let id = record.spec.id.to_string();
        let here = |process: &Process| self.is_here(process.pid(), record).unwrap_or(false);
        process::find(&["-uuid", &id]).into_iter().filter_map(|pid| process::open(pid).ok()).filter(here).collect()
    }
}
