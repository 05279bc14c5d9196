//! What a change of the policy means for a running VM: most of it is the daemon's own, but what a disk does with an error
//! is set when it is plugged.

use super::Setback;
use crate::{
    model::{OnIoError, Policy},
    vm::actor::Actor,
};

impl Actor {
    pub(super) async fn adjust_policy(&mut self) -> Result<(), Setback> {
        let wanted = self.record.spec.policy.clone();
        let Some(run) = self.live_run() else { return Ok(()) };
        let before = run.in_effect.policy.clone();
        if before == wanted {
            return Ok(());
        }
        let reports = |policy: &Policy| policy.on_io_error == OnIoError::Report;
        let follows = reports(&before) == reports(&wanted);
        let on_io_error = if follows { wanted.on_io_error } else { before.on_io_error };
        self.record_in_effect(|spec| spec.policy = Policy { on_io_error, ..wanted }).await?;
        // A guest that is halted may go on by itself from now on, or no longer.
        self.refresh().await;
        if follows {
            Ok(())
        } else {
            Err(Setback::NotNow("QEMU is told at its start what it does with an error".into()))
        }
    }
}
