//! File systems of a guest that are frozen, or thawed. That they may be frozen is stored before it is done, and not forgotten
//! before they are thawed or the guest is gone: whatever becomes of who wanted it, or of the daemon, they thaw by themselves.

use crate::{
    model::{Conflict, Error, Operation},
    vm::core::{
        answer::{Answer, Until},
        facts::Facts,
        goal::Goal,
        step::{Outcome, Report, Setback, Step},
    },
};

/// Between two tries to thaw.
const AGAIN: u64 = 3_000;

pub(super) fn concluded(facts: &mut Facts, step: &Step, outcome: Outcome) {
    if facts.up().is_none() {
        return;
    }
    match step {
        Step::Freeze => frozen(facts, outcome),
        _ => thawed(facts, outcome),
    }
}

fn frozen(facts: &mut Facts, outcome: Outcome) {
    let answer = match outcome {
        Outcome::Done(report) => {
            let count = count(&report);
            // A guest without any has nothing to thaw.
            facts.record.run.frozen = facts.record.run.frozen.filter(|_| count > 0);
            Ok(Answer::Frozen(count))
        }
        Outcome::Failed(setback) => {
            let error = error(setback);
            let refused =
                matches!(error, Error::AgentLacks { .. } | Error::GuestRefuses { .. } | Error::NoAgent { .. });
            facts.record.run.frozen = (!refused).then_some(facts.now.monotonic);
            Err(error)
        }
        // Something else is wanted of the guest; it may be frozen.
        Outcome::Cut => {
            facts.record.run.frozen = Some(facts.now.monotonic);
            Err(Conflict::Overtaken.into())
        }
    };
    facts.answer_instead(|until| *until == Until::Frozen, &answer);
}

fn thawed(facts: &mut Facts, outcome: Outcome) {
    let answer = match outcome {
        Outcome::Done(report) => {
            (facts.record.run.frozen, facts.seen.thaw_next) = (None, None);
            Ok(Answer::Thawed(count(&report)))
        }
        Outcome::Failed(setback) => {
            let error = error(setback);
            // One that is on its way down is not waited for, and one whose agent cannot thaw has not frozen.
            let goes = matches!(facts.goal(), Goal::Stop(_) | Goal::Reboot(_));
            match goes || matches!(error, Error::AgentLacks { .. }) {
                true => facts.record.run.frozen = None,
                false => facts.seen.thaw_next = Some(facts.now.monotonic + AGAIN),
            }
            Err(error)
        }
        Outcome::Cut => return,
    };
    facts.answer_instead(|until| *until == Until::Thawed, &answer);
}

fn count(report: &Report) -> u64 {
    match report {
        Report::FileSystems(count) => *count,
        _ => 0,
    }
}

fn error(setback: Setback) -> Error {
    match setback {
        Setback::Reported(error) | Setback::Foreign(error) => error,
        Setback::NotNow(why)
        | Setback::Refused(why)
        | Setback::Host(why)
        | Setback::Lost(why)
        | Setback::NotStored(why)
        | Setback::StoreSilent(why) => Error::failed(Operation::AskGuest, why),
        Setback::Held => Error::failed(Operation::AskGuest, "the kernel holds the process"),
    }
}
