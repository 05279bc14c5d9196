//! Takes a request back that somebody waits for: what it has begun is undone by the plan, as far as that can be. It touches
//! nothing that others wait for: of several who wait for a stop each takes back their own deadline, and the last one the stop. When something else overtakes a request is `admit`'s.

use super::{
    answer::{Effects, Ticket, Until},
    change::take_back,
    due::bring_to_rest,
    facts::{Facts, Now},
    goal::Goal,
    lane::Lane,
    take::{cut_launch, set_stop},
};
use crate::model::{Conflict, Disk, Error, VmSpec};

/// What is told of one that has its answer, or is about to have it.
const OVER: &str = "it is as good as done";

/// Has a request answered as cancelled, once what it has begun is taken back and that is stored.
///
/// # Errors
/// Why it goes on.
pub fn withdraw(facts: &mut Facts, now: Now, ticket: Ticket) -> Result<Effects, &'static str> {
    facts.now = now;
    if let Some(at) = facts.later.iter().position(|(later, _)| *later == ticket) {
        facts.later.remove(at);
        facts.refuse(ticket, Conflict::Cancelled.into());
        return Ok(bring_to_rest(facts));
    }
    let waiting = facts.waiting.iter().find(|waiting| waiting.ticket == ticket);
    match waiting.map(|waiting| waiting.until.clone()).ok_or(OVER)? {
        // It is a VM that nobody else knows of.
        Until::Made => cut_launch(facts, Conflict::Cancelled),
        Until::Applied { lanes, before, after, .. } => {
            if has_grown(&before, &after) {
                return Err("a disk that grows does not shrink again");
            }
            let mut others = facts.waiting.iter().filter(|waiting| waiting.ticket != ticket);
            if others.any(|other| concerned(&other.until).iter().any(|lane| lanes.contains(lane))) {
                return Err("others wait for the same");
            }
            lanes.iter().for_each(|lane| drop(facts.stuck.remove(lane)));
            take_back(facts, &before, &after);
            facts.answer_one_instead(ticket, cancelled());
        }
        Until::Off(_) | Until::OffThenGone(_) => {
            if !matches!(facts.goal(), Goal::Stop(_)) || facts.seen.kernel_holds {
                return Err("its power is being cut");
            }
            facts.answer_one_instead(ticket, cancelled());
            // The guest was asked, and may power off all the same.
            set_stop(facts, wanted_by_others(facts));
        }
        Until::Grown { .. } => return Err("a change of a VM that is off is done at once"),
        Until::Up => return Err("a start is not taken back by itself; stop the VM with force"),
        Until::Gone => return Err("what is deleted does not come back"),
        Until::Halted
        | Until::GoesOn
        | Until::WasReset
        | Until::Requested
        | Until::Frozen
        | Until::Thawed
        | Until::Turn => {
            return Err("it is done at once, or not at all");
        }
        Until::Stored(_) | Until::TakenBack(_) | Until::Cleared { .. } => return Err(OVER),
    }
    Ok(bring_to_rest(facts))
}

/// What those want who still wait for a stop, by their own deadlines; nothing where nobody does.
fn wanted_by_others(facts: &Facts) -> Goal {
    facts.waiting.iter().fold(Goal::Rest, |goal, waiting| match waiting.until {
        Until::Off(Some(deadline)) | Until::OffThenGone(deadline) => goal.joined_by_stop(deadline),
        // It came before a forced one, and the guest has no time.
        Until::Off(None) => facts.goal(),
        _ => goal,
    })
}

/// What a change is about that somebody waits for.
fn concerned(until: &Until) -> &[Lane] {
    match until {
        Until::Applied { lanes, .. } | Until::Grown { lanes, .. } | Until::Cleared { lanes, .. } => lanes,
        _ => &[],
    }
}

fn cancelled<T>() -> Result<T, Error> {
    Err(Conflict::Cancelled.into())
}

fn has_grown(before: &VmSpec, after: &VmSpec) -> bool {
    let grows = |disk: &Disk| before.disk(&disk.name).is_some_and(|then| then.size < disk.size);
    after.disks.iter().any(grows)
}
