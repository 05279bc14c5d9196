//! How far the work for a request has come, for those who look at it from outside, and the way to have it withdrawn. It is
//! carried along with the request, as who has asked is (`asking`), and decides nothing but that. What is kept of it, and for
//! how long, is `service::operations`' matter.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{
    core::{Lane, Step},
    handle::Inbox,
    mailbox::Sender,
};
use crate::{
    host::image::Copied,
    model::{Conflict, Result, now_ms},
};

/// Phases that are kept; a step that is made again and again is one of them.
const MOST: usize = 64;

/// One kind of step that was made for the request, or beside it on the same VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What is done.
    pub name: String,
    /// The disk or the NIC that it is done to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Milliseconds since 1970.
    pub began: u64,
    /// Of the last time that it was made; none while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    pub times: u32,
    /// Bytes, of a step that copies some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
}

/// How much of something is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    pub done: u64,
    pub total: u64,
}

/// The work for one request.
#[derive(Debug)]
pub struct Progress {
    id: Uuid,
    inner: Mutex<Inner>,
    /// More has happened.
    changed: watch::Sender<u64>,
    /// Somebody wants it withdrawn.
    unwanted: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    name: Option<String>,
    vm: Option<Sender<Inbox>>,
    /// It waits for its turn.
    queued: bool,
    phases: Vec<(Phase, Arc<Copied>)>,
}

impl Progress {
    pub fn new(id: Uuid) -> Arc<Self> {
        let (changed, unwanted) = (watch::Sender::new(0), watch::Sender::new(false));
        Arc::new(Self { id, inner: Mutex::default(), changed, unwanted })
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    // A panic while the lock is held leaves single values.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_changed(&self) {
        self.changed.send_modify(|times| *times += 1);
    }

    /// A request is on its way to a VM.
    pub(super) fn enter(&self, name: &str, vm: Sender<Inbox>) {
        let mut inner = self.lock();
        inner.name = Some(name.to_owned());
        if *self.unwanted.borrow() {
            // Behind the request, so that it is found.
            let (reply, _) = oneshot::channel();
            let _ = vm.send(Inbox::Withdraw(self.id, reply));
        }
        inner.vm = Some(vm);
    }

    /// Whether it waits for its turn.
    pub(super) fn is_queued(&self, queued: bool) {
        let mut inner = self.lock();
        if std::mem::replace(&mut inner.queued, queued) != queued {
            drop(inner);
            self.has_changed();
        }
    }

    /// A step is made.
    pub(super) fn begin(&self, name: &'static str, lane: Lane, copied: &Arc<Copied>) {
        let device = device(lane);
        let mut inner = self.lock();
        let known = inner.phases.iter().position(|(phase, _)| phase.name == name && phase.device == device);
        match known {
            Some(at) => {
                let (phase, before) = &mut inner.phases[at];
                (phase.ended, phase.times) = (None, phase.times.saturating_add(1));
                *before = copied.clone();
            }
            None if inner.phases.len() < MOST => {
                let phase = Phase { name: name.to_owned(), device, began: now_ms(), ended: None, times: 1, bytes: None };
                inner.phases.push((phase, copied.clone()));
            }
            None => return,
        }
        drop(inner);
        self.has_changed();
    }

    pub(super) fn end(&self, name: &'static str, lane: Lane) {
        let device = device(lane);
        let mut inner = self.lock();
        let mut phases = inner.phases.iter_mut();
        if let Some((phase, _)) = phases.find(|(phase, _)| phase.name == name && phase.device == device) {
            phase.ended = Some(now_ms());
        }
        drop(inner);
        self.has_changed();
    }

    /// The name of the VM, where it is known by now.
    pub fn name(&self) -> Option<String> {
        self.lock().name.clone()
    }

    /// Nothing has been begun yet.
    pub fn is_pending(&self) -> bool {
        let inner = self.lock();
        inner.vm.is_none() || inner.queued
    }

    /// The phases in the order in which they began.
    pub fn phases(&self) -> Vec<Phase> {
        let with = |(phase, copied): &(Phase, Arc<Copied>)| {
            let bytes = copied.bytes().map(|(done, total)| Bytes { done, total });
            Phase { bytes, ..phase.clone() }
        };
        self.lock().phases.iter().map(with).collect()
    }

    /// Has it withdrawn, by the VM's task where it has come that far.
    ///
    /// # Errors
    /// Why it goes on.
    pub async fn withdraw(&self) -> std::result::Result<(), &'static str> {
        let vm = {
            let inner = self.lock();
            self.unwanted.send_replace(true);
            inner.vm.clone()
        };
        let Some(vm) = vm else { return Ok(()) };
        let (reply, answer) = oneshot::channel();
        let sent = vm.send(Inbox::Withdraw(self.id, reply));
        match (sent, answer.await) {
            (Ok(()), Ok(answer)) => answer,
            _ => Err("it is as good as done"),
        }
    }
}

/// A disk by its name, a NIC by its id.
fn device(lane: Lane) -> Option<String> {
    match lane {
        Lane::Disk(no) => Some(no.name()),
        Lane::Nic(nic) => Some(nic.to_string()),
        _ => None,
    }
}

/// As it is told; none for what is our own bookkeeping.
pub(super) fn title(step: &Step) -> Option<&'static str> {
    Some(match step {
        Step::Commit(_) | Step::Look { .. } | Step::ReadMemory | Step::FindFiles | Step::Connect => return None,
        Step::Kill => "kill",
        Step::EndStrays => "end_strays",
        Step::Prepare => "prepare",
        Step::Spawn => "spawn",
        Step::Greet => "greet",
        Step::Tune => "tune",
        Step::Continue => "continue",
        Step::Pause => "pause",
        Step::Reset => "reset",
        Step::Quit => "quit",
        Step::GoOn => "go_on",
        Step::AskGuest { .. } => "ask_guest",
        Step::PressButton => "press_button",
        Step::CheckRemovable => "check_removable",
        Step::Erase { .. } => "erase",
        Step::RemoveRunFiles => "remove_run_files",
        Step::CheckImage(_) => "check_image",
        Step::MakeImage(..) => "make_image",
        Step::RemoveImage(_) => "remove_image",
        Step::GrowImage(..) => "grow_image",
        Step::PlugDisk(_) => "plug_disk",
        Step::ReleaseDisk(_) => "release_disk",
        Step::CloseDisk(_) => "close_disk",
        Step::ResizeDisk(..) => "resize_disk",
        Step::ThrottleDisk(..) => "throttle_disk",
        Step::ConnectNic(_) => "connect_nic",
        Step::AdoptNic(_) => "adopt_nic",
        Step::DisconnectNic(_) => "disconnect_nic",
        Step::PlugNic(_) => "plug_nic",
        Step::ReleaseNic(_) => "release_nic",
        Step::CloseNic(_) => "close_nic",
        Step::PutPort(_) => "put_port",
        Step::SetVcpus(_) => "set_vcpus",
        Step::Pin(_) => "pin",
        Step::SetMemory(_) => "set_memory",
        Step::ExchangeMedium(_) => "exchange_medium",
    })
}

/// What may take long before a VM is asked, and makes nothing that is left: it is given up when nobody wants it any more.
///
/// # Errors
/// [`Conflict::Cancelled`], and its own.
pub async fn while_wanted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(progress) = super::asking::progress() else { return work.await };
    let mut unwanted = progress.unwanted.subscribe();
    tokio::select! {
        biased;
        _ = unwanted.wait_for(|unwanted| *unwanted) => Err(Conflict::Cancelled.into()),
        done = work => done,
    }
}
