//! How the rest of the program speaks to a VM's task: requests on a bounded queue, forced ones on a lane of their own
//! that overtakes everything, reads from what was last published.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::{overtaken::Tally, upkeep::Turn};
use crate::model::{Applied, Change, Conflict, Error, NicId, Redefinition, Result, Sample, Status, VmId, VmView};

/// Requests that may wait for one VM.
pub(super) const QUEUE: usize = 64;

pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The guest did not power off by itself.
    pub forced: bool,
    /// It was off before.
    pub already: bool,
}

impl Stopped {
    /// There was nothing to be done.
    pub(super) const BEFORE: Self = Self { forced: false, already: true };
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

/// What is done to a guest without asking it.
#[derive(Clone, Copy, Debug)]
pub(super) enum AtOnce {
    Suspend,
    Resume,
}

/// How long a guest is given, and whether that is all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub time: Duration,
    pub agent_only: bool,
}

/// Who waits for a VM that was asked to power off.
pub(super) enum Waiter {
    Stop(Reply<Stopped>),
    /// Wants it gone then.
    Delete(Reply<()>),
}

impl Waiter {
    pub fn refuse(self, error: Error) {
        // Whoever does not wait any more is not told.
        match self {
            Self::Stop(reply) => drop(reply.send(Err(error))),
            Self::Delete(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// A request that waits for its turn, with the forced ones that there were when it came.
pub(super) struct Queued {
    pub came: u64,
    pub command: Command,
}

/// Ordinary requests, answered one after the other. What is one request to a client is one here: between two nobody
/// knows what has come in.
pub(super) enum Command {
    Start(Reply<Start>),
    Stop(Patience, Waiter),
    Reboot(RebootMode, Reply<()>),
    /// A reboot, or a start where it does not run.
    Restart(RebootMode, Reply<()>),
    AtOnce(AtOnce, Reply<()>),
    /// Its turn after the boot of the host.
    Boot(Reply<Turn>),
    Change(Box<Change>, Reply<(VmView, Applied)>),
    /// Answered with whether anything was changed.
    Redefine(Box<Redefinition>, Reply<bool>),
    /// Somebody removed the tap of a NIC.
    TapGone(NicId),
}

/// Requests that overtake an operation under way (ruling 8).
pub(super) enum Forced {
    Off(Reply<Stopped>),
    Delete(Reply<()>),
}

/// One VM, from outside its task.
#[derive(Clone, Debug)]
pub struct VmHandle {
    id: VmId,
    tally: Tally,
    /// Forced requests that had come when this handle was made.
    came: u64,
    commands: mpsc::Sender<Queued>,
    /// Has room for all: sending to it is one step, and cannot be given up half-way.
    forced: mpsc::UnboundedSender<Forced>,
    view: watch::Receiver<VmView>,
    sample: watch::Receiver<Option<Sample>>,
}

impl VmHandle {
    pub(super) fn new(
        id: VmId,
        tally: Tally,
        commands: mpsc::Sender<Queued>,
        forced: mpsc::UnboundedSender<Forced>,
        view: watch::Receiver<VmView>,
        sample: watch::Receiver<Option<Sample>>,
    ) -> Self {
        Self { id, tally, came: 0, commands, forced, view, sample }
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
        self.sample.borrow().clone()
    }

    /// Starts it, or resumes it where it is paused.
    ///
    /// # Errors
    /// [`Error::Conflict`] while it stops or reboots or when the start is overtaken, [`Error::Failed`] with QEMU's words.
    pub async fn start(&self) -> Result<Start> {
        self.ask(Command::Start).await
    }

    /// Powers it off.
    ///
    /// # Errors
    /// [`Error::NoAgent`] where only the agent was to be asked; the VM runs then.
    /// [`Error::Failed`] when the kernel does not let go of the process, or the outcome cannot be stored.
    pub async fn stop(&self, mode: StopMode) -> Result<Stopped> {
        match mode {
            StopMode::Graceful(time) => {
                self.ask(|reply| Command::Stop(Patience { time, agent_only: false }, Waiter::Stop(reply))).await
            }
            StopMode::Agent(time) => {
                self.ask(|reply| Command::Stop(Patience { time, agent_only: true }, Waiter::Stop(reply))).await
            }
            StopMode::Force => self.overtake(Forced::Off).await,
        }
    }

    /// Has the guest reboot and returns as soon as that is under way.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run, [`Error::Unresponsive`]; [`Error::NoAgent`] where only the agent was to
    /// be asked, which does not answer.
    pub async fn reboot(&self, mode: RebootMode) -> Result<()> {
        self.ask(|reply| Command::Reboot(mode, reply)).await
    }

    /// Has it reboot, or starts it where it does not run (ruling 27).
    ///
    /// # Errors
    /// As [`Self::reboot`] and [`Self::start`].
    pub async fn restart(&self, mode: RebootMode) -> Result<()> {
        self.ask(|reply| Command::Restart(mode, reply)).await
    }

    /// Halts the guest; it stays so until it is resumed or started, also when the daemon is restarted.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run or is suspended already, [`Error::Unresponsive`].
    pub async fn suspend(&self) -> Result<()> {
        self.ask(|reply| Command::AtOnce(AtOnce::Suspend, reply)).await
    }

    /// Lets a suspended guest go on.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is not suspended, [`Error::Unresponsive`].
    pub async fn resume(&self) -> Result<()> {
        self.ask(|reply| Command::AtOnce(AtOnce::Resume, reply)).await
    }

    /// Starts it where the boot of the host has left that to be done.
    pub(crate) async fn boot(&self) -> Turn {
        match self.ask(Command::Boot).await {
            Err(Error::Busy(_) | Error::Conflict(Conflict::Overtaken)) => Turn::TooEarly,
            turn => turn.unwrap_or(Turn::Skipped),
        }
    }

    /// Changes its definition, and on a running VM what QEMU and the guest allow. Returns the VM as this change, not one
    /// behind it, has left it.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::Failed`] with nothing changed, [`Error::Conflict`] when it is overtaken.
    pub async fn change(&self, change: Change) -> Result<(VmView, Applied)> {
        self.ask(|reply| Command::Change(Box::new(change), reply)).await
    }

    /// Replaces what is given of its definition, all or nothing. Returns whether that changed anything.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Conflict`] when anything would change and the VM is not off.
    pub async fn redefine(&self, redefinition: Redefinition) -> Result<bool> {
        self.ask(|reply| Command::Redefine(Box::new(redefinition), reply)).await
    }

    /// Tells it that somebody removed the tap of one of its NICs. Waits for room in its queue, not for the VM.
    pub(crate) async fn tap_gone(&self, nic: NicId) {
        // A task that is gone has no NICs.
        let _ = self.commands.send(Queued { came: self.came, command: Command::TapGone(nic) }).await;
    }

    /// Cuts it if it runs and removes everything it has; its task ends.
    ///
    /// # Errors
    /// [`Error::Failed`]; the VM is still there then, and deleting may be tried again. Where only the kernel was in the
    /// way, the VM goes by itself as soon as its process ends.
    pub async fn delete(&self) -> Result<()> {
        self.overtake(Forced::Delete).await
    }

    /// Powers it off as gracefully as `patience` allows, and removes everything it has then.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::delete`]; [`Error::Conflict`] when it is overtaken, and the VM stays.
    pub async fn delete_gracefully(&self, patience: Duration) -> Result<()> {
        let patience = Patience { time: patience, agent_only: false };
        self.ask(|reply| Command::Stop(patience, Waiter::Delete(reply))).await
    }

    /// Returns when what the daemon before left of the VM has been taken over, or removed: at once for one that does
    /// not run.
    pub(crate) async fn recovered(&self) {
        let mut view = self.view.clone();
        let under_way = [Status::Starting, Status::Unresponsive, Status::Stopping];
        // An error means that the task is gone, which is settled as well.
        let _ = view.wait_for(|view| view.gone || !under_way.contains(&view.status)).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(Queued { came: self.came, command: command(reply) }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Error::Busy(self.id),
            mpsc::error::TrySendError::Closed(_) => self.ended(),
        })?;
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    async fn overtake<T>(&self, forced: impl FnOnce(Reply<T>) -> Forced) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.tally.add();
        self.forced.send(forced(reply)).map_err(|_| self.ended())?;
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    /// A task ends when its VM is deleted, else with the daemon.
    fn ended(&self) -> Error {
        if self.view.borrow().gone { Error::VmNotFound(self.id) } else { Error::ShuttingDown }
    }
}
