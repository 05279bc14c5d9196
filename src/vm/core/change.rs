//! Changes of the definition: taken in, and taken out again where they cannot be.

use std::sync::Arc;

use super::{
    answer::{Answer, OfStart, Ticket, Until},
    difference,
    facts::Facts,
    goal::Goal,
    held::check_room,
    lane::{DiskNo, Lane},
    request::Request,
    seen::Device,
};
use crate::model::{Applied, Change, Error, OnIoError, Policy, Redefinition, Result, VmSpec};

/// A removal that the guest has not released by then is answered as pending (ruling 34).
const PENDING: u64 = 1_000;

/// Takes a change out of the definition again.
pub(super) fn take_back(facts: &mut Facts, before: &VmSpec, after: &VmSpec) {
    let without = difference::without(&facts.record.definition, before, after);
    for disk in &after.disks {
        let no = DiskNo::of(&disk.name);
        facts.seen.grow.retain(|grow| Some(*grow) != no);
    }
    if without != *facts.record.definition {
        facts.record.definition = Arc::new(without);
        adopt_policy(facts);
    }
}

/// The answer to a request that changes nothing, in any state.
pub(super) fn unchanged(facts: &Facts, request: &Request) -> Option<Result<Answer>> {
    let definition = &facts.record.definition;
    match request {
        Request::Change(change) => match &**change {
            // The same request has made it already, and its answer was lost.
            Change::AddDisk { disk, .. } => {
                let made = definition.disk_of(disk.request)?;
                let live = facts.up().is_some_and(|up| up.in_effect.disk(&made.name).is_some());
                Some(Ok(Answer::Applied(if live { Applied::Live } else { Applied::NextStart })))
            }
            _ => None,
        },
        Request::Redefine(redefinition) => match (**redefinition).clone().apply(definition, facts.bounds.memory) {
            Err(error) => Some(Err(error)),
            Ok(wanted) if wanted == **definition => Some(Ok(Answer::Redefined(false))),
            Ok(_) => None,
        },
        _ => None,
    }
}

pub(super) fn define(facts: &mut Facts, ticket: Ticket, change: Change) {
    let before = facts.record.definition.clone();
    let in_effect = facts.up().map(|up| up.in_effect.clone());
    if let Change::Keep { name, .. } = &change
        && before.disk(name).is_some_and(|disk| facts.is_unmade(disk))
    {
        let why = format!("The disk {name} is being made at this moment; ask again when it is there.");
        return facts.refuse(ticket, Error::Storage(why));
    }
    let wanted = match change.clone().apply(&before, in_effect.as_deref(), facts.bounds.memory) {
        Ok(wanted) => Arc::new(wanted),
        Err(error) => return facts.refuse(ticket, error),
    };
    if let Err(error) = check_room(&wanted, &before, in_effect.as_deref(), &facts.record.run.held) {
        return facts.refuse(ticket, error);
    }
    let removes = matches!(change, Change::RemoveDisk(_) | Change::RemoveNic(_));
    // It frees space, which a full disk must not prevent.
    facts.seen.wish |= !removes;
    facts.record.run.upkeep = facts.record.run.upkeep.within(&wanted.policy);
    facts.record.definition = wanted.clone();
    let mut lanes = difference::lanes(&before, &wanted);
    // What it is about is tried once more, also where it is defined so already and the guest did not follow.
    lanes.extend(change.each().iter().flat_map(concerned));
    lanes.sort_unstable();
    lanes.dedup();
    prepare_lanes(facts, &before, &wanted, &lanes);
    adopt_policy(facts);
    // Who does not wait on the line is told when it is gone.
    let pending_at = (removes && !facts.patient.contains(&ticket)).then_some(facts.now.monotonic + PENDING);
    let changes = |part: fn(&Change) -> bool| change.each().iter().any(part);
    let of_start = OfStart {
        cpu: changes(|change| matches!(change, Change::GuestCpu(_))),
        seed: changes(|change| matches!(change, Change::Seed { .. })),
    };
    facts.wait(ticket, Until::Applied { lanes, of_start, pending_at, before, after: wanted });
}

