//! Stops, reboots, resumes, and the end of a run. The guest is asked through its agent where one answers, else by the
//! ACPI power button; a deadline, kept in the record, decides when it is no longer asked (ruling 9).

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{
    actor::{Actor, Interrupted},
    handle::{Patience, RebootMode, Stopped, Waiter},
    intent::joined,
    launch::remove_run_files,
    lifecycle::{Action, Decision, Request},
    live::{Guest, Instance},
};
use crate::{
    host::process::Process,
    model::{Conflict, Ending, Error, Intent, Moment, Operation, Result, Run},
    qmp::{Agent, QmpError, Session, ShutdownMode},
};

/// For the agent's connection, its greeting and its command: a live one answers in milliseconds.
pub(super) const AGENT: Duration = Duration::from_secs(3);
/// How often the power button is pressed.
const PRESS_AGAIN: Duration = Duration::from_secs(5);
/// QEMU closes its images and ends; it needs some 10 ms.
const QUIT: Duration = Duration::from_secs(2);
/// SIGKILL takes 2 ms, unless the process hangs in the kernel.
const KILL: Duration = Duration::from_millis(800);
/// The store takes a fraction of a millisecond. One that hangs keeps no forced stop from being in time.
const NOTE: Duration = Duration::from_millis(100);

impl Actor {
    /// A graceful stop. Who waits is answered when the process has ended.
    pub(super) async fn stop(&mut self, patience: Patience, waiter: Waiter) {
        match self.decide(Request::Stop) {
            Decision::Do(Action::Acknowledge) => {
                let result = self.acknowledge().await;
                self.is_off(waiter, result.map(|()| Stopped::BEFORE)).await;
            }
            // The deadline of a stop was over before SIGKILL was sent: there is no time left to wait.
            Decision::Do(_) if matches!(self.instance, Instance::Killed(_)) => {
                let result = self.cut().await;
                self.is_off(waiter, result.map(|()| Stopped { forced: true, already: false })).await;
            }
            Decision::Do(action) => {
                if patience.agent_only
                    && action != Action::AwaitPowerDown
                    && let Err(error) = self.need_agent()
                {
                    return waiter.refuse(error);
                }
                let intent = joined(self.intent(), Moment::after(patience.time), patience.agent_only);
                // One that may cut the power in the end does all that a graceful stop does.
                let more = matches!(self.intent(), Intent::Stop { agent_only: true, .. }) && !patience.agent_only;
                if let Err(error) = self.intend(intent, Operation::Stop).await {
                    return waiter.refuse(error);
                }
                self.waiters.push(waiter);
                if !patience.agent_only && (action != Action::AwaitPowerDown || more) {
                    self.press_again = Some(Instant::now() + PRESS_AGAIN);
                }
                self.publish();
                if action == Action::PowerDown || more {
                    self.ask_guest(ShutdownMode::Powerdown).await;
                }
            }
            Decision::Refuse(refusal) => waiter.refuse(self.refused(refusal)),
            Decision::Already | Decision::Wait => self.is_off(waiter, Ok(Stopped::BEFORE)).await,
        }
    }

    /// Tells who waits for its end that the VM is off; who wants it gone gets that now.
    async fn is_off(&mut self, waiter: Waiter, stopped: Result<Stopped>) {
        match (waiter, stopped) {
            (Waiter::Stop(reply), stopped) => self.answer(reply, stopped),
            (waiter @ Waiter::Delete(_), Err(error)) => waiter.refuse(error),
            (Waiter::Delete(reply), Ok(_)) => {
                let removed = self.remove().await;
                self.answer(reply, removed);
            }
        }
    }

