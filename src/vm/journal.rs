//! What is logged of a VM's fate: one line for each turn that somebody looks for afterwards. It compares the facts with those
//! before, whatever has changed them. What a step could not do is said where the step ends.

use super::core::{Cause, Ending, Facts, Goal, Lane, Monitor, Ms, Run, Step};
use crate::model::{Due, VmId};

/// What was last known of a VM, as far as it is logged.
pub(super) struct Journal {
    vm: VmId,
    goal: Goal,
    phase: Phase,
    is_silent: bool,
    is_held: bool,
    is_reset: bool,
    missing: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    Starting,
    Up,
}

impl Journal {
    /// From what the daemon before has stored, so that an end in between is told.
    pub fn of(facts: &Facts) -> Self {
        Self {
            vm: facts.record.definition.id,
            goal: facts.stored.run.goal,
            phase: phase(&facts.stored.run.state),
            is_silent: false,
            is_held: false,
            is_reset: false,
            missing: None,
        }
    }

    /// Something may have happened.
    pub fn note(&mut self, facts: &Facts) {
        let before = std::mem::replace(self, Self::now(facts));
        self.goals(&before, facts.now.monotonic);
        self.phases(&before, facts);
        if !before.is_silent
            && self.is_silent
            && let Monitor::Away { reason, .. } = &facts.seen.monitor
        {
            tracing::warn!(vm = %self.vm, reason, "unresponsive");
        }
        if before.is_silent && facts.is_open() {
            tracing::info!(vm = %self.vm, "its monitor answers again");
        }
        if !before.is_held && self.is_held {
            tracing::warn!(vm = %self.vm, "QEMU was killed, but the kernel still holds it");
        }
        match (&before.missing, &self.missing) {
            (None, Some(missing)) if facts.record.run.upkeep.due == Some(Due::Boot) => {
                tracing::warn!(vm = %self.vm, missing, "it starts when its files are there");
            }
            (None, Some(missing)) => {
                tracing::warn!(vm = %self.vm, missing, "it cannot be started, and nothing of it is removed meanwhile");
            }
            (Some(_), None) => tracing::info!(vm = %self.vm, "the files that were missing are there"),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    fn now(facts: &Facts) -> Self {
        let now = facts.now.monotonic;
        Self {
            vm: facts.record.definition.id,
            goal: facts.goal(),
            phase: phase(&facts.record.run.state),
            is_silent: matches!(facts.seen.monitor, Monitor::Away { tells_at, .. } if tells_at <= now),
            is_held: facts.seen.kernel_holds,
            is_reset: facts.in_flight.get(&Lane::Power) == Some(&Step::Reset),
            missing: facts.seen.missing.clone(),
        }
    }

    fn goals(&self, before: &Self, now: Ms) {
        let vm = self.vm;
        match (before.goal, self.goal) {
            (then, Goal::Off { cause: Cause::Panic }) if then != self.goal => {
                tracing::warn!(%vm, "the guest panicked");
            }
            (Goal::Stop(deadline), Goal::Off { cause: Cause::Cut }) if deadline.at <= now => {
                tracing::info!(%vm, "the time to power off is over; forcing it off");
            }
            (Goal::Stop(_), Goal::Rest) if self.phase == Phase::Up => {
                tracing::info!(%vm, "the guest is left running");
            }
            (_, Goal::Reboot(deadline)) if deadline.at <= now && !before.is_reset && self.is_reset => {
                tracing::info!(%vm, "the guest did not reboot in time; resetting it");
            }
            _ => {}
        }
    }

    fn phases(&self, before: &Self, facts: &Facts) {
        let (vm, upkeep) = (self.vm, facts.record.run.upkeep);
        if before.phase == self.phase {
            return;
        }
        match (&facts.record.run.state, upkeep.due) {
            (Run::Down { last: Ending::Crashed { reason } }, _) => tracing::warn!(%vm, reason, "crashed"),
            (Run::Starting { .. }, Some(Due::Restart { .. })) if facts.seen.launch.unattended => {
                tracing::info!(%vm, attempt = upkeep.attempts, "restarting");
            }
            (Run::Starting { .. }, Some(Due::Boot)) if facts.seen.launch.unattended => {
                tracing::info!(%vm, "starting after the boot of the host");
            }
            _ => {}
        }
    }
}

fn phase(run: &Run) -> Phase {
    match run {
        Run::Making { .. } | Run::Down { .. } => Phase::Down,
        Run::Starting { .. } => Phase::Starting,
        Run::Up(_) => Phase::Up,
    }
}
