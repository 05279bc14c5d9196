//! Images and run files: made before they are needed, removed when nobody needs them.

use super::Wants;
use crate::vm::core::{
    answer::Until,
    difference,
    facts::Facts,
    goal::Goal,
    lane::{DiskNo, Lane},
    record::{Record, Run},
    step::Step,
};

pub(super) fn plan(wants: &mut Wants) {
    let facts = wants.facts;
    images(wants);
    leftovers(wants);
    if deletes(facts) {
        wants.step(Step::CheckRemovable);
    } else if erases(facts) {
        let half_made = matches!(facts.record.run.state, Run::Making { .. });
        wants.step(Step::Erase { half_made });
    } else if facts.record.run.is_down() && facts.seen.look_for_files && facts.goal() != Goal::Gone {
        wants.step(Step::FindFiles);
    }
}

/// Somebody wants it gone, and it is not said yet that it goes.
fn deletes(facts: &Facts) -> bool {
    let wanted = facts.waiting.iter().any(|waiting| waiting.until == Until::Gone);
    let at_rest = matches!(facts.record.run.state, Run::Down { .. } | Run::Up(_));
    wanted && at_rest && facts.goal() != Goal::Gone
}

/// There is nothing left but what is to be removed.
fn erases(facts: &Facts) -> bool {
    let down = |state: &Run| matches!(state, Run::Down { .. } | Run::Making { .. });
    let busy = facts.in_flight.keys().any(|lane| matches!(lane, Lane::Disk(_) | Lane::RunFiles));
    facts.goal() == Goal::Gone
        && down(&facts.record.run.state)
        && facts.is_stored(|record| record.run.goal == Goal::Gone && down(&record.run.state))
        && facts.record.run.held.ports.is_empty()
        && !facts.seen.process
        && !busy
}

fn images(wants: &mut Wants) {
    let facts = wants.facts;
    let (definition, goal) = (&facts.record.definition, facts.goal());
    let is_stored = facts.is_stored(|record| record.definition == *definition && record.run.goal == goal);
    if !is_stored || facts.goal() == Goal::Gone || facts.seen.launch.failed.is_some() {
        return;
    }
    let held = &facts.record.run.held.images;
    for disk in facts.record.definition.disks.iter().filter(|disk| facts.is_unmade(disk)) {
        let Some(no) = DiskNo::of(&disk.name) else { continue };
        if !held.contains_key(&no) {
            wants.step(Step::CheckImage(no));
        } else if facts.is_stored(|record| record.run.held.images.contains_key(&no)) {
            wants.step(Step::MakeImage(no, disk.size));
        }
    }
    if facts.record.run.is_down() {
        for no in &facts.seen.grow {
            if let Some(disk) = difference::disk(&facts.record.definition, *no).filter(|disk| !facts.is_unmade(disk)) {
                wants.step(Step::GrowImage(*no, disk.size));
            }
        }
    }
}

/// What is held of files, and needed no longer. What is stored counts as well: after a crash that is what there is.
fn leftovers(wants: &mut Wants) {
    let facts = wants.facts;
    if deletes_all(facts) {
        return;
    }
    let run = &facts.record.run;
    if run.held.run_files && run.is_down() {
        wants.step(Step::RemoveRunFiles);
    }
    for no in facts.record.run.held.images.keys() {
        // A removal that may yet be taken back keeps it.
        let concerned =
            |until: &Until| matches!(until, Until::Applied { lanes, .. } if lanes.contains(&Lane::Disk(*no)));
        let open = facts.waiting.iter().any(|waiting| concerned(&waiting.until));
        if !open && image_is_left(facts, *no) {
            wants.step(Step::RemoveImage(*no));
        }
    }
}

/// The image of a disk that no record tells of any more.
pub(in crate::vm::core) fn image_is_left(facts: &Facts, no: DiskNo) -> bool {
    // Nobody knows what a start that is under way, or is being taken back, has opened.
    let starts = matches!(facts.record.run.state, Run::Starting { .. });
    if !facts.record.run.held.images.contains_key(&no) || starts || deletes_all(facts) || !facts.devices_are_known() {
        return false;
    }
    let bears = |record: &Record| {
        difference::disk(&record.definition, no).is_some()
            || record.run.up().is_some_and(|up| difference::disk(&up.in_effect, no).is_some())
    };
    !bears(&facts.record) && facts.is_stored(|record| !bears(record))
}

/// What is left goes with everything else.
fn deletes_all(facts: &Facts) -> bool {
    facts.goal() == Goal::Gone && !facts.stuck.contains_key(&Lane::Files)
}
