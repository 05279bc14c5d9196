//! Suspending and resuming a guest, resetting it at once, and the shutdown that only its agent may do (rulings 25 and 27).
//! What is asked of any guest in the ordinary way is `power`'s.

use super::{
    actor::{Actor, Interrupted},
    handle::AtOnce,
    lifecycle::{Decision, Request},
    live::{Guest, Instance},
    power::AGENT,
};
use crate::{
    model::{Error, Intent, Operation, Result},
    qmp::{Agent, QmpError, ShutdownMode},
};

impl Actor {
    pub(super) async fn at_once(&mut self, what: AtOnce) -> Result<()> {
        match what {
            AtOnce::Suspend => self.suspend().await,
            AtOnce::Resume => self.resume_suspended().await,
        }
    }

    /// Halts the guest. QEMU keeps that state, so a daemon that comes later finds it paused.
    async fn suspend(&mut self) -> Result<()> {
        match self.decide(Request::Suspend) {
            Decision::Do(_) => {
                let id = self.record.spec.id;
                let Instance::Live(live) = &self.instance else { return Err(Error::Unresponsive(id)) };
                let session = live.session.clone();
                match self.guarded(session.execute(qapi::qmp::stop {})).await {
                    Ok(_) => {
                        if let Instance::Live(live) = &mut self.instance {
                            live.guest = Guest::Paused { reason: None, critical: false };
                        }
                        Ok(())
                    }
                    Err(Interrupted::Qmp(QmpError::Refused { desc, .. })) => {
                        Err(Error::failed(Operation::Suspend, desc))
                    }
                    Err(Interrupted::Overtaken) => self.unless_overtaken(),
                    Err(Interrupted::Ended) => Err(Error::failed(Operation::Suspend, "QEMU has just ended")),
                    Err(Interrupted::Qmp(_) | Interrupted::Deadline) => Err(Error::Unresponsive(id)),
                }
            }
            Decision::Refuse(refusal) => Err(self.refused(refusal)),
            Decision::Already | Decision::Wait => Ok(()),
        }
    }

    async fn resume_suspended(&mut self) -> Result<()> {
        match self.decide(Request::Resume) {
            Decision::Do(_) => self.resume(Operation::Resume).await,
            Decision::Refuse(refusal) => Err(self.refused(refusal)),
            Decision::Already | Decision::Wait => Ok(()),
        }
    }

    /// Resets the guest without asking it; a reboot under way is over with that.
    pub(super) async fn reset_now(&mut self) -> Result<()> {
        match self.decide(Request::Reset) {
            Decision::Do(_) => {
                if !self.reset().await {
                    self.unless_overtaken()?;
                    return Err(Error::Unresponsive(self.record.spec.id));
                }
                if let Instance::Live(live) = &mut self.instance {
                    live.guest = Guest::Running;
                }
                self.was_reset().await;
                Ok(())
            }
            Decision::Refuse(refusal) => Err(self.refused(refusal)),
            Decision::Already | Decision::Wait => Ok(()),
        }
    }

    /// Whether what is under way is the agent's alone.
    pub(super) fn agent_only(&self) -> bool {
        matches!(self.intent(), Intent::Stop { agent_only: true, .. } | Intent::Reboot { agent_only: true, .. })
    }

    /// That there is an agent to be asked.
    ///
    /// # Errors
    /// [`Error::NoAgent`], with the reason and the way out.
    pub(super) fn need_agent(&self) -> Result<()> {
        let why = match &self.instance {
            Instance::Live(live) if live.agent => return Ok(()),
            Instance::Live(_) => "it is not running in the guest, or the guest is still booting",
            _ => "the VM's monitor does not answer, so it cannot be asked",
        };
        Err(Error::NoAgent { why: format!("{why}; force=true cuts the power") })
    }

    /// Asks the agent. What it does not do is taken back at once.
    pub(super) async fn ask_agent_only(&mut self, mode: ShutdownMode) -> Option<Error> {
        let path = self.ctx.run_paths(&self.record.spec.id).agent();
        let exchange = self.guarded(async {
            Ok(match Agent::connect(&path, AGENT).await {
                Ok(agent) => agent.shutdown(mode, AGENT).await,
                Err(error) => Err(error),
            })
        });
        match exchange.await {
            Ok(Err(error)) => Some(self.take_back(format!("{error}; force=true cuts the power")).await),
            // Whatever came between is dealt with next.
            Ok(Ok(())) | Err(_) => None,
        }
    }

    /// The guest goes on as if it had not been asked; whoever waits for its end is told why that does not come.
    pub(super) async fn take_back(&mut self, why: String) -> Error {
        tracing::info!(vm = %self.record.spec.id, why, "the guest is left running");
        if let Err(error) = self.intend(Intent::Run, Operation::Stop).await {
            tracing::warn!(vm = %self.record.spec.id, %error, "cannot store that the VM is left running");
            // The deadline has passed; without this it would pass again and again.
            if let crate::model::Run::Live(run) = &mut self.record.run {
                run.intent = Intent::Run;
            }
        }
        self.publish();
        let error = Error::NoAgent { why };
        self.waiters.drain(..).for_each(|waiter| waiter.refuse(error.clone()));
        error
    }
}
