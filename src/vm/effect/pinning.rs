//! Which host cores QEMU's threads run on (sched_setaffinity(2)).

use super::Setback;
use crate::{
    host::cpus::{self, Host},
    model::{CpuPinning, VmSpec},
    vm::{actor::Actor, launch::vcpu_threads},
};

impl Actor {
    /// Binds every thread as the definition says, the hot-added vCPUs' too, and lets go of those that are bound no more.
    pub(super) async fn pin_threads(&mut self) -> Result<(), Setback> {
        let wanted = self.record.spec.cpu_pinning.clone();
        let Some(run) = self.live_run() else { return Ok(()) };
        let was_pinned = run.in_effect.cpu_pinning.is_some();
        if wanted.is_none() && !was_pinned {
            return Ok(());
        }
        let session = self.session()?;
        let threads = self.guarded(vcpu_threads(&session)).await?;
        let live = self.live()?;
        let process = live.process.pid();
        live.set_vcpu_threads(threads.clone());
        pin(process, &threads, &self.record.spec, &self.ctx.host).map_err(Setback::Refused)?;
        self.record_in_effect(|spec| spec.cpu_pinning = wanted).await
    }
}

/// Binds the threads of one QEMU. What the pinning does not name may run wherever qherd may.
///
/// # Errors
/// In words; a thread that has just ended is none.
pub(in crate::vm) fn pin(process: i32, vcpus: &[i32], spec: &VmSpec, host: &Host) -> Result<(), String> {
    let anywhere = CpuPinning::default();
    let pinning = spec.cpu_pinning.as_ref().unwrap_or(&anywhere);
    let bind = |thread: i32, cores: &[u32], what: &dyn std::fmt::Display| {
        let cores = if cores.is_empty() { &host.allowed } else { cores };
        match cpus::pin(thread, cores) {
            Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
            Err(e) => Err(format!("cannot pin {what} to the cores {cores:?}: {e}")),
            Ok(()) => Ok(()),
        }
    };
    for (index, &thread) in vcpus.iter().enumerate() {
        bind(thread, pinning.cores_for(index, spec.vcpus), &format_args!("vCPU {index}"))?;
    }
    for thread in cpus::threads(process).into_iter().filter(|thread| !vcpus.contains(thread)) {
        bind(thread, &pinning.emulator, &"QEMU's other threads")?;
    }
    Ok(())
}
