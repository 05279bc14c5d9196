//! What came of a commit. What could not be stored is taken back where that is possible: a wish of a client, a goal that
//! nothing was done for yet. What has happened is stored as soon as the store can.

use super::again;
use crate::{
    model::{Conflict, Error, Operation},
    vm::core::{
        answer::{Answer, Until},
        change,
        facts::Facts,
        goal::{Cause, Goal},
        lane::Lane,
        record::Run,
        step::{Outcome, Setback, Txn},
    },
};

pub(super) fn committed(facts: &mut Facts, txn: Txn, outcome: Outcome) {
    let why = match outcome {
        Outcome::Done(_) => return stored(facts, txn),
        Outcome::Failed(Setback::NotStored(why)) => why,
        Outcome::Failed(Setback::StoreSilent(why)) => {
            facts.seen.unsure = true;
            facts.may_be_told(&txn);
            why
        }
        Outcome::Failed(_) | Outcome::Cut => {
            facts.seen.unsure = true;
            facts.may_be_told(&txn);
            "the store was not asked to the end".to_owned()
        }
    };
    if txn.record.is_some() && txn.is_wish {
        take_back_wishes(facts, &why);
    }
    take_back_goal(facts, &why);
    take_back_freeze(facts, &why);
    for at in 0..facts.waiting.len() {
        if let Until::Stored(Ok(answer)) = facts.waiting[at].until
            && facts.waiting[at].commit <= txn.number
            && facts.waiting[at].commit > 0
        {
            facts.waiting[at].until = Until::Stored(Err(Error::failed(operation(answer), &why)));
        }
    }
    // The errors among them need nothing of the store, but one that says that something is taken back.
    for waiting in &mut facts.waiting {
        if let Until::Stored(Err(error)) = &waiting.until
            && *error != Error::Conflict(Conflict::Cancelled)
        {
            waiting.commit = 0;
        }
    }
    again(facts, Lane::Store, why);
}

fn stored(facts: &mut Facts, txn: Txn) {
    facts.stuck.remove(&Lane::Store);
    facts.done = txn.number;
    facts.was_told(&txn);
    match txn.record {
        Some(record) => {
            facts.seen.unsure = false;
            facts.stored = record;
        }
        None => gone(facts),
    }
}

/// There is nothing left of it: so is what whoever still waits for it wanted.
fn gone(facts: &mut Facts) {
    facts.gone = true;
    let id = facts.record.definition.id;
    for waiting in &mut facts.waiting {
        waiting.until = Until::Stored(match &waiting.until {
            Until::Stored(answer) => answer.clone(),
            Until::TakenBack(error) => Err(error.clone()),
            Until::Off(_) => Ok(Answer::Stopped { forced: true }),
            Until::Gone | Until::OffThenGone(_) => Ok(Answer::Deleted),
            Until::Cleared { applied, .. } => Ok(Answer::Applied(*applied)),
            Until::Made
            | Until::Up
            | Until::Halted
            | Until::GoesOn
            | Until::WasReset
            | Until::Requested
            | Until::Frozen
            | Until::Thawed
            | Until::Turn
            | Until::Applied { .. }
            | Until::Grown { .. } => Err(Error::VmNotFound(id)),
        });
    }
}

