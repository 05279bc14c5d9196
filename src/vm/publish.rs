//! What the VM's task tells everybody else: its status, derived from the record and the process, never stored.

use std::time::{Duration, UNIX_EPOCH};

use super::{
    actor::Actor,
    live::{Guest, Instance},
};
use crate::model::{Due, Ending, Intent, Run, Sample, Status, Upkeep, VmView};

impl Actor {
    pub(super) fn status(&self) -> (Status, Option<String>) {
        match (&self.record.run, &self.instance) {
            (_, Instance::Killed(_)) => (Status::Stopping, Some("the kernel still holds the process".into())),
            (Run::Deleting, _) => (Status::Stopping, None),
            (Run::Creating | Run::Starting { .. }, _) => (Status::Starting, None),
            (Run::Down { last: Ending::Clean }, _) => (Status::Stopped, self.lacking()),
            (Run::Down { last: Ending::Crashed { reason } }, _) => {
                let owed = self.lacking().map(|owed| format!("; {owed}"));
                (Status::Crashed, Some(reason.clone() + owed.as_deref().unwrap_or_default()))
            }
            (Run::Live(_), Instance::Mute(mute)) => (Status::Unresponsive, Some(mute.reason.clone())),
            (Run::Live(run), instance) => match (run.intent, instance) {
                (Intent::Stop { .. } | Intent::Off { .. }, _) => (Status::Stopping, None),
                (Intent::Reboot { .. }, _) => (Status::Rebooting, None),
                (Intent::Run, Instance::Live(live)) => match &live.guest {
                    Guest::Running => (Status::Running, None),
                    Guest::Paused { reason, .. } => (Status::Paused, reason.clone()),
                },
                (Intent::Run, _) => (Status::Stopped, None),
            },
        }
    }

    /// What there is to say of a VM that is down: what it lacks, and its next start.
    fn lacking(&self) -> Option<String> {
        match (&self.missing, self.owed()) {
            (Some(missing), Some(owed)) => Some(format!("{missing}; {owed}")),
            (missing, owed) => missing.clone().or(owed),
        }
    }

    /// The start that comes by itself, or no longer does.
    fn owed(&self) -> Option<String> {
        let Upkeep { attempts, due } = self.record.upkeep;
        match due {
            Some(Due::Restart { at, .. }) => {
                let at = UNIX_EPOCH + Duration::from_millis(at);
                Some(format!("restart {attempts} follows at {}", humantime::format_rfc3339_seconds(at)))
            }
            Some(Due::Boot) => Some("it starts when it is its turn after the boot of the host".to_owned()),
            None if attempts > 0 => Some(format!("given up after {attempts} restarts in a row")),
            None => None,
        }
    }

    pub(super) fn publish(&self) {
        let (status, reason) = self.status();
        let (started_at, started, in_effect) = match &self.record.run {
            Run::Live(run) => (Some(run.started_at), Some(run.process.started()), Some(run.in_effect.clone())),
            _ => (None, None, None),
        };
        let pid = self.instance.process().map(|p| p.pid());
        let agent = matches!(&self.instance, Instance::Live(live) if live.agent);
        let halted =
            matches!(&self.instance, Instance::Live(live) if matches!(live.guest, Guest::Paused { critical: true, .. }));
        let critical = halted && status == Status::Paused;
        let (spec, upkeep, gone) = (self.record.spec.clone(), self.record.upkeep, self.gone);
        self.view.send_replace(VmView {
            spec,
            in_effect,
            status,
            reason,
            critical,
            pid,
            started_at,
            started,
            upkeep,
            agent,
            gone,
        });
    }

    pub(super) fn publish_sample(&self, sample: Option<Sample>) {
        self.sample.send_replace(sample);
    }
}
