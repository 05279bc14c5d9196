//! What a VM's task tells everybody else: nothing that is not stored, and what its process and its monitor say.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    census::Census,
    core::{Facts, Guest, Monitor, difference, reason, status},
};
use crate::model::{Status, VmSpec, VmView};

/// Where it is told.
pub(super) struct Public {
    view: watch::Sender<VmView>,
    census: Arc<Census>,
}

impl Public {
    pub fn new(facts: &Facts, census: Arc<Census>) -> (Self, watch::Receiver<VmView>) {
        let first = view(facts, None);
        census.publish(&first);
        let (view, reader) = watch::channel(first);
        (Self { view, census }, reader)
    }

    pub fn tell(&self, facts: &Facts, pid: Option<i32>) -> VmView {
        let now = view(facts, pid);
        self.census.publish(&now);
        self.view.send_replace(now.clone());
        now
    }

    pub fn subscribe(&self) -> watch::Receiver<VmView> {
        self.view.subscribe()
    }
}

fn view(facts: &Facts, pid: Option<i32>) -> VmView {
    let (status, why) = (status(facts), reason(facts));
    let run = &facts.stored.run;
    let up = run.up();
    let halted = up.is_some_and(|up| matches!(up.guest, Guest::Paused { critical: true, .. }));
    let silent = match &facts.seen.monitor {
        Monitor::Away { tells_at, .. } => *tells_at > facts.now.monotonic,
        Monitor::None | Monitor::Open => false,
    };
    VmView {
        spec: facts.stored.definition.clone(),
        in_effect: up.map(|up| up.in_effect.clone()),
        status,
        why,
        failed_start: run.failed_start.clone(),
        missing: facts.seen.missing.clone(),
        critical: halted && status == Status::Paused,
        pid: pid.filter(|_| up.is_some() || facts.seen.kernel_holds),
        sandbox: up.and_then(|up| up.sandbox.clone()),
        started_on_the_wall: up.map(|up| up.started_at),
        started: up.map(|up| up.process.started()),
        upkeep: run.upkeep,
        agent: facts.is_open() && facts.seen.agent,
        taken_over: !silent && !matches!(status, Status::Starting | Status::Stopping),
        gone: facts.gone,
    }
}

/// A VM as one change has left it, without what has come since.
pub(super) fn as_left(view: VmView, left: &Arc<VmSpec>) -> VmView {
    if view.spec == *left {
        return view;
    }
    let in_effect = view.in_effect.map(|in_effect| Arc::new(difference::without(&in_effect, left, &view.spec)));
    VmView { spec: left.clone(), in_effect, ..view }
}