/// Nothing has been done for them: each waited for this.
fn take_back_wishes(facts: &mut Facts, why: &str) {
    // The latest first: each is taken back from what it has left.
    for at in (0..facts.waiting.len()).rev() {
        let waiting = facts.waiting[at].clone();
        if let Until::Applied { before, after, .. } | Until::Grown { before, after, .. } = &waiting.until
            && waiting.commit > facts.done
        {
            change::take_back(facts, before, after);
            facts.waiting[at].until = Until::Stored(Err(Error::failed(Operation::Change, why)));
        }
    }
    let new = matches!(facts.record.run.state, Run::Making { .. }) && facts.stored.run.goal != facts.goal();
    if new {
        // It was never stored that it exists.
        facts.answer_instead(|until| *until == Until::Made, &Err(Error::failed(Operation::Create, why)));
        return gone(facts);
    }
    if let (Run::Starting { process: None, new: false, .. }, Run::Down { .. }) =
        (&facts.record.run.state, &facts.stored.run.state)
    {
        let error = facts.seen.launch.failed.clone().unwrap_or_else(|| Error::failed(Operation::Start, why));
        facts.fail_starts(&error);
        facts.record.run.state = facts.stored.run.state.clone();
        facts.record.run.held = facts.stored.run.held.clone();
        crate::vm::core::due::is_off(facts, true);
    } else if let Run::Starting { process: None, new: true, .. } = facts.record.run.state {
        let error = Error::failed(Operation::Start, why);
        facts.fail_starts(&error);
        facts.seen.launch.failed.get_or_insert(error);
    }
}

/// What is not stored is not frozen.
fn take_back_freeze(facts: &mut Facts, why: &str) {
    let wanted = |until: &Until| *until == Until::Frozen;
    let under_way = facts.in_flight.contains_key(&Lane::Agent);
    if facts.stored.run.frozen.is_none() && !under_way && facts.waiting.iter().any(|waiting| wanted(&waiting.until)) {
        facts.answer_instead(wanted, &Err(Error::failed(Operation::AskGuest, why)));
        facts.record.run.frozen = None;
    }
}

/// A goal that is not stored is not gone for, but that of ending a process.
fn take_back_goal(facts: &mut Facts, why: &str) {
    if facts.stored.run.goal == facts.goal() {
        return;
    }
    let stop = Err(Error::failed(Operation::Stop, why));
    match facts.goal() {
        Goal::Rest | Goal::Off { .. } => {}
        Goal::Gone => {
            let delete = Err(Error::failed(Operation::Delete, why));
            facts.answer_instead(|until| matches!(until, Until::Gone | Until::OffThenGone(_)), &delete);
            if let Run::Making { .. } = facts.record.run.state {
                return;
            }
            // Its power may have been cut before.
            let was_cut = facts.up().is_some() && facts.seen.was_cut;
            let before = if was_cut { Goal::Off { cause: Cause::Cut } } else { facts.stored.run.goal };
            if !before.ends_run() {
                // Whoever has joined it waits for an end that does not come.
                facts.answer_instead(|until| matches!(until, Until::Off(_)), &stop);
            }
            facts.set_goal(before);
        }
        Goal::Stop(_) => {
            facts.answer_instead(|until| matches!(until, Until::Off(_) | Until::OffThenGone(_)), &stop);
            facts.set_goal(facts.stored.run.goal);
        }
        Goal::Reboot(_) => {
            let reboot = Err(Error::failed(Operation::Reboot, why));
            facts.answer_instead(|until| *until == Until::Requested, &reboot);
            facts.set_goal(facts.stored.run.goal);
        }
        Goal::Pause | Goal::Resume | Goal::Reset => {
            let concerned = |until: &Until| matches!(until, Until::Halted | Until::GoesOn | Until::WasReset);
            let operation = match facts.goal() {
                Goal::Pause => Operation::Suspend,
                Goal::Resume => Operation::Resume,
                _ => Operation::Reboot,
            };
            facts.answer_instead(concerned, &Err(Error::failed(operation, why)));
            facts.set_goal(facts.stored.run.goal);
        }
    }
}

fn operation(answer: Answer) -> Operation {
    match answer {
        Answer::Started | Answer::Running => Operation::Start,
        Answer::Stopped { .. } | Answer::WasOff { .. } => Operation::Stop,
        Answer::Applied(_) | Answer::Redefined(_) | Answer::Done => Operation::Change,
        Answer::Deleted => Operation::Delete,
        Answer::Frozen(_) | Answer::Thawed(_) => Operation::AskGuest,
        Answer::Skipped | Answer::TooEarly => Operation::Start,
    }
}
