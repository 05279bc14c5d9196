//! A forced stop or a delete overtakes every request that came before it and has not been done (ruling 8): what was
//! acknowledged as off stays off. One that is under way is cut short where it waits (`Actor::guarded`, `Actor::launch`);
//! those that wait for their turn are dealt with here.
//!
//! The handle counts the forced requests as they come, and every other request carries the count that it found. One
//! that finds a higher count at its turn came before a forced request, wherever it has waited meanwhile.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    actor::Actor,
    handle::{Command, Forced, Queued, Stopped, Waiter},
    lifecycle::{Action, Decision, Request},
};
use crate::model::{Conflict, Error};

/// Forced requests that have come.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<AtomicU64>);

impl Tally {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Actor {
    /// Whether a forced request is the next thing to be dealt with.
    pub(super) fn is_overtaken(&self) -> bool {
        self.overtaking.is_some()
    }

    pub(super) async fn forced(&mut self, forced: Forced) {
        self.dealt_with += 1;
        self.overtake_deletes();
        // A VM that was being started was not off before, though it is by now.
        let before = match std::mem::take(&mut self.launch_cut) {
            true => Stopped { forced: true, already: false },
            false => Stopped::BEFORE,
        };
        match forced {
            Forced::Off(reply) => {
                let result = match self.decide(Request::ForceOff) {
                    Decision::Do(Action::Kill) => self.cut().await.map(|()| Stopped { forced: true, already: false }),
                    Decision::Do(Action::Acknowledge) => self.acknowledge().await.map(|()| before),
                    Decision::Refuse(refusal) => Err(self.refused(refusal)),
                    _ => Ok(before),
                };
                self.answer(reply, result);
            }
            Forced::Delete(reply) => {
                let result = match self.decide(Request::Delete) {
                    Decision::Refuse(refusal) => Err(self.refused(refusal)),
                    _ => self.remove().await,
                };
                self.answer(reply, result);
            }
        }
    }

    /// A request's turn has come.
    pub(super) async fn turn(&mut self, Queued { came, command }: Queued) {
        if came == self.tally.count() {
            return self.command(command).await;
        }
        // What overtook it is counted before it is sent, so it may have to be waited for: a moment.
        while !self.gone && self.dealt_with < self.tally.count() {
            let Some(forced) = self.forced.recv().await else { return };
            self.forced(forced).await;
        }
        self.overtaken(command).await;
    }

    async fn overtaken(&mut self, command: Command) {
        match command {
            Command::Stop(_, Waiter::Stop(reply)) if self.instance.process().is_none() => {
                self.answer(reply, Ok(Stopped { forced: true, already: false }));
            }
            // The kernel, or the store, stood in the way of the other one.
            Command::Stop(patience, waiter @ Waiter::Stop(_)) => self.stop(patience, waiter).await,
            Command::Stop(_, waiter @ Waiter::Delete(_)) => waiter.refuse(overtaken()),
            Command::Start(reply) => drop(reply.send(Err(overtaken()))),
            Command::Reboot(_, reply) | Command::Restart(_, reply) | Command::AtOnce(_, reply) => {
                drop(reply.send(Err(overtaken())));
            }
            Command::Boot(reply) => drop(reply.send(Err(overtaken()))),
            Command::Redefine(_, reply) => drop(reply.send(Err(overtaken()))),
            Command::Change(_, reply) => drop(reply.send(Err(overtaken()))),
            // It was about a run that is over.
            Command::TapGone(_) => {}
        }
    }

    /// Those who want the VM gone when its guest has powered off, and a forced request has come in between.
    pub(super) fn overtake_deletes(&mut self) {
        let (deletes, stops): (Vec<_>, _) =
            self.waiters.drain(..).partition(|waiter| matches!(waiter, Waiter::Delete(_)));
        self.waiters = stops;
        deletes.into_iter().for_each(|waiter| waiter.refuse(overtaken()));
    }

    /// The VM is gone: so is what whoever still waits for it wanted.
    pub(super) async fn dismiss(&mut self) {
        self.commands.close();
        while let Some(Queued { came, command }) = self.commands.recv().await {
            // One that came later is told that there is no such VM, as its answer does not come.
            if came < self.tally.count() {
                self.overtaken(command).await;
            }
        }
    }
}

fn overtaken() -> Error {
    Conflict::Overtaken.into()
}
