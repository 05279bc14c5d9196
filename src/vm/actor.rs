//! The task of one VM: has whatever happens next dealt with, and listens to the forced lane and the pidfd meanwhile.

use std::future::pending;

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    SharedContext,
    effect::check_ports,
    handle::{Command, Forced, QUEUE, Queued, Reply, Start, VmHandle, Waiter},
    launch::Launch,
    lifecycle::{Action, Decision, Refusal, Request, decide},
    live::{Happening, Instance},
    lookout::Lookout,
    overtaken::Tally,
    undo::Undo,
};
use crate::{
    model::{Conflict, Ending, Error, Nic, Operation, Result, Run, Sample, Status, VmRecord, VmView},
    qmp::QmpError,
};

pub(super) struct Actor {
    pub ctx: SharedContext,
    pub record: VmRecord,
    pub instance: Instance,
    /// Stops under way that wait for the guest.
    pub waiters: Vec<Waiter>,
    /// When the power button is pressed once more, while the guest is to stop or reboot.
    pub press_again: Option<Instant>,
    /// Sessions in a row that its monitor has spoilt.
    pub misconduct: u32,
    /// Came in on the forced lane while something else was under way.
    pub overtaking: Option<Forced>,
    /// What it came in on was a launch, which is undone.
    pub launch_cut: bool,
    /// NICs that QEMU had when its VM was deleted; the record no longer tells.
    pub deleted_nics: Vec<Nic>,
    /// Nobody was told that it exists.
    pub half_made: bool,
    pub lookout: Lookout,
    pub gone: bool,
    pub tally: Tally,
    /// Forced requests that were dealt with.
    pub dealt_with: u64,
    pub commands: mpsc::Receiver<Queued>,
    pub forced: mpsc::UnboundedReceiver<Forced>,
    pub view: watch::Sender<VmView>,
    pub sample: watch::Sender<Option<Sample>>,
}

/// Why an exchange with QEMU did not come to its end.
pub(super) enum Interrupted {
    /// A forced stop or a delete came in; it is dealt with next.
    Overtaken,
    /// The process ended; the pidfd tells, next.
    Ended,
    /// The guest's time to stop or reboot is over; that is dealt with next.
    Deadline,
    Qmp(QmpError),
}

enum Wake {
    Forced(Forced),
    Instance(Happening),
    Deadline,
    PressAgain,
    Restart,
    /// The files of a stopped VM were looked for.
    Looked,
    Turn(Queued),
    /// Nobody can reach this task any more: the daemon ends.
    Orphaned,
}

/// Starts the task of a VM of an earlier daemon and returns its handle. What is under way according to its record is
/// finished or unwound; one that says `Live` is taken over.
pub fn adopt(ctx: SharedContext, record: VmRecord) -> VmHandle {
    spawn(ctx, record, true)
}

/// Starts the task of a VM that has just been made, and stored. One whose record still says `Creating` exists only once
/// it has been started.
pub fn create(ctx: SharedContext, record: VmRecord) -> VmHandle {
    spawn(ctx, record, false)
}

fn spawn(ctx: SharedContext, record: VmRecord, adopted: bool) -> VmHandle {
    let (commands, command_queue) = mpsc::channel(QUEUE);
    let (forced, forced_queue) = mpsc::unbounded_channel();
    let tally = Tally::default();
    let first = VmView {
        spec: record.spec.clone(),
        in_effect: None,
        status: Status::Stopped,
        why: None,
        missing: None,
        critical: false,
        pid: None,
        started_on_the_wall: None,
        started: None,
        upkeep: record.upkeep,
        agent: false,
        gone: false,
    };
    let (view, view_reader) = watch::channel(first);
    let (sample, sample_reader) = watch::channel(None);
    let handle = VmHandle::new(record.spec.id, tally.clone(), commands, forced, view_reader, sample_reader);
    let actor = Actor {
        instance: Instance::of(&ctx, &record),
        ctx,
        record,
        waiters: Vec::new(),
        press_again: None,
        misconduct: 0,
        overtaking: None,
        launch_cut: false,
        deleted_nics: Vec::new(),
        half_made: false,
        lookout: Lookout::new(),
        gone: false,
        tally,
        dealt_with: 0,
        commands: command_queue,
        forced: forced_queue,
        view,
        sample,
    };
    actor.publish();
    tokio::spawn(actor.run(adopted));
    handle
}

