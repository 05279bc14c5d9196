//! What became of images, run files and everything else that a VM has on disk.

use super::{again, set_back, take_back};
use crate::{
    model::{Due, Error, Operation},
    vm::core::{
        answer::{Answer, Until},
        difference,
        facts::Facts,
        goal::Goal,
        lane::{DiskNo, Lane},
        record::Run,
        step::{Outcome, Report, Setback, Step},
        take::launch,
    },
};

pub(super) fn concluded(facts: &mut Facts, step: &Step, outcome: Outcome) {
    match (step, outcome) {
        (_, Outcome::Cut) => {}
        (Step::FindFiles, Outcome::Done(Report::Missing(missing))) => found(facts, missing),
        (Step::FindFiles, Outcome::Done(_)) => found(facts, None),
        (Step::FindFiles, Outcome::Failed(setback)) => found(facts, Some(format!("{setback:?}"))),
        (Step::CheckRemovable, Outcome::Done(_)) => condemn(facts),
        (Step::CheckRemovable, Outcome::Failed(setback)) => not_removable(facts, setback),
        (Step::Erase { .. }, Outcome::Done(_)) => {
            facts.seen.erased = true;
            facts.record.run.held = Default::default();
        }
        (Step::Erase { .. }, Outcome::Failed(setback)) => not_erased(facts, setback),
        // They may be needed again since.
        (Step::RemoveRunFiles, Outcome::Done(_)) => facts.record.run.held.run_files &= !facts.record.run.is_down(),
        (Step::RemoveRunFiles, Outcome::Failed(setback)) => again(facts, Lane::RunFiles, format!("{setback:?}")),
        (_, Outcome::Done(_) | Outcome::Failed(_)) => {}
    }
}

/// What the next start would not find; and the turn of one whose files are there.
fn found(facts: &mut Facts, missing: Option<String>) {
    let turn = |until: &Until| *until == Until::Turn;
    let waits = facts.waiting.iter().any(|waiting| turn(&waiting.until));
    let is_there = missing.is_none();
    facts.seen.missing = missing;
    if !waits {
        look_again(facts);
        return;
    }
    if !facts.record.run.is_down() || facts.record.run.upkeep.due != Some(Due::Boot) {
        // Somebody has started it, or wants it off.
        return facts.answer_instead(turn, &Ok(Answer::Skipped));
    }
    if !is_there {
        look_again(facts);
        return facts.answer_instead(turn, &Ok(Answer::TooEarly));
    }
    // Its turn is taken, whatever comes of it.
    if launch(facts, true).is_err() {
        facts.answer_instead(turn, &Ok(Answer::Skipped));
    }
}

/// Storage that is mounted later is noticed without anybody asking.
fn look_again(facts: &mut Facts) {
    match facts.seen.missing.clone() {
        Some(missing) if facts.record.run.is_down() && facts.goal() != Goal::Gone => {
            facts.seen.look_for_files = true;
            again(facts, Lane::Files, missing);
        }
        Some(_) => {}
        None => drop(facts.stuck.remove(&Lane::Files)),
    }
}

/// From now on it is to go, whatever happens to the daemon.
fn condemn(facts: &mut Facts) {
    if facts.waiting.iter().any(|waiting| waiting.until == Until::Gone) {
        facts.stuck.remove(&Lane::Files);
        facts.set_goal(Goal::Gone);
    }
}

fn not_removable(facts: &mut Facts, setback: Setback) {
    let error = match setback {
        Setback::Reported(error) => error,
        // The power of a live VM is cut whether its storage answers or not.
        _ if facts.seen.process => return condemn(facts),
        other => Error::failed(Operation::Delete, format!("{other:?}")),
    };
    facts.answer_instead(|until| *until == Until::Gone, &Err(error));
}

/// It can be deleted again, or started. What the host failed at is tried once more by the next daemon; what was refused is
/// not done later, unasked.
fn not_erased(facts: &mut Facts, setback: Setback) {
    let refused = matches!(setback, Setback::Reported(_));
    let error = match setback {
        Setback::Reported(error) => error,
        Setback::Host(why) => Error::failed(Operation::Delete, why),
        other => Error::failed(Operation::Delete, format!("{other:?}")),
    };
    facts.answer_instead(|until| *until == Until::Gone, &Err(error.clone()));
    if let Run::Making { .. } = facts.record.run.state {
        for waiting in &mut facts.waiting {
            if let Until::TakenBack(error) = &waiting.until {
                (waiting.until, waiting.commit) = (Until::Stored(Err(error.clone())), 0);
            }
        }
        return again(facts, Lane::Files, error.to_string());
    }
    if refused {
        return facts.set_goal(Goal::Rest);
    }
    super::not_now(facts, Lane::Files, error.to_string());
}

pub(super) fn image(facts: &mut Facts, no: DiskNo, step: &Step, outcome: Outcome) {
    let lane = Lane::Disk(no);
    match (step, outcome) {
        (_, Outcome::Cut) => {}
        (Step::CheckImage(_), Outcome::Done(_)) => {
            if let Some(disk) = difference::disk(&facts.record.definition, no).cloned() {
                facts.record.run.held.images.insert(no, disk.into());
            }
        }
        (Step::MakeImage(_, size), Outcome::Done(_)) => made(facts, no, *size),
        (Step::CheckImage(_) | Step::MakeImage(..), Outcome::Failed(setback)) => not_made(facts, no, setback),
        (Step::RemoveImage(_), Outcome::Done(_)) => {
            facts.stuck.remove(&lane);
            facts.record.run.held.images.remove(&no);
        }
        (Step::RemoveImage(_), Outcome::Failed(setback)) => again(facts, lane, format!("{setback:?}")),
        (Step::GrowImage(..), Outcome::Done(_)) => {
            facts.seen.grow.remove(&no);
        }
        (Step::GrowImage(..), Outcome::Failed(setback)) => {
            facts.seen.grow.remove(&no);
            set_back(facts, lane, setback);
            facts.stuck.remove(&lane);
        }
        (_, Outcome::Done(_) | Outcome::Failed(_)) => {}
    }
}

fn made(facts: &mut Facts, no: DiskNo, size: u64) {
    facts.record.run.unmade.remove(&no);
    let grew = difference::disk(&facts.record.definition, no).is_some_and(|disk| disk.size > size);
    if grew && facts.up().is_none() {
        facts.seen.grow.insert(no);
    }
}

/// Nobody has been told of the disk: it never was.
fn not_made(facts: &mut Facts, no: DiskNo, setback: Setback) {
    let error = match setback {
        Setback::Reported(error) | Setback::Foreign(error) => error,
        Setback::Refused(why) | Setback::Host(why) | Setback::NotNow(why) => Error::failed(Operation::Change, why),
        other => Error::failed(Operation::Change, format!("{other:?}")),
    };
    if let Run::Making { .. } = facts.record.run.state {
        facts.fail_starts(&error);
        facts.seen.launch.failed.get_or_insert(error);
        return;
    }
    take_back(facts, Lane::Disk(no), &error);
    if facts.record.run.unmade.contains(&no) {
        let mut definition = (*facts.record.definition).clone();
        definition.disks.retain(|disk| disk.name != no.name());
        facts.record.definition = definition.into();
    }
}
