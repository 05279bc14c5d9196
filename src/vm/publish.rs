//! What the VM's task tells everybody else: its status, derived from the record and the process, never stored.

use super::{
    actor::Actor,
    live::{Guest, Instance},
};
use crate::model::{Ending, Intent, Run, Sample, Status, VmView};

impl Actor {
    pub(super) fn status(&self) -> (Status, Option<String>) {
        match (&self.record.run, &self.instance) {
            (_, Instance::Killed(_)) => (Status::Stopping, Some("the kernel still holds the process".into())),
            (Run::Deleting, _) => (Status::Stopping, None),
            (Run::Creating | Run::Starting { .. }, _) => (Status::Starting, None),
            (Run::Down { last: Ending::Clean }, _) => (Status::Stopped, None),
            (Run::Down { last: Ending::Crashed { reason } }, _) => (Status::Crashed, Some(reason.clone())),
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

    pub(super) fn publish(&self) {
        let (status, why) = self.status();
        let (started_on_the_wall, started, in_effect) = match &self.record.run {
            Run::Live(run) => (Some(run.started_at), Some(run.process.started()), Some(run.in_effect.clone())),
            _ => (None, None, None),
        };
        let pid = self.instance.process().map(|p| p.pid());
        let agent = matches!(&self.instance, Instance::Live(live) if live.agent);
        let halted = matches!(&self.instance, Instance::Live(live) if matches!(live.guest, Guest::Paused { critical: true, .. }));
        let critical = halted && status == Status::Paused;
        let (spec, upkeep, gone) = (self.record.spec.clone(), self.record.upkeep, self.gone);
        self.view.send_replace(VmView {
            spec,
            in_effect,
            status,
            why,
            missing: self.lookout.missing().cloned(),
            critical,
            pid,
            started_on_the_wall,
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