impl Actor {
    async fn run(mut self, adopted: bool) {
        if adopted {
            self.recover().await;
        }
        while !self.gone {
            self.publish();
            match self.next().await {
                Wake::Forced(forced) => self.forced(forced).await,
                Wake::Instance(happening) => self.happened(happening).await,
                Wake::Deadline => self.deadline_passed().await,
                Wake::PressAgain => self.press_again().await,
                Wake::Restart => self.restart().await,
                Wake::Looked => self.looked_again(),
                Wake::Turn(queued) => self.turn(queued).await,
                Wake::Orphaned => return,
            }
        }
        self.publish();
        self.dismiss().await;
    }

    async fn next(&mut self) -> Wake {
        if let Some(forced) = self.overtaking.take() {
            return Wake::Forced(forced);
        }
        let deadline = self.deadline();
        let press_again = self.press_again;
        let restart = self.restart_at();
        let (down, spec) = (matches!(self.instance, Instance::Down), self.record.spec.clone());
        tokio::select! {
            // In this order: force overtakes, and what happened to the process is known before the next request is judged.
            biased;
            forced = self.forced.recv() => forced.map_or(Wake::Orphaned, Wake::Forced),
            happening = self.instance.next() => Wake::Instance(happening),
            () = until(deadline) => Wake::Deadline,
            () = until(press_again) => Wake::PressAgain,
            () = until(restart) => Wake::Restart,
            command = self.commands.recv() => command.map_or(Wake::Orphaned, Wake::Turn),
            () = self.lookout.look_again(&spec), if down => Wake::Looked,
        }
    }

    /// Runs an exchange with QEMU, unless a forced request, the end of the process or the guest's deadline comes first.
    pub(super) async fn guarded<T>(
        &mut self,
        work: impl Future<Output = Result<T, QmpError>>,
    ) -> Result<T, Interrupted> {
        // What was cut short does not wait for the next thing.
        if self.is_overtaken() {
            return Err(Interrupted::Overtaken);
        }
        let process = self.instance.process();
        let ended = async {
            match &process {
                Some(process) => process.exited().await,
                None => pending().await,
            }
        };
        // One that has passed already is being dealt with, maybe by this very exchange.
        let deadline = self.deadline().filter(|deadline| *deadline > Instant::now());
        tokio::select! {
            biased;
            Some(forced) = self.forced.recv() => {
                self.overtaking = Some(forced);
                Err(Interrupted::Overtaken)
            }
            _ = ended => Err(Interrupted::Ended),
            () = until(deadline) => Err(Interrupted::Deadline),
            done = work => done.map_err(Interrupted::Qmp),
        }
    }

    pub(super) async fn command(&mut self, command: Command) {
        match command {
            Command::Start(reply) => {
                let result = self.start_anew().await;
                self.answer(reply, result);
            }
            Command::Boot(reply) => {
                let turn = self.boot().await;
                self.answer(reply, Ok(turn));
            }
            Command::Change(change, reply) => {
                let result = self.change(*change).await;
                self.look_again_for_files().await;
                self.publish();
                let _ = reply.send(result.map(|applied| (self.view.borrow().clone(), applied)));
            }
            Command::Stop(patience, waiter) => self.stop(patience, waiter).await,
            Command::TapGone(nic) => self.tap_is_gone(nic).await,
            Command::Reboot(mode, reply) => {
                let result = self.reboot(mode).await;
                self.answer(reply, result);
            }
            Command::Restart(mode, reply) => {
                let result = match self.reboot(mode).await {
                    Err(Error::Conflict(Conflict::NotRunning)) => self.start_anew().await.map(drop),
                    rebooted => rebooted,
                };
                self.answer(reply, result);
            }
            Command::Redefine(redefinition, reply) => {
                let result = self.redefine(*redefinition).await;
                self.look_again_for_files().await;
                self.answer(reply, result);
            }
            Command::AtOnce(what, reply) => {
                let result = self.at_once(what).await;
                self.answer(reply, result);
            }
        }
    }

    /// Whoever reads after the answer finds what it says.
    pub(super) fn answer<T>(&self, reply: Reply<T>, result: Result<T>) {
        self.publish();
        let _ = reply.send(result);
    }

