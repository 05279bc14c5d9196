//! How the rest of the program speaks to a VM's task: requests, each of which gets one answer, and reads from what was last
//! published. A forced request overtakes every one that came before it (ruling 8), wherever that waits meanwhile: forced
//! ones are counted as they come, and every other request carries the count that it found.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};

use uuid::Uuid;

use super::{
    Console,
    asking::{asker, progress},
    core::{Answer, Patience, Request},
    guest::Guest,
    mailbox,
    progress::{Progress, Withdrawn},
    sampling::Latest,
};
use crate::model::{
    Applied, Asker, Change, Conflict, Error, NicId, Redefinition, Result, Sample, Status, VmId, VmView,
};

/// Forced requests that have come.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<AtomicU64>);

impl Tally {
    fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Who waits for the answer to a request.
pub(super) struct Reply {
    /// Where it goes, with the VM as it was then.
    pub answer: oneshot::Sender<(Result<Answer>, VmView)>,
    /// Where its work is shown: who looks at it does not wait on the line.
    pub progress: Option<Arc<Progress>>,
}

/// A request, with the forced ones that there were when it came.
pub(super) struct Message {
    pub request: Request,
    pub came: u64,
    pub asker: Option<Asker>,
    pub reply: Reply,
}

/// What a VM's task is told from outside.
pub(super) enum Inbox {
    Request(Box<Message>),
    /// Somebody removed the tap of a NIC.
    TapGone(NicId),
    /// The request whose work is shown under this id is not wanted any more. Answered with why it goes on.
    Withdraw(Uuid, Withdrawn),
}

/// What has become of a VM's turn after a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It was not waiting for one.
    Skipped,
    Taken,
    /// Its files are not there yet.
    TooEarly,
}

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The guest did not power off by itself.
    pub forced: bool,
    /// It was off before.
    pub already: bool,
    /// Nothing has been done about it.
    pub unchanged: bool,
}

/// What a start found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Started,
    /// It was running before.
    Already,
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Ask the guest; cut it after this long.
    Graceful(Duration),
    /// Ask the guest's agent and nobody else; a guest that has not powered off after this long is left running.
    Agent(Duration),
    /// Cut at once.
    Force,
}

/// How to reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebootMode {
    /// Ask the guest; reset it after this long.
    Graceful(Duration),
    /// Ask the guest's agent and nobody else; a guest that has not rebooted after this long is left running.
    Agent(Duration),
    /// Reset at once.
    Force,
}

/// One VM, from outside its task.
#[derive(Clone, Debug)]
pub struct VmHandle {
    id: VmId,
    tally: Tally,
    /// Forced requests that had come when this handle was made.
    came: u64,
    /// Has room for all: sending to it is one step, and cannot be given up half-way. Its task never waits.
    inbox: mailbox::Sender<Inbox>,
    view: watch::Receiver<VmView>,
    sample: Latest,
    console: Arc<Console>,
    guest: Guest,
}

impl VmHandle {
    pub(super) fn new(
        id: VmId,
        tally: Tally,
        inbox: mailbox::Sender<Inbox>,
        view: watch::Receiver<VmView>,
        sample: Latest,
        (console, guest): (Arc<Console>, Guest),
    ) -> Self {
        Self { id, tally, came: 0, inbox, view, sample, console, guest }
    }

    /// The handle of a request that comes now. Whatever it takes the request until it asks something of the VM, a
    /// forced stop or a delete that comes meanwhile overtakes it.
    pub(crate) fn for_request(&self) -> Self {
        Self { came: self.tally.count(), ..self.clone() }
    }

    /// What is known of the VM right now; never waits.
    pub fn view(&self) -> VmView {
        self.view.borrow().clone()
    }

    /// The last reading of its counters, while it runs; never waits.
    pub fn sample(&self) -> Option<Sample> {
        self.sample.get()
    }

    /// What it wrote on its serial console.
    pub(crate) fn console(&self) -> Arc<Console> {
        self.console.clone()
    }

    /// What there is to ask of its guest's agent.
    pub(crate) fn guest(&self) -> Guest {
        self.guest.clone()
    }

    /// Starts it, or resumes it where it is paused.
    ///
    /// # Errors
    /// [`Error::Conflict`] while it stops or reboots or when the start is overtaken, [`Error::Failed`] with QEMU's words.
    pub async fn start(&self) -> Result<Start> {
        match self.ask(Request::Start).await? {
            (Answer::Running, _) => Ok(Start::Already),
            _ => Ok(Start::Started),
        }
    }

