//! What is to be done with a live VM: it stands in the record before anything is done, so that it holds over the death of
//! the daemon, and its deadline decides when the guest is no longer asked. Carrying it out is `power`'s work.

use tokio::time::Instant;

use super::{actor::Actor, live::Instance};
use crate::{
    model::{Ending, Error, Intent, Moment, Operation, Result, Run},
    qmp::ShutdownMode,
};

impl Actor {
    pub(super) fn intent(&self) -> Intent {
        match &self.record.run {
            Run::Live(run) => run.intent,
            _ => Intent::Run,
        }
    }

    /// When the guest's time to stop or reboot is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.intent(), &self.instance) {
            // A process that SIGKILL did not end ends when the kernel lets go of it.
            (_, Instance::Killed(_)) | (Intent::Run, _) => None,
            // Only a monitor that answers can reset the guest; when it is back the reboot is taken up again.
            (Intent::Reboot { .. }, Instance::Mute(_)) => None,
            // A guest that has powered off waits for QEMU to close its images: it has the time.
            (Intent::Off { by_client: false }, _) => None,
            (Intent::Off { by_client: true }, _) => Some(Instant::now()),
            (intent @ (Intent::Stop { .. } | Intent::Reboot { .. }), _) => {
                intent.deadline().map(|deadline| Instant::now() + deadline.left())
            }
        }
    }

    /// Stores what is about to be done before anything is done.
    pub(super) async fn intend(&mut self, intent: Intent, operation: Operation) -> Result<()> {
        let Run::Live(run) = &mut self.record.run else { return Ok(()) };
        if run.intent == intent {
            return Ok(());
        }
        let before = std::mem::replace(&mut run.intent, intent);
        if let Err(error) = self.ctx.persist(&self.record).await {
            if let Run::Live(run) = &mut self.record.run {
                run.intent = before;
            }
            return Err(Error::failed(operation, error));
        }
        Ok(())
    }

    /// Goes on with what an earlier daemon, or a monitor that was mute, had begun.
    pub(super) async fn take_up_intent(&mut self) {
        match self.intent() {
            // A process that is to end has no time left: its deadline does the rest.
            Intent::Run | Intent::Off { by_client: true } => {}
            Intent::Off { by_client: false } => self.quit(Ending::Clean).await,
            Intent::Stop { .. } => drop(self.ask_guest(ShutdownMode::Powerdown).await),
            Intent::Reboot { .. } => drop(self.ask_guest(ShutdownMode::Reboot).await),
        }
    }
}

/// What a stop means beside one under way: several share one deadline, the earliest, as each was promised to be over by
/// its own; but one that leaves the guest running does not hasten one that cuts its power.
pub(super) fn joined(under_way: Intent, deadline: Moment, agent_only: bool) -> Intent {
    match under_way {
        Intent::Stop { agent_only: other, .. } if other == agent_only => match under_way.deadline() {
            Some(earlier) if !deadline.is_before(earlier) => under_way,
            _ => Intent::stop(deadline, agent_only),
        },
        Intent::Stop { agent_only: false, .. } => under_way,
        // What is being cut already goes on being cut.
        Intent::Off { by_client: true } => under_way,
        // A guest that has powered off, of a QEMU that does not end: it has no deadline of its own.
        Intent::Off { by_client: false } | Intent::Stop { .. } | Intent::Run | Intent::Reboot { .. } => {
            Intent::stop(deadline, agent_only)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_always_ends_in_a_cut_unless_it_is_the_agents_alone() {
        // The wall clock was set back in between: it does not count.
        let at = |monotonic| Moment { at: 10 - monotonic, monotonic: Some(monotonic) };
        let (soon, late) = (Intent::stop(at(1), false), Intent::stop(at(9), false));
        for under_way in [Intent::Run, Intent::reboot(at(5), false), Intent::Off { by_client: false }] {
            assert_eq!(joined(under_way, at(9), false), late);
        }
        assert_eq!(joined(soon, at(9), false), soon, "the earliest deadline holds");
        assert_eq!(joined(late, at(1), false), soon);
        assert_eq!(joined(late, at(1), true), late, "one of the agent alone does not hasten it");
        assert_eq!(joined(Intent::stop(at(1), true), at(9), false), late);
        assert_eq!(joined(Intent::Off { by_client: true }, at(9), false), Intent::Off { by_client: true });
    }
}
