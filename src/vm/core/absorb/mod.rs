//! What happened: a sight of something that came by itself, or the outcome of a step. It becomes a fact, and what follows
//! from it is `bring_to_rest`'s and the plan's.

mod device;
mod files;
mod freeze;
mod look;
mod power;
mod sight;
mod store;

pub(super) use power::end_run_as;

use super::{
    answer::{Effects, Until},
    change,
    due::bring_to_rest,
    facts::{Facts, Now, Stuck},
    lane::Lane,
    seen::{Monitor, Sight},
    step::{Outcome, Setback, Step},
};
use crate::model::{Error, Operation};

/// The host fails at something once more: twice as long.
const FIRST_PAUSE: u64 = 1_000;
const LONGEST_PAUSE: u64 = 60_000;
/// Between two tries at a monitor.
const RETRY: u64 = 250;
/// A monitor that closes because its process ends is a matter of microseconds.
const EXIT_GRACE: u64 = 200;

/// What the VM's task tells its core.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    Sight(Sight),
    /// The step of that lane has ended.
    Outcome(Lane, Outcome),
}

/// Takes in what happened.
pub fn absorb(facts: &mut Facts, now: Now, report: Report) -> Effects {
    facts.now = now;
    match report {
        Report::Sight(sight) => sight::see(facts, sight),
        Report::Outcome(lane, outcome) => {
            if let Some(step) = facts.end_step(lane) {
                conclude(facts, step, outcome);
            }
        }
    }
    bring_to_rest(facts)
}

fn conclude(facts: &mut Facts, step: Step, outcome: Outcome) {
    if let Outcome::Failed(Setback::Lost(why)) = &outcome {
        lose(facts, why);
    }
    look::overtake(facts, step.lane());
    match step {
        Step::Commit(txn) => store::committed(facts, *txn, outcome),
        Step::Kill | Step::EndStrays => power::ended(facts, &step, outcome),
        Step::Prepare | Step::Spawn | Step::Greet | Step::Tune => power::launched(facts, &step, outcome),
        Step::Continue | Step::Pause | Step::Reset | Step::Quit | Step::GoOn => power::done(facts, &step, outcome),
        Step::Connect | Step::Look { .. } => look::looked(facts, &step, outcome),
        Step::AskGuest { .. } | Step::PressButton => power::requested(facts, &step, outcome),
        Step::Freeze | Step::Thaw => freeze::concluded(facts, &step, outcome),
        Step::FindFiles | Step::CheckRemovable | Step::Erase { .. } | Step::RemoveRunFiles => {
            files::concluded(facts, &step, outcome);
        }
        Step::CheckImage(no) | Step::MakeImage(no, _) | Step::RemoveImage(no) | Step::GrowImage(no, _) => {
            files::image(facts, no, &step, outcome);
        }
        Step::PlugDisk(_)
        | Step::ReleaseDisk(_)
        | Step::CloseDisk(_)
        | Step::ResizeDisk(..)
        | Step::ThrottleDisk(..)
        | Step::ConnectNic(_)
        | Step::AdoptNic(_)
        | Step::DisconnectNic(_)
        | Step::PlugNic(_)
        | Step::ReleaseNic(_)
        | Step::CloseNic(_)
        | Step::PutPort(_)
        | Step::SetVcpus(_)
        | Step::Pin(_)
        | Step::SetMemory(_)
        | Step::ReadMemory
        | Step::ExchangeMedium(_) => device::concluded(facts, step, outcome),
    }
}

/// The monitor did not answer: its session is over, and another one is sought.
fn lose(facts: &mut Facts, why: &str) {
    if facts.is_open() {
        let now = facts.now.monotonic;
        facts.seen.devices_known = false;
        facts.seen.monitor = Monitor::Away {
            reason: format!("its monitor does not answer: {why}"),
            tells_at: now + EXIT_GRACE,
            next_try: now + RETRY,
        };
    }
}

/// What the host failed at is tried again, each time after twice as long.
fn again(facts: &mut Facts, lane: Lane, why: String) {
    let times = facts.stuck.get(&lane).map_or(0, |stuck| stuck.times);
    let pause = FIRST_PAUSE.saturating_mul(1 << times.min(16)).min(LONGEST_PAUSE);
    let again = Some(facts.now.monotonic + pause);
    facts.stuck.insert(lane, Stuck { why, again, times: times + 1 });
}

/// Nothing but a change, the guest or a start can help.
fn not_now(facts: &mut Facts, lane: Lane, why: String) {
    facts.stuck.insert(lane, Stuck { why, again: None, times: 0 });
}

/// What is wanted of a lane cannot be: changes that somebody waits for are taken back, the latest first. Returns whether
/// there were any.
fn take_back(facts: &mut Facts, lane: Lane, error: &Error) -> bool {
    let concerned = |until: &Until| match until {
        Until::Applied { lanes, .. } | Until::Grown { lanes, .. } => lanes.contains(&lane),
        _ => false,
    };
    let mut any = false;
    for at in (0..facts.waiting.len()).rev() {
        let until = &facts.waiting[at].until;
        if let Until::Applied { before, after, .. } | Until::Grown { before, after, .. } = until
            && concerned(until)
        {
            let (before, after) = (before.clone(), after.clone());
            change::take_back(facts, &before, &after);
            any = true;
        }
    }
    facts.answer_instead(concerned, &Err(error.clone()));
    any
}

/// The same, of a setback of a change; without anybody who waits it is for the next start.
fn set_back(facts: &mut Facts, lane: Lane, setback: Setback) {
    let error = match setback {
        Setback::NotNow(why) => return not_now(facts, lane, why),
        // It is taken up again when the monitor is back.
        Setback::Lost(_) => return,
        Setback::Reported(error) | Setback::Foreign(error) => error,
        Setback::Refused(why) | Setback::Host(why) | Setback::NotStored(why) | Setback::StoreSilent(why) => {
            Error::failed(Operation::Change, why)
        }
        Setback::Held => Error::failed(Operation::Change, "the kernel holds the process"),
    };
    if !take_back(facts, lane, &error) {
        not_now(facts, lane, error.to_string());
    }
}
