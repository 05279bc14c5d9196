//! Measures a running VM beside its task, takes what its console holds to the log, and asks its guest once for its addresses. Nothing
//! waits for it: a monitor that is mute delays no request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
};

use super::{
    guest::{Asking, Guest},
    guest_report,
    perform::Hands,
    sampler::{Circumstances, Sampler},
};
use crate::{
    model::{Nic, Sample, Status, VmView},
    qmp::Session,
};

/// The last reading of a VM's counters, while it runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Latest(Arc<Mutex<Option<Arc<Sample>>>>);

impl Latest {
    pub fn get(&self) -> Option<Sample> {
        let sample = self.lock().clone();
        sample.map(|sample| (*sample).clone())
    }

    pub fn set(&self, sample: Option<Sample>) {
        *self.lock() = sample.map(Arc::new);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Sample>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes on until it is dropped or the session ends.
pub(super) struct Sampling(JoinHandle<()>);

impl Sampling {
    pub fn of(hands: Arc<Hands>, session: Session, view: watch::Receiver<VmView>, latest: Latest) -> Self {
        Self(tokio::spawn(measure(hands, session, view, latest)))
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn measure(hands: Arc<Hands>, session: Session, view: watch::Receiver<VmView>, latest: Latest) {
    let Some(process) = hands.process() else { return };
    let mut sampler = Sampler::new(process.pid(), hands.threads());
    // The last time that its output was moved to the logs.
    let mut keeping: Option<JoinHandle<()>> = None;
    let mut asking = Asking::default();
    loop {
        sampler.due().await;
        // Storage that hangs holds one thread of the daemon for this VM, not one more at every sampling.
        if keeping.as_ref().is_none_or(JoinHandle::is_finished) {
            let console = hands.console.clone();
            keeping = Some(spawn_blocking(move || console.keep()));
        }
        if hands.take_memory_has_changed() {
            sampler.memory_changed();
        }
        sampler.set_threads(hands.threads());
        let balloon = view.borrow().spec.machine.balloon;
        // A monitor that does not answer closes, which is seen elsewhere.
        let Ok(readings) = Sampler::ask(&session, sampler.questions(balloon)).await else { return };
        let seen = view.borrow().clone();
        if asking.is_due(&hands.ctx, &seen) {
            let (hands, seen) = (hands.clone(), seen.clone());
            // Beside it, and at an end by itself: a guest that says nothing holds up no figures.
            tokio::spawn(async move { guest_report(&hands.ctx, &Guest::by(hands.agent.clone()), &seen).await });
        }
        let (Some(in_effect), Some(started)) = (seen.in_effect, seen.started) else { continue };
        let traffic = |nic: &Nic| (nic.clone(), hands.ctx.net.traffic(nic.id));
        let nics = in_effect.nics.iter().map(traffic).collect();
        let running = seen.status != Status::Paused;
        let circumstances = Circumstances { started, running, balloon, nics };
        latest.set(Some(sampler.take(readings, circumstances)));
    }
}
