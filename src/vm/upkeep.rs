//! Starts that nobody asks for at that moment: after an end, by the restart policy, and after a boot of the host. What is
//! owed stands in the record, and the very write that says that the VM runs strikes it out: no end of the daemon loses a
//! start or makes one twice. The rules are `model::Policy`'s.

use std::time::Duration;

use tokio::time::Instant;

use super::{actor::Actor, adopt::rebooted, live::Instance};
use crate::model::{Due, Ending, Error, LiveRun, Run, Upkeep, now_ms, uptime_ms};

/// What has become of a VM's turn after a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It was not waiting for one.
    Skipped,
    Taken,
    /// Its files are not there yet.
    TooEarly,
}

/// Storage that does not answer by then is not there yet.
const LOOK: Duration = Duration::from_secs(10);

impl Actor {
    /// What is owed after the end that is about to be stored.
    pub(super) fn owed_after(&self, ending: &Ending) -> Upkeep {
        match &self.record.run {
            // The daemon ends its VMs with itself, whoever is quicker.
            Run::Live(_) if self.ctx.ends_vms() => Upkeep::default(),
            Run::Live(run) if !run.intent.is_stop() => {
                let before = self.record.upkeep;
                let after =
                    |upkeep: Upkeep| upkeep.after(&self.record.spec.policy, ending, has_run(run), now_ms()).fixed();
                if self.ctx.closing.has_begun() {
                    // Most likely the host goes down. The next daemon starts it again, and this is no failure of its own.
                    let next = after(Upkeep { attempts: 0, ..before });
                    let owed = next.due.is_some();
                    return if owed { Upkeep { attempts: before.attempts.max(1), ..next } } else { next };
                }
                after(before)
            }
            // A start that failed, or was cut short, leaves owed what was owed.
            Run::Starting { .. } => self.record.upkeep,
            // A client's word counts.
            _ => Upkeep::default(),
        }
    }

    /// When the next restart is due.
    pub(super) fn restart_at(&self) -> Option<Instant> {
        match (&self.record.run, &self.instance, self.record.upkeep.restart()) {
            _ if self.ctx.closing.has_begun() => None,
            (Run::Down { .. }, Instance::Down, Some(restart)) => Some(Instant::now() + restart.left()),
            _ => None,
        }
    }

    pub(super) async fn restart(&mut self) {
        if self.ctx.closing.has_begun() {
            return;
        }
        tracing::info!(vm = %self.record.spec.id, attempt = self.record.upkeep.attempts, "restarting");
        if let Err(error) = self.launch().await {
            self.not_started("it did not start again", &error).await;
        }
    }

    /// Its turn after the boot of the host has come. Storage may be mounted later than the daemon starts: until then it
    /// stays owed.
    pub(super) async fn boot(&mut self) -> Turn {
        if self.record.upkeep.due != Some(Due::Boot) || self.ctx.closing.has_begun() {
            return Turn::Skipped;
        }
        if let (Run::Down { .. }, Instance::Down) = (&self.record.run, &self.instance) {
            let before = self.lookout.missing().cloned();
            if self.look(LOOK).await.is_err() {
                return Turn::TooEarly;
            }
            if let Some(missing) = self.lookout.missing() {
                if before.as_ref() != Some(missing) {
                    tracing::warn!(vm = %self.record.spec.id, missing, "it starts when its files are there");
                }
                return Turn::TooEarly;
            }
        }
        tracing::info!(vm = %self.record.spec.id, "starting after the boot of the host");
        let started = self.start().await;
        if !matches!(self.instance, Instance::Down) && self.record.upkeep.due.take().is_some() {
            // It ran already.
            self.store_upkeep().await;
        }
        if let Err(error) = started {
            self.not_started("it did not start after the boot of the host", &error).await;
        }
        Turn::Taken
    }

    /// A start that nobody waits for has failed: it shows as a crash, and counts as one.
    async fn not_started(&mut self, what: &str, error: &Error) {
        // Where a client or the kernel came in between, they have the word; where the daemon ends, the next one has.
        if self.is_overtaken()
            || self.ctx.closing.has_begun()
            || !matches!((&self.record.run, &self.instance), (Run::Down { .. }, Instance::Down))
        {
            return;
        }
        let ending = Ending::Crashed { reason: format!("{what}: {error}") };
        self.record.upkeep.due = None;
        self.record.upkeep = self.record.upkeep.after(&self.record.spec.policy, &ending, 0, now_ms()).fixed();
        self.record.run = Run::Down { last: ending };
        self.store_upkeep().await;
    }

    async fn store_upkeep(&mut self) {
        if let Err(error) = self.ctx.persist(&self.record).await {
            tracing::warn!(vm = %self.record.spec.id, %error, "cannot store what became of a start");
        }
    }
}

/// For how many milliseconds. Only after a boot of the host nothing but the wall clock tells.
fn has_run(run: &LiveRun) -> u64 {
    if rebooted(&run.process.boot_id) {
        now_ms().saturating_sub(run.started_at)
    } else {
        uptime_ms().saturating_sub(run.process.started())
    }
}
