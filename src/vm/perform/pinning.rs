//! Which host cores QEMU's threads run on (sched_setaffinity(2)).

use super::{Brief, Done, Hands};
use crate::{
    host::cpus::{self, Host},
    model::CpuPinning,
    qmp::{QmpError, Session},
    vm::core::{Setback, StepReport as Report},
};

/// Binds every thread, the hot-added vCPUs' too, and lets go of those that are bound no more.
pub(super) async fn pin(hands: &Hands, brief: &Brief, pinning: Option<CpuPinning>) -> Done {
    let session = hands.session()?;
    let _binding = hands.binding().await;
    let threads = threads(&session).await?;
    // A session that answers is one of a live process, which is held: its number cannot mean another.
    let process = hands.process().ok_or_else(|| Setback::NotNow("QEMU has ended".to_owned()))?;
    hands.set_threads(threads.clone());
    let vcpus = brief.definition().vcpus;
    bind(process.pid(), &threads, pinning.as_ref(), vcpus, &hands.ctx.host).map_err(Setback::Refused)?;
    Ok(Report::Done)
}

/// Thread ids of the vCPUs, in their order.
pub(in crate::vm) async fn threads(session: &Session) -> Result<Vec<i32>, QmpError> {
    let mut cpus = session.query_cpus_fast().await?;
    cpus.sort_by_key(|cpu| cpu.cpu_index);
    Ok(cpus.iter().map(|cpu| cpu.thread_id).collect())
}

/// Binds the threads of one QEMU, of a VM that is defined with so many vCPUs. What the pinning does not name may run
/// wherever qherd may.
///
/// # Errors
/// In words; a thread that has just ended is none.
pub(in crate::vm) fn bind(
    process: i32,
    threads: &[i32],
    pinning: Option<&CpuPinning>,
    vcpus: u32,
    host: &Host,
) -> Result<(), String> {
    let anywhere = CpuPinning::default();
    let pinning = pinning.unwrap_or(&anywhere);
    let bind = |thread: i32, cores: &[u32], what: &dyn std::fmt::Display| {
        let cores = if cores.is_empty() { &host.allowed } else { cores };
        match cpus::pin(thread, cores) {
            Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
            Err(e) => Err(format!("cannot pin {what} to the cores {cores:?}: {e}")),
            Ok(()) => Ok(()),
        }
    };
    // A monitor may name anybody's.
    let own = cpus::threads(process).map_err(|error| format!("cannot pin QEMU's threads: {error}"))?;
    for (index, &thread) in threads.iter().enumerate().filter(|(_, thread)| own.contains(thread)) {
        bind(thread, pinning.cores_for(index, vcpus), &format_args!("vCPU {index}"))?;
    }
    for thread in own.into_iter().filter(|thread| !threads.contains(thread)) {
        bind(thread, &pinning.emulator, &"QEMU's other threads")?;
    }
    Ok(())
}