    /// Gets a reboot under way.
    pub(super) async fn reboot(&mut self, mode: RebootMode) -> Result<()> {
        let (time, agent_only) = match mode {
            RebootMode::Graceful(time) => (time, false),
            RebootMode::Agent(time) => (time, true),
            RebootMode::Force => return self.reset_now().await,
        };
        match self.decide(Request::Reboot) {
            Decision::Do(_) => {
                if agent_only {
                    self.need_agent()?;
                }
                self.intend(Intent::reboot(Moment::after(time), agent_only), Operation::Reboot).await?;
                if !agent_only {
                    self.press_again = Some(Instant::now() + PRESS_AGAIN);
                }
                self.publish();
                // Whether the guest heeds is the deadline's matter: the reboot is under way.
                match self.ask_guest(ShutdownMode::Reboot).await {
                    Some(refused) => Err(refused),
                    None => self.unless_overtaken(),
                }
            }
            Decision::Refuse(refusal) => Err(self.refused(refusal)),
            Decision::Already | Decision::Wait => Ok(()),
        }
    }

    /// Lets a paused guest go on, as a part of `operation`.
    pub(super) async fn resume(&mut self, operation: Operation) -> Result<()> {
        let Instance::Live(live) = &self.instance else { return Err(Error::Unresponsive(self.record.spec.id)) };
        let session = live.session.clone();
        match self.guarded(session.execute(qapi::qmp::cont {})).await {
            Ok(_) => {
                if let Instance::Live(live) = &mut self.instance {
                    live.guest = Guest::Running;
                }
                Ok(())
            }
            Err(Interrupted::Qmp(QmpError::Refused { desc, .. })) => Err(Error::failed(operation, desc)),
            Err(Interrupted::Overtaken) => self.unless_overtaken(),
            Err(Interrupted::Ended) => Err(Error::failed(operation, "QEMU ended before the guest went on")),
            Err(Interrupted::Qmp(_) | Interrupted::Deadline) => Err(Error::Unresponsive(self.record.spec.id)),
        }
    }

    /// What a request is told that a forced one cut short (ruling 8).
    pub(super) fn unless_overtaken(&self) -> Result<()> {
        if self.is_overtaken() { Err(Conflict::Overtaken.into()) } else { Ok(()) }
    }

    /// Asks the agent, else presses the power button; failures are the deadline's matter. Where nobody but the agent is to
    /// be asked, and it does not do it, the whole is taken back, and why is returned.
    pub(super) async fn ask_guest(&mut self, mode: ShutdownMode) -> Option<Error> {
        let Instance::Live(live) = &self.instance else { return None };
        let session = live.session.clone();
        if live.guest != Guest::Running && self.guarded(session.execute(qapi::qmp::cont {})).await.is_err() {
            return None;
        }
        let Instance::Live(live) = &self.instance else { return None };
        if self.agent_only() {
            return self.ask_agent_only(mode).await;
        }
        let agent = live.agent;
        let path = self.ctx.run_paths(&self.record.spec.id).agent();
        let exchange = self.guarded(async {
            if agent {
                match Agent::connect(&path, AGENT).await {
                    Ok(agent) => match agent.shutdown(mode, AGENT).await {
                        Ok(()) => return Ok(()),
                        Err(error) => {
                            tracing::info!(%error, "the guest agent does not do it; pressing the power button")
                        }
                    },
                    Err(error) => tracing::info!(%error, "the guest agent does not answer; pressing the power button"),
                }
            }
            press(&session).await
        });
        if let Err(Interrupted::Qmp(error)) = exchange.await {
            tracing::warn!(vm = %self.record.spec.id, %error, "cannot press the power button");
        }
        None
    }

    /// The power button, whatever was tried before: a guest in its firmware, or one that has just begun to boot, did not
    /// notice, and one that is on its way down does not mind.
    pub(super) async fn press_again(&mut self) {
        self.press_again = Some(Instant::now() + PRESS_AGAIN);
        let Instance::Live(live) = &self.instance else { return };
        let session = live.session.clone();
        let _ = self.guarded(press(&session)).await;
    }

