//! File systems of the guest: frozen for who waits for it, and thawed when their time is over.

use super::Wants;
use crate::vm::core::{answer::Until, facts::Facts, goal::Goal, step::Step};

/// Whether that comes before the guest is asked to power off or to reboot: its agent does nothing else until then.
pub(super) fn plan(wants: &mut Wants) -> bool {
    let facts = wants.facts;
    let Some(at) = facts.record.run.frozen else { return false };
    let goes = matches!(facts.goal(), Goal::Stop(_) | Goal::Reboot(_));
    // A halted guest hears nothing. Who waits is told so by the agent's silence.
    let hears = facts.runs() && facts.seen.agent;
    if waits(facts, &Until::Frozen) {
        if facts.is_stored(|record| record.run.frozen == Some(at)) {
            wants.step(Step::Freeze);
        }
    } else if goes && hears || waits(facts, &Until::Thawed) {
        wants.step(Step::Thaw);
        return goes;
    } else if hears && !goes {
        wants.step_at(facts.seen.thaw_next.map_or(at, |next| next.max(at)), Step::Thaw);
    }
    false
}

fn waits(facts: &Facts, until: &Until) -> bool {
    facts.waiting.iter().any(|waiting| waiting.until == *until)
}