    /// Powers it off.
    ///
    /// # Errors
    /// [`Error::NoAgent`] where only the agent was to be asked; the VM runs then.
    /// [`Error::Failed`] when the kernel does not let go of the process, or the outcome cannot be stored.
    pub async fn stop(&self, mode: StopMode) -> Result<Stopped> {
        let request = match mode {
            StopMode::Graceful(time) => Request::Stop(patience_of(time, false)),
            StopMode::Agent(time) => Request::Stop(patience_of(time, true)),
            StopMode::Force => Request::ForceOff,
        };
        match self.ask(request).await? {
            (Answer::WasOff { changed }, _) => Ok(Stopped { forced: false, already: true, unchanged: !changed }),
            (answer, _) => {
                let forced = answer == Answer::Stopped { forced: true };
                Ok(Stopped { forced, already: false, unchanged: false })
            }
        }
    }

    /// Has the guest reboot and returns as soon as that is under way.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run, [`Error::Unresponsive`]; [`Error::NoAgent`] where only the agent was to
    /// be asked, which does not answer.
    pub async fn reboot(&self, mode: RebootMode) -> Result<()> {
        self.ask(match graceful(mode) {
            Some(patience) => Request::Reboot(patience),
            None => Request::Reset,
        })
        .await
        .map(drop)
    }

    /// Has it reboot, or starts it where it does not run (ruling 27).
    ///
    /// # Errors
    /// As [`Self::reboot`] and [`Self::start`].
    pub async fn restart(&self, mode: RebootMode) -> Result<()> {
        self.ask(Request::Restart(graceful(mode))).await.map(drop)
    }

    /// Halts the guest; it stays so until it is resumed or started, also when the daemon is restarted.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run or is suspended already, [`Error::Unresponsive`].
    pub async fn suspend(&self) -> Result<()> {
        self.ask(Request::Suspend).await.map(drop)
    }

    /// Lets a suspended guest go on.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is not suspended, [`Error::Unresponsive`].
    pub async fn resume(&self) -> Result<()> {
        self.ask(Request::Resume).await.map(drop)
    }

    /// Has its guest's file systems frozen, for `time` at most. Returns how many.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run or is frozen already; [`Error::NoAgent`], and what its agent says.
    pub async fn freeze(&self, time: Duration) -> Result<u64> {
        self.ask(Request::Freeze(patience_of(time, false).time)).await.map(|(answer, _)| file_systems(answer))
    }

    /// Has them thawed.
    ///
    /// # Errors
    /// As [`Self::freeze`]; they thaw by themselves then.
    pub async fn thaw(&self) -> Result<u64> {
        self.ask(Request::Thaw).await.map(|(answer, _)| file_systems(answer))
    }

    /// Starts it where the boot of the host has left that to be done.
    pub(crate) async fn boot(&self) -> Turn {
        match self.ask(Request::Boot).await {
            Ok((Answer::TooEarly, _)) | Err(Error::Busy(_) | Error::Conflict(Conflict::Overtaken)) => Turn::TooEarly,
            Ok((Answer::Skipped, _)) | Err(_) => Turn::Skipped,
            Ok(_) => {
                // The next one's turn is when this one has started, or has not.
                let mut view = self.view.clone();
                let _ = view.wait_for(|view| view.gone || view.status != Status::Starting).await;
                Turn::Taken
            }
        }
    }

    /// Changes its definition, and on a running VM what QEMU and the guest allow. Returns the VM as this change, not one
    /// behind it, has left it.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::Failed`] with nothing changed, [`Error::Conflict`] when it is overtaken.
    pub async fn change(&self, change: Change) -> Result<(VmView, Applied)> {
        match self.ask(Request::Change(Box::new(change))).await? {
            (Answer::Applied(applied), view) => Ok((view, applied)),
            (_, view) => Ok((view, Applied::NextStart)),
        }
    }

    /// Replaces what is given of its definition, all or nothing. Returns whether that changed anything.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Conflict`] when anything would change and the VM is not off.
    pub async fn redefine(&self, redefinition: Redefinition) -> Result<bool> {
        let (answer, _) = self.ask(Request::Redefine(Box::new(redefinition))).await?;
        Ok(answer == Answer::Redefined(true))
    }

