//! What others are shown of a VM: nothing that is not stored, and what the monitor and the process say.

use super::{
    facts::Facts,
    goal::Goal,
    lane::Lane,
    record::{Guest, Run, RunRecord},
    seen::Monitor,
};
use crate::model::{Ending, Status};

/// The status of ruling 22.
pub fn status(facts: &Facts) -> Status {
    status_of(facts, &facts.stored.run)
}

/// What it is where that is stored.
pub(super) fn status_of(facts: &Facts, run: &RunRecord) -> Status {
    match &run.state {
        _ if facts.seen.kernel_holds => Status::Stopping,
        Run::Making { .. } => Status::Starting,
        // One that could not be removed whole is there again.
        Run::Down { .. } if run.goal == Goal::Gone && facts.goal() == Goal::Gone && !gives_up(facts) => {
            Status::Stopping
        }
        Run::Down { last: Ending::Clean } => Status::Stopped,
        Run::Down { last: Ending::Crashed { .. } } => Status::Crashed,
        Run::Starting { .. } => Status::Starting,
        Run::Up(up) => match (&facts.seen.monitor, run.goal) {
            (Monitor::Away { tells_at, .. }, _) if *tells_at <= facts.now.monotonic => Status::Unresponsive,
            (_, Goal::Stop(_) | Goal::Off { .. } | Goal::Gone) => Status::Stopping,
            (_, Goal::Reboot(_)) => Status::Rebooting,
            (_, Goal::Rest | Goal::Pause | Goal::Resume | Goal::Reset) => match up.guest {
                Guest::Running => Status::Running,
                Guest::Paused { .. } => Status::Paused,
            },
        },
    }
}

fn gives_up(facts: &Facts) -> bool {
    facts.stuck.contains_key(&Lane::Files)
}

/// Why it is so, where there is something to say.
pub fn reason(facts: &Facts) -> Option<String> {
    reason_of(facts, &facts.stored.run)
}

pub(super) fn reason_of(facts: &Facts, run: &RunRecord) -> Option<String> {
    match (status_of(facts, run), &run.state, &facts.seen.monitor) {
        (Status::Stopping, _, _) if facts.seen.kernel_holds => Some("the kernel still holds the process".to_owned()),
        (Status::Unresponsive, _, Monitor::Away { reason, .. }) => Some(reason.clone()),
        (Status::Paused, Run::Up(up), _) => match &up.guest {
            Guest::Paused { reason, .. } => reason.clone(),
            Guest::Running => None,
        },
        (Status::Crashed, Run::Down { last: Ending::Crashed { reason } }, _) => Some(reason.clone()),
        _ => None,
    }
}