    pub(super) async fn deadline_passed(&mut self) {
        self.press_again = None;
        if self.agent_only() {
            let why = "the guest was asked by its agent and did not do it in time; force=true cuts the power";
            drop(self.take_back(why.to_owned()).await);
            return;
        }
        match self.intent() {
            Intent::Run => {}
            Intent::Stop { .. } | Intent::Off { .. } => {
                tracing::info!(vm = %self.record.spec.id, "the time to power off is over; forcing it off");
                if let Err(error) = self.end_process().await {
                    tracing::warn!(vm = %self.record.spec.id, %error, "forced stop");
                }
            }
            Intent::Reboot { .. } => {
                tracing::info!(vm = %self.record.spec.id, "the guest did not reboot in time; resetting it");
                if self.reset().await {
                    self.was_reset().await;
                }
            }
        }
    }

    /// The guest has powered off; QEMU waits, paused.
    pub(super) async fn guest_powered_off(&mut self) {
        match self.intent() {
            Intent::Run => {
                // A daemon that is killed behind QEMU's end would take it for a crash.
                self.note_end(false).await;
                self.quit(Ending::Clean).await;
            }
            Intent::Stop { .. } | Intent::Off { .. } => self.quit(Ending::Clean).await,
            // The event that QEMU sends ends the reboot.
            Intent::Reboot { .. } => {
                self.reset().await;
            }
        }
    }

    /// Whether there is nothing more to be tried; a monitor that fails is taken up again when it is back.
    pub(super) async fn reset(&mut self) -> bool {
        let Instance::Live(live) = &self.instance else { return false };
        let session = live.session.clone();
        let reset = self.guarded(async {
            session.execute(qapi::qmp::system_reset {}).await?;
            session.execute(qapi::qmp::cont {}).await
        });
        match reset.await {
            Ok(_) => true,
            Err(Interrupted::Qmp(error)) => {
                tracing::warn!(vm = %self.record.spec.id, %error, "cannot reset");
                !matches!(error, QmpError::Timeout { .. } | QmpError::Closed { .. })
            }
            Err(Interrupted::Overtaken | Interrupted::Ended | Interrupted::Deadline) => false,
        }
    }

    /// A reset is what a reboot waits for.
    pub(super) async fn was_reset(&mut self) {
        if let Intent::Reboot { .. } = self.intent() {
            self.press_again = None;
            if let Err(error) = self.intend(Intent::Run, Operation::Reboot).await {
                tracing::warn!(vm = %self.record.spec.id, %error, "cannot store the end of the reboot");
            }
        }
    }

    /// Has QEMU close its images and end.
    pub(super) async fn quit(&mut self, ending: Ending) {
        let Some(process) = self.instance.process() else { return };
        if let Instance::Live(live) = &self.instance {
            let (session, process) = (live.session.clone(), process.clone());
            let ended = self.guarded(async {
                // Whether it answers or ends without an answer is the same.
                let _ = session.execute(qapi::qmp::quit {}).await;
                let _ = timeout(QUIT, process.exited()).await;
                Ok(())
            });
            if let Err(Interrupted::Overtaken) = ended.await {
                // It cuts the power of what is on its way out.
                return;
            }
        }
        if !killed(&process).await {
            let _ = self.leave_to_kernel(process);
            return;
        }
        let _ = self.ended(ending, false).await;
    }

    /// Cuts the power for a client, where there is a process.
    ///
    /// # Errors
    /// When the kernel does not let go of it, or the outcome cannot be stored.
    pub(super) async fn cut(&mut self) -> Result<()> {
        if !self.intent().is_stop() {
            self.note_end(true).await;
        }
        self.end_process().await
    }