    /// Tells it that somebody removed the tap of one of its NICs.
    pub(crate) fn tap_gone(&self, nic: NicId) {
        // A task that is gone has no NICs.
        let _ = self.inbox.send(Inbox::TapGone(nic));
    }

    /// Cuts it if it runs and removes everything it has; its task ends.
    ///
    /// # Errors
    /// [`Error::Failed`]; the VM is still there then, and deleting may be tried again. Where only the kernel was in the
    /// way, the VM goes by itself as soon as its process ends.
    pub async fn delete(&self) -> Result<()> {
        self.ask(Request::Delete).await.map(drop)
    }

    /// Powers it off as gracefully as `patience` allows, and removes everything it has then.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::delete`]; [`Error::Conflict`] when it is overtaken, and the VM stays.
    pub async fn delete_gracefully(&self, patience: Duration) -> Result<()> {
        self.ask(Request::StopAndDelete(patience_of(patience, false))).await.map(drop)
    }

    /// Returns when what the daemon before left of the VM has been taken over, or removed: at once for one that does
    /// not run.
    pub(crate) async fn recovered(&self) {
        let mut view = self.view.clone();
        // An error means that the task is gone, and the VM with it.
        let _ = view.wait_for(|view| view.gone || view.taken_over).await;
    }

    /// Returns when there is nothing left of it.
    pub(crate) async fn gone(&self) {
        let mut view = self.view.clone();
        let _ = view.wait_for(|view| view.gone).await;
    }

    /// What is known of the VM, as it changes.
    pub(crate) fn views(&self) -> watch::Receiver<VmView> {
        self.view.clone()
    }

    /// The VM as it is when `is_so` says so of it, or at `end`; and which of both. Whoever waits is told, and asks nobody.
    ///
    /// # Errors
    /// [`Error::VmNotFound`] as soon as it is gone.
    pub(crate) async fn until(&self, is_so: impl Fn(&VmView) -> bool, end: Instant) -> Result<(VmView, bool)> {
        let mut view = self.view.clone();
        let awaited = timeout_at(end, view.wait_for(|view| view.gone || is_so(view))).await;
        match awaited {
            Ok(Ok(view)) if !view.gone => Ok((view.clone(), true)),
            Ok(_) => Err(self.ended()),
            Err(_) => Ok((self.view(), false)),
        }
    }

    async fn ask(&self, request: Request) -> Result<(Answer, VmView)> {
        let (sender, receiver) = oneshot::channel();
        if request.is_forced() {
            self.tally.add();
        }
        let progress = progress();
        let reply = Reply { answer: sender, progress: progress.clone() };
        let message = Box::new(Message { request, came: self.came, asker: asker(), reply });
        self.inbox.send(Inbox::Request(message)).map_err(|_| self.ended())?;
        if let Some(progress) = progress {
            self.show(&progress);
        }
        match receiver.await {
            Ok((answer, view)) => answer.map(|answer| (answer, view)),
            Err(_) => Err(self.ended()),
        }
    }

    /// A request is on its way to the VM, and its work shown there.
    pub(super) fn show(&self, progress: &Progress) {
        let (inbox, id) = (self.inbox.clone(), progress.id());
        let withdraw = move |reply| {
            // One that is not taken any more is dropped, and whoever waits for it told so.
            let _ = inbox.send(Inbox::Withdraw(id, reply));
        };
        progress.enter(&self.view.borrow().spec, withdraw);
    }

    /// A task ends when its VM is deleted, else with the daemon.
    fn ended(&self) -> Error {
        if self.view.borrow().gone { Error::VmNotFound(self.id) } else { Error::ShuttingDown }
    }
}

fn file_systems(answer: Answer) -> u64 {
    if let Answer::Frozen(count) | Answer::Thawed(count) = answer { count } else { 0 }
}

fn patience_of(time: Duration, agent_only: bool) -> Patience {
    Patience { time: u64::try_from(time.as_millis()).unwrap_or(u64::MAX), agent_only }
}

fn graceful(mode: RebootMode) -> Option<Patience> {
    match mode {
        RebootMode::Graceful(time) => Some(patience_of(time, false)),
        RebootMode::Agent(time) => Some(patience_of(time, true)),
        RebootMode::Force => None,
    }
}
