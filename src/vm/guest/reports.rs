//! What guests told of their addresses last, and when they are asked again: a read waits for a guest only a moment, and the daemon
//! asks each once by itself, so that a list has what nobody has looked at.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Guest, GuestInterface};
use crate::{
    model::{Status, VmId, VmView},
    vm::Context,
};

/// How long a read waits for a guest agent; one that is there answers in milliseconds.
const MOMENT: Duration = Duration::from_secs(1);
/// How long a guest is not asked again, also where it said nothing.
pub(crate) const FRESH: Duration = Duration::from_secs(5);
/// The same for the daemon itself, of a guest that says nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the agents of the guests told last.
#[derive(Default)]
pub struct Reports(Mutex<HashMap<VmId, Known>>);

/// What is known of a guest for as long as it runs.
struct Known {
    /// The process that it runs in: what the guest of another told is not true any more.
    pid: Option<i32>,
    requested: Instant,
    report: Report,
}

/// What a guest told last.
#[derive(Clone)]
pub(crate) struct Report {
    pub at: Instant,
    pub interfaces: Vec<GuestInterface>,
}

impl Known {
    fn is_of(&self, view: &VmView) -> bool {
        view.in_effect.is_some() && view.pid == self.pid
    }
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, HashMap<VmId, Known>> {
        // Every change under the lock is one insertion, or whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a guest told last, without asking it.
    pub(crate) fn last(&self, view: &VmView) -> Vec<GuestInterface> {
        let all = self.lock();
        let known = all.get(&view.spec.id).filter(|known| known.is_of(view));
        known.map(|known| known.report.interfaces.clone()).unwrap_or_default()
    }
}

/// What a guest tells, or else told last since it was started.
pub(crate) async fn report(ctx: &Context, guest: &Guest, view: &VmView) -> Report {
    let id = view.spec.id;
    let last = {
        let mut all = ctx.reports.lock();
        let known = all.get(&id).filter(|known| known.is_of(view));
        let nothing = || Report { at: Instant::now(), interfaces: Vec::new() };
        let last = known.map_or_else(nothing, |known| known.report.clone());
        let is_fresh = known.is_some_and(|known| known.requested.elapsed() < FRESH);
        // One that is paused cannot answer, and would do so to nobody when it goes on.
        if is_fresh || !view.agent || view.status == Status::Paused {
            return last;
        }
        if !all.contains_key(&id) {
            all.retain(|id, _| ctx.census.knows(*id));
        }
        // Whoever reads in the meantime does not ask as well: an agent serves one at a time.
        all.insert(id, Known { pid: view.pid, requested: Instant::now(), report: last.clone() });
        last
    };
    let interfaces = guest.interfaces(MOMENT).await;
    if interfaces.is_empty() {
        return last;
    }
    let report = Report { at: Instant::now(), interfaces };
    ctx.reports.lock().insert(id, Known { pid: view.pid, requested: report.at, report: report.clone() });
    report
}

/// When the daemon asks a guest by itself: once its agent is there, until it has told an address. So a list has it, which asks nobody.
#[derive(Default)]
pub(in crate::vm) struct Asking {
    /// And how long after that again; none before its agent has come.
    next: Option<(Instant, Duration)>,
}

impl Asking {
    /// Whether it is time to ask, by how the VM is now.
    pub fn is_due(&mut self, ctx: &Context, view: &VmView) -> bool {
        if !view.agent {
            self.next = None;
            return false;
        }
        let now = Instant::now();
        let (at, wait) = self.next.unwrap_or((now, FRESH));
        if now < at {
            return false;
        }
        let has_come = self.next.is_none();
        self.next = Some((now + wait, PATIENCE.min(2 * wait)));
        // Somebody else may have asked it meanwhile.
        let has_told = || ctx.reports.last(view).iter().any(|interface| !interface.addresses.is_empty());
        has_come || !has_told()
    }
}
