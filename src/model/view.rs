//! What is known of a VM right now, as its task last published it. Reads take this and never wait for a VM.

use std::sync::Arc;

use super::{FailedStart, Role, Sandbox, Status, Upkeep, VmSpec, uptime_ms, wall_at_uptime, wall_time_of};

/// One VM as published.
#[derive(Clone, Debug)]
pub struct VmView {
    pub spec: Arc<VmSpec>,
    /// What QEMU has, while it runs.
    pub in_effect: Option<Arc<VmSpec>>,
    pub status: Status,
    /// Why it is paused, crashed or unresponsive.
    pub why: Option<String>,
    /// Why the last start came to nothing, until one succeeds.
    pub failed_start: Option<Arc<FailedStart>>,
    /// A file that its next start would not find.
    pub missing: Option<String>,
    /// It is paused by an I/O or internal error.
    pub critical: bool,
    /// QEMU's process, while there is one.
    pub pid: Option<i32>,
    /// What its QEMU was started in, while it runs.
    pub sandbox: Option<Sandbox>,
    /// The start of its process, as the clock on the wall said then, in milliseconds since 1970.
    pub started_on_the_wall: Option<u64>,
    /// The same by `uptime_ms`: no setting of the clock makes it younger or older.
    pub started: Option<u64>,
    /// Starts that it is owed.
    pub upkeep: Upkeep,
    /// Its guest agent has opened its port.
    pub agent: bool,
    /// Nothing of an earlier daemon's is under way any more, and its monitor answers or has had its time.
    pub taken_over: bool,
    /// Deleted: the VM is gone for good, its id answers 404.
    pub gone: bool,
}

impl VmView {
    /// As this role may read it: its definition names its files to all, and what failed to those who work with it.
    #[must_use]
    pub fn shown_to(self, role: Role) -> Self {
        let shown = |said: Option<String>| said.map(|said| role.shown(said));
        let of_start =
            |failed: Arc<FailedStart>| Arc::new(FailedStart { why: role.shown(failed.why.clone()), ..*failed });
        Self {
            why: shown(self.why),
            missing: shown(self.missing),
            failed_start: self.failed_start.map(of_start),
            ..self
        }
    }

    /// For how many seconds it has been running.
    pub fn uptime(&self) -> Option<u64> {
        self.started.map(|since| uptime_ms().saturating_sub(since) / 1000)
    }

    /// Since when, by the clock on the wall as it stands now, in milliseconds since 1970.
    pub fn started_at(&self) -> Option<u64> {
        self.started_on_the_wall.zip(self.started).map(|(said, since)| wall_time_of(said, wall_at_uptime(since)))
    }

    /// All there is to say of its status: of one that is down also what it lacks, and its next start.
    pub fn reason(&self) -> Option<String> {
        let down = self.in_effect.is_none() && matches!(self.status, Status::Stopped | Status::Crashed);
        let further = if down { [self.missing.clone(), self.upkeep.owed()] } else { [None, None] };
        let said: Vec<String> = [self.why.clone()].into_iter().chain(further).flatten().collect();
        (!said.is_empty()).then(|| said.join("; "))
    }
}
