//! Ends processes. A process that SIGKILL does not end is the kernel's: there is nothing else to be done about it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{Brief, Done, Hands, Report, hands::KeptIn};
use crate::{
    host::process::{self, Process},
    model::VmSpec,
    vm::{
        Context,
        core::{Found, Record, Setback},
    },
};

/// SIGKILL takes 2 ms, unless the process hangs in the kernel.
const KILL: Duration = Duration::from_millis(800);

/// Cuts the power. That the process has ended is seen by the VM's task.
pub(super) async fn kill(hands: &Hands) -> Done {
    match hands.process() {
        Some(process) if !killed(&process).await => Err(Setback::Held),
        Some(_) | None => Ok(Report::Done),
    }
}

async fn killed(process: &Process) -> bool {
    process.kill();
    timeout(KILL, process.exited()).await.is_ok()
}

/// Every QEMU that was started for this VM in this state directory: for a record that does not tell how far a start had
/// come. One that cannot be proved to be ours is left alone.
pub(super) async fn end_strays(hands: &Hands, brief: &Brief) -> Done {
    // One that was spawned a moment ago is known by its handle alone: until exec is over it has no command line.
    let spawned = hands.process().into_iter();
    // Of this daemon's own there is the handle: whoever waits for a start that failed for want of descriptors is told so, all the same.
    let strays = hands.ctx.strays(brief.definition()).unwrap_or_else(|error| {
        tracing::warn!(vm = %hands.id, %error, "whether an earlier daemon has left a QEMU of it is not seen");
        Vec::new()
    });
    for stray in spawned.chain(strays.into_iter().map(Arc::new)) {
        tracing::info!(vm = %hands.id, pid = stray.pid(), "ending a QEMU that nobody waits for");
        let group = hands.ctx.sandbox.group_of(stray.pid());
        if !killed(&stray).await {
            return Err(Setback::Held);
        }
        KeptIn { group, uid: None }.clear();
    }
    Ok(Report::Done)
}

impl Context {
    /// What there is of the process that a record tells of. The QEMU of the state directory that this one was copied from
    /// has the same id, number and command line.
    pub(in crate::vm) fn find_process(&self, record: &Record) -> (Found, Option<Arc<Process>>) {
        let Some(up) = record.run.up() else { return (Found::Nothing, None) };
        if process::boot_id().is_ok_and(|now| now != up.process.boot_id) {
            return (Found::AnotherBoot, None);
        }
        let Some(process) = Process::adopt(&up.process, &record.definition.id.to_string()) else {
            return (Found::Nothing, None);
        };
        // Another user's is not told apart, nor could it be ended.
        match self.is_here(process.pid(), &record.definition) {
            Ok(false) => (Found::Elsewhere, None),
            Ok(true) | Err(_) => (Found::Alive, Some(Arc::new(process))),
        }
    }

    /// Whether a process has files of this VM open: its logs or, where somebody has removed those, its disks.
    fn is_here(&self, pid: i32, spec: &VmSpec) -> std::io::Result<bool> {
        process::has_open(pid, &self.files_of(spec))
    }

    fn files_of(&self, spec: &VmSpec) -> Vec<PathBuf> {
        let logs = self.run_paths(&spec.id).logs();
        logs.into_iter().chain(spec.disks.iter().map(|disk| disk.file.to_path_buf())).collect()
    }

    fn strays(&self, spec: &VmSpec) -> std::io::Result<Vec<Process>> {
        process::with_open(process::find(&["-uuid", &spec.id.to_string()])?, &self.files_of(spec))
    }
}
