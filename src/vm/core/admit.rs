//! Takes requests in: in their order, but for the forced ones, which overtake. What is done about one is `take`'s.

use super::{
    answer::{Answer, Effects, Ticket, Until},
    change::take_back,
    due::bring_to_rest,
    facts::{Facts, Now},
    goal::Goal,
    lane::Lane,
    request::Request,
    take::take,
};
use crate::model::{Conflict, Error};

/// Ordinary requests that may wait for one VM.
const MOST_WAITING: usize = 64;

/// Takes a request in. One that was `overtaken` came before a forced one that has been admitted by now.
pub fn admit(facts: &mut Facts, now: Now, ticket: Ticket, request: Request, overtaken: bool) -> Effects {
    facts.now = now;
    facts.stuck.remove(&Lane::Store);
    if request.is_forced() {
        overtake(facts);
    }
    let full = facts.waiting.len() + facts.later.len() >= MOST_WAITING;
    if overtaken {
        answer_overtaken(facts, ticket, &request);
    } else if full && !request.is_forced() {
        facts.refuse(ticket, Error::Busy(facts.record.definition.id));
    } else if !request.is_forced() && !facts.later.is_empty() {
        // Behind one that has to wait, everything waits: requests are done in their order.
        facts.later.push((ticket, request));
    } else {
        take(facts, ticket, request);
    }
    bring_to_rest(facts)
}

/// A forced stop or a delete has come: what came before it is over (ruling 8).
fn overtake(facts: &mut Facts) {
    let overtaken = || Err(Error::Conflict(Conflict::Overtaken));
    for (ticket, request) in std::mem::take(&mut facts.later) {
        answer_overtaken(facts, ticket, &request);
    }
    // The latest first: each is taken back from what it has left.
    for at in (0..facts.waiting.len()).rev() {
        if let Until::Applied { before, after, .. } | Until::Grown { before, after, .. } = &facts.waiting[at].until {
            let (before, after) = (before.clone(), after.clone());
            take_back(facts, &before, &after);
        }
    }
    let reboots = matches!(facts.goal(), Goal::Reboot(_));
    facts.answer_instead(
        |until| match until {
            // It was not stored yet that it is to reboot, and it is not going to be.
            Until::Stored(Ok(Answer::Done)) => reboots,
            Until::Applied { .. }
            | Until::Grown { .. }
            | Until::OffThenGone(_)
            | Until::Halted
            | Until::GoesOn
            | Until::WasReset
            | Until::Requested
            | Until::Frozen
            | Until::Thawed
            | Until::Turn => true,
            // Starts are taken back with what they have begun.
            Until::Up
            | Until::Made
            | Until::TakenBack(_)
            | Until::Stored(_)
            | Until::Cleared { .. }
            | Until::Off(_)
            | Until::Gone => false,
        },
        &overtaken(),
    );
}

fn answer_overtaken(facts: &mut Facts, ticket: Ticket, request: &Request) {
    match request {
        Request::Stop(_) if facts.record.run.is_down() || facts.gone => {
            facts.wait(ticket, Until::Stored(Ok(Answer::Stopped { forced: true })));
        }
        // The kernel, or the store, stands in the way of the other one.
        Request::Stop(_) => facts.wait(ticket, Until::Off(None)),
        Request::Start
        | Request::StopAndDelete(_)
        | Request::ForceOff
        | Request::Reboot(_)
        | Request::Reset
        | Request::Restart(_)
        | Request::Suspend
        | Request::Resume
        | Request::Freeze(_)
        | Request::Thaw
        | Request::Boot
        | Request::Change(_)
        | Request::Redefine(_)
        | Request::Delete => facts.refuse(ticket, Conflict::Overtaken.into()),
    }
}