    /// Stores that the process is being ended. Where the store fails, or hangs, it is ended all the same: what is lost
    /// then is only that a daemon which is killed in between would call it a crash.
    async fn note_end(&mut self, by_client: bool) {
        let intent = Intent::Off { by_client };
        match timeout(NOTE, self.intend(intent, Operation::Stop)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(vm = %self.record.spec.id, %error, "cannot store that the VM ends"),
            Err(_) => {
                tracing::warn!(vm = %self.record.spec.id, "the store does not answer; the VM is ended all the same")
            }
        }
        if let Run::Live(run) = &mut self.record.run {
            run.intent = intent;
        }
    }

    async fn end_process(&mut self) -> Result<()> {
        let Some(process) = self.instance.process() else { return Ok(()) };
        if !killed(&process).await {
            return Err(self.leave_to_kernel(process));
        }
        self.ended(Ending::Clean, true).await
    }

    /// Nothing is left to be done but to wait for the kernel, which may take for ever: whoever waits is told so.
    pub(super) fn leave_to_kernel(&mut self, process: Arc<Process>) -> Error {
        let (operation, what) = match self.record.run {
            Run::Deleting => (Operation::Delete, "is deleted"),
            _ => (Operation::Stop, "counts as stopped"),
        };
        let why = format!(
            "QEMU was killed, but the kernel still holds it, most likely in storage that hangs; \
             the VM {what} as soon as the kernel lets go"
        );
        tracing::warn!(vm = %self.record.spec.id, pid = process.pid(), why);
        let error = Error::failed(operation, why);
        self.instance = Instance::Killed(process);
        self.press_again = None;
        self.publish_sample(None);
        self.publish();
        self.waiters.drain(..).for_each(|waiter| waiter.refuse(error.clone()));
        error
    }

    /// The process is gone, which is the way that every run ends: cleans up after it, stores how it ended, answers who
    /// waits for that, and goes on with a deletion.
    pub(super) async fn ended(&mut self, ending: Ending, forced: bool) -> Result<()> {
        self.instance = Instance::Down;
        self.press_again = None;
        remove_run_files(&self.ctx.run_paths(&self.record.spec.id));
        self.disconnect_all().await;
        let deleting = matches!(self.record.run, Run::Deleting);
        let stored = if deleting { Ok(()) } else { self.store_end(ending).await };
        if !deleting {
            self.remove_orphans().await;
        }
        self.publish_sample(None);
        self.publish();
        let mut gone = Vec::new();
        for waiter in std::mem::take(&mut self.waiters) {
            match (waiter, &stored) {
                (waiter, Err(error)) => waiter.refuse(error.clone()),
                (Waiter::Stop(reply), Ok(())) => drop(reply.send(Ok(Stopped { forced, already: false }))),
                (Waiter::Delete(reply), Ok(())) => gone.push(reply),
            }
        }
        if deleting {
            return self.erase().await;
        }
        if !gone.is_empty() {
            let removed = match self.condemn().await {
                Ok(()) => self.erase().await,
                Err(error) => Err(error),
            };
            self.publish();
            gone.into_iter().for_each(|reply| drop(reply.send(removed.clone())));
        }
        stored
    }

    async fn store_end(&mut self, ending: Ending) -> Result<()> {
        self.record.upkeep = self.owed_after(&ending);
        self.record.run = Run::Down { last: ending };
        let stored = self.ctx.persist(&self.record).await.map_err(|e| Error::failed(Operation::Stop, e));
        if let Err(error) = &stored {
            tracing::error!(vm = %self.record.spec.id, %error, "cannot store that the VM stopped");
        }
        stored
    }

    /// Forgets a crash.
    pub(super) async fn acknowledge(&mut self) -> Result<()> {
        self.ended(Ending::Clean, false).await
    }
}

/// Cuts the power of a process; false when the kernel does not let go of it.
pub(super) async fn killed(process: &Process) -> bool {
    process.kill();
    timeout(KILL, process.exited()).await.is_ok()
}

async fn press(session: &Session) -> Result<(), QmpError> {
    session.execute(qapi::qmp::system_powerdown {}).await.map(drop)
}