    /// A start that a client asks for: restarts are counted from here.
    async fn start_anew(&mut self) -> Result<Start> {
        let attempts = self.record.upkeep.attempts;
        if let Instance::Down = self.instance {
            self.record.upkeep.attempts = 0;
        }
        let started = self.start().await;
        if started.is_err() {
            self.record.upkeep.attempts = attempts;
        }
        started
    }

    pub(super) async fn start(&mut self) -> Result<Start> {
        if let Run::Creating = self.record.run {
            return self.launch().await.map(|()| Start::Started);
        }
        match self.decide(Request::Start) {
            Decision::Do(Action::Resume) => self.resume(Operation::Start).await.map(|()| Start::Started),
            Decision::Do(_) => self.launch().await.map(|()| Start::Started),
            Decision::Refuse(refusal) => Err(self.refused(refusal)),
            Decision::Already | Decision::Wait => Ok(Start::Already),
        }
    }

    pub(super) async fn launch(&mut self) -> Result<()> {
        if self.ctx.closing.has_begun() {
            return Err(Error::ShuttingDown);
        }
        for nic in &self.record.spec.nics {
            check_ports(nic.backend.forwards())?;
        }
        for disk in &self.record.spec.disks {
            self.ctx.owns(disk, &self.record.spec)?;
        }
        let new = matches!(self.record.run, Run::Creating);
        let before = std::mem::replace(&mut self.record.run, Run::Starting { process: None, new });
        let owed = self.record.upkeep;
        self.publish();
        let (mut undo, mut spawned) = (Undo::default(), None);
        let launch = Launch { ctx: &self.ctx, record: &mut self.record, new, undo: &mut undo, spawned: &mut spawned };
        let launched = tokio::select! {
            biased;
            Some(forced) = self.forced.recv() => {
                (self.overtaking, self.launch_cut) = (Some(forced), true);
                Err(Error::Conflict(Conflict::Overtaken))
            }
            launched = launch.run() => launched.map_err(Error::from),
        };
        match launched {
            Ok(live) => {
                self.lookout.nothing_missing();
                self.instance = Instance::Live(Box::new(live));
                Ok(())
            }
            Err(error) => {
                self.record.upkeep = owed;
                // QEMU first: it holds what the other steps made.
                let held = match spawned {
                    Some(process) => self.end_all(process).await,
                    None => None,
                };
                undo.unwind().await;
                if new {
                    // All or nothing, as the record that is stored says as well.
                    self.record.run = Run::Deleting;
                    self.half_made = true;
                }
                // The launch's own error is the one to tell; those of its undoing are in the log.
                if let Some(process) = held {
                    let _ = self.leave_to_kernel(process);
                } else {
                    let last = if let Run::Down { last } = before { last } else { Ending::Clean };
                    let _ = self.ended(last, false).await;
                    self.look_for_files().await;
                }
                Err(error)
            }
        }
    }

    /// The host's side of every NIC that a process which has ended may have had.
    pub(super) async fn disconnect_all(&mut self) {
        let mut nics = std::mem::take(&mut self.deleted_nics);
        if let Run::Live(run) = &self.record.run {
            nics.extend(run.in_effect.nics.iter().cloned());
        }
        for nic in nics.iter().chain(&self.record.spec.nics) {
            self.ctx.disconnect(nic).await;
        }
    }

    pub(super) fn decide(&self, request: Request) -> Decision {
        match (&self.record.run, request) {
            // It will never have stopped, and so could not be waited for.
            (
                Run::Deleting,
                Request::Start
                | Request::Reboot
                | Request::Reset
                | Request::Suspend
                | Request::Resume
                | Request::Redefine,
            ) => Decision::Refuse(Refusal::Conflict(Conflict::Deleting)),
            // What is stopped and starts again by itself is not stopped yet.
            (Run::Down { .. }, Request::Stop | Request::ForceOff) if self.record.upkeep.due.is_some() => {
                Decision::Do(Action::Acknowledge)
            }
            _ => decide(self.status().0, request),
        }
    }

    pub(super) fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Conflict(conflict) => conflict.into(),
            Refusal::Unresponsive => Error::Unresponsive(self.record.spec.id),
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