/// The lanes that a change is about, whether it changes anything or not. What is added differs.
fn concerned(change: &Change) -> Vec<Lane> {
    let disk = |name: &str| DiskNo::of(name).map(Lane::Disk);
    match change {
        Change::Cpu { vcpus, pinning } => {
            [vcpus.map(|_| Lane::Vcpus), pinning.as_ref().map(|_| Lane::Pin)].into_iter().flatten().collect()
        }
        Change::Memory(_) => vec![Lane::Memory],
        Change::Disk { name, .. }
        | Change::Base { name, .. }
        | Change::Keep { name, .. }
        | Change::RemoveDisk(name) => disk(name).into_iter().collect(),
        Change::Medium(_) => vec![Lane::Medium],
        // One that the guest has not let go of is asked for again.
        Change::RemoveNic(nic) | Change::Port { nic, .. } => vec![Lane::Nic(*nic)],
        Change::AddDisk { .. }
        | Change::GuestCpu(_)
        | Change::Seed { .. }
        | Change::AddNic(_)
        | Change::Policy(_)
        | Change::Name(_)
        | Change::Metadata(_)
        | Change::Over { .. }
        | Change::Sent(_) => Vec::new(),
        // Each by itself.
        Change::Several(_) => Vec::new(),
    }
}

/// Only its client calls something differently: that is taken in any state, and changes nothing.
pub(super) fn renamed(facts: &mut Facts, ticket: Ticket, redefinition: &Redefinition) -> bool {
    let before = facts.record.definition.clone();
    let Ok(wanted) = redefinition.clone().apply(&before, facts.bounds.memory) else { return false };
    if wanted == *before || !wanted.is_same_but_for_names(&before) {
        return false;
    }
    let wanted = Arc::new(wanted);
    facts.record.definition = wanted.clone();
    facts.seen.wish = true;
    facts.wait(ticket, Until::Grown { lanes: Vec::new(), before, after: wanted });
    true
}

pub(super) fn redefine(facts: &mut Facts, ticket: Ticket, redefinition: Redefinition) {
    let before = facts.record.definition.clone();
    // It was applied before, for whether it changes anything.
    let Ok(wanted) = redefinition.apply(&before, facts.bounds.memory) else { return };
    let wanted = Arc::new(wanted);
    if let Err(error) = check_room(&wanted, &before, None, &facts.record.run.held) {
        return facts.refuse(ticket, error);
    }
    facts.record.definition = wanted.clone();
    facts.seen.wish = true;
    let lanes = difference::lanes(&before, &wanted);
    prepare_lanes(facts, &before, &wanted, &lanes);
    facts.wait(ticket, Until::Grown { lanes, before, after: wanted });
}

/// A change is a new reason to try, and may be one to grow an image.
fn prepare_lanes(facts: &mut Facts, before: &VmSpec, wanted: &VmSpec, lanes: &[Lane]) {
    if facts.record.run.is_down() {
        // It was to go, and that failed: whoever changes it wants it.
        facts.set_goal(Goal::Rest);
        if facts.seen.missing.is_some() {
            // Perhaps it lacks nothing any more.
            facts.seen.look_for_files = true;
            facts.stuck.remove(&Lane::Files);
        }
    }
    for lane in lanes {
        facts.stuck.remove(lane);
        let device = match lane {
            Lane::Disk(no) => Some(Device::Disk(*no)),
            Lane::Nic(nic) => Some(Device::Nic(*nic)),
            _ => None,
        };
        if let Some(release) = device.and_then(|device| facts.seen.releases.get_mut(&device)) {
            // Whoever wants it out again has the guest asked again.
            (release.requested, release.times, release.refused) = (None, 0, false);
        }
        let Lane::Disk(no) = lane else { continue };
        if difference::disk(wanted, *no).is_none() {
            facts.seen.grow.remove(no);
        }
        if difference::disk(before, *no).is_none() {
            facts.record.run.unmade.insert(*no);
        }
        if let (Some(then), Some(now)) = (difference::disk(before, *no), difference::disk(wanted, *no))
            && facts.record.run.is_down()
            && then.size < now.size
        {
            facts.seen.grow.insert(*no);
        }
    }
}

/// Most of a policy is the daemon's own; what a disk does with an error is set when it is plugged.
fn adopt_policy(facts: &mut Facts) {
    let wanted = facts.record.definition.policy.clone();
    let Some(up) = facts.up_mut().filter(|up| up.in_effect.policy != wanted) else { return };
    let reports = |policy: &Policy| policy.on_io_error == OnIoError::Report;
    let before = up.in_effect.policy.clone();
    let follows = reports(&before) == reports(&wanted);
    let on_io_error = if follows { wanted.on_io_error } else { before.on_io_error };
    let policy = Policy { on_io_error, ..wanted };
    facts.note_effect(|spec| spec.policy = policy);
    // A guest that is halted may go on by itself from now on, or no longer.
    facts.seen.look = true;
}
