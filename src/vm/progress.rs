//! How far the work for a request has come, for those who look at it from outside, and the way to have it withdrawn. It is
//! carried along with the request, as who has asked is (`asking`), and decides nothing but that. What is kept of it, and for
//! how long, is `service::operations`' matter.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::core::{Lane, Step};
use crate::{
    host::image::Copied,
    model::{Labels, VmSpec, now_ms},
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

/// Where it is said whether a request is withdrawn, or why it goes on.
pub(super) type Withdrawn = oneshot::Sender<Result<(), &'static str>>;

/// The work for one request.
pub struct Progress {
    id: Uuid,
    inner: Mutex<Inner>,
    /// Somebody wants it withdrawn.
    unwanted: watch::Sender<bool>,
    /// It was admitted: no refusal is known at once any more.
    begun: watch::Sender<bool>,
}

#[derive(Default)]
struct Inner {
    /// What it is about: its name, and the labels of a VM.
    subject: Option<(String, Labels)>,
    /// Has the VM's task withdraw it, once it has come so far.
    withdraw: Option<Arc<dyn Fn(Withdrawn) + Send + Sync>>,
    /// It waits for its turn.
    queued: bool,
    phases: Vec<(Phase, Arc<Copied>)>,
}

impl Progress {
    pub fn new(id: Uuid) -> Arc<Self> {
        let [unwanted, begun] = [false; 2].map(watch::Sender::new);
        Arc::new(Self { id, inner: Mutex::default(), unwanted, begun })
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    // A panic while the lock is held leaves single values.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is on its way to this VM, which is asked to withdraw it by `withdraw`.
    pub(super) fn enter(&self, vm: &VmSpec, withdraw: impl Fn(Withdrawn) + Send + Sync + 'static) {
        let mut inner = self.lock();
        // A switch whose VMs are asked something keeps its own.
        inner.subject.get_or_insert_with(|| (vm.name.clone(), vm.metadata.labels.clone()));
        if *self.unwanted.borrow() {
            // Behind the request, so that it is found.
            withdraw(oneshot::channel().0);
        }
        inner.withdraw = Some(Arc::new(withdraw));
    }

    /// Returns when nobody wants it any more.
    pub(super) async fn is_unwanted(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.unwanted.subscribe().wait_for(|unwanted| *unwanted).await;
    }

    /// The task of its VM has admitted it, and it waits for its turn or is under way.
    pub(super) fn is_admitted(&self, queued: bool) {
        self.lock().queued = queued;
        self.begun.send_if_modified(|begun| !std::mem::replace(begun, true));
    }

    /// The same of work that no VM's task does, on what bears this name.
    pub(super) fn begins(&self, name: &str) {
        self.lock().subject = Some((name.to_owned(), Labels::new()));
        self.is_admitted(false);
    }

    /// Returns when it has been admitted.
    pub async fn has_begun(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    /// A step is made.
    pub(super) fn begin(&self, name: &'static str, device: Option<String>, copied: &Arc<Copied>) {
        let mut inner = self.lock();
        let known = inner.phases.iter().position(|(phase, _)| phase.name == name && phase.device == device);
        match known {
            Some(at) => {
                let (phase, before) = &mut inner.phases[at];
                (phase.ended, phase.times) = (None, phase.times.saturating_add(1));
                *before = copied.clone();
            }
            None if inner.phases.len() < MOST => {
                let phase =
                    Phase { name: name.to_owned(), device, began: now_ms(), ended: None, times: 1, bytes: None };
                inner.phases.push((phase, copied.clone()));
            }
            None => {}
        }
    }

    pub(super) fn end(&self, name: &'static str, device: Option<String>) {
        let mut inner = self.lock();
        let mut phases = inner.phases.iter_mut();
        if let Some((phase, _)) = phases.find(|(phase, _)| phase.name == name && phase.device == device) {
            phase.ended = Some(now_ms());
        }
    }

    /// The name of the VM or the switch, where it is known by now.
    pub fn name(&self) -> Option<String> {
        self.lock().subject.as_ref().map(|(name, _)| name.clone())
    }

    /// The labels of the VM, likewise.
    pub fn labels(&self) -> Labels {
        self.lock().subject.as_ref().map(|(_, labels)| labels.clone()).unwrap_or_default()
    }

    /// Nothing has been begun yet.
    pub fn is_pending(&self) -> bool {
        !*self.begun.borrow() || self.lock().queued
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
    pub async fn withdraw(&self) -> Result<(), &'static str> {
        let withdraw = {
            let inner = self.lock();
            self.unwanted.send_replace(true);
            inner.withdraw.clone()
        };
        let Some(withdraw) = withdraw else { return Ok(()) };
        let (reply, answer) = oneshot::channel();
        withdraw(reply);
        // A task that is gone has answered it.
        answer.await.unwrap_or(Err("it is as good as done"))
    }
}

/// A disk by its name, a NIC by its id.
pub(super) fn device(lane: Lane) -> Option<String> {
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
        Step::Freeze => "freeze",
        Step::Thaw => "thaw",
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
