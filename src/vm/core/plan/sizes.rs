//! vCPUs, pinning, memory and the medium of a running VM. Each has a lane of its own: none waits for another, and nothing
//! else waits for the guest to follow.

use super::{Wants, power::takes_changes};
use crate::vm::core::{facts::Facts, lane::Lane, record::Up, step::Step};

pub(super) fn plan(wants: &mut Wants) {
    let facts = wants.facts;
    let Some(up) = facts.up() else { return };
    if !takes_changes(facts) {
        return;
    }
    let (wanted, live) = (&facts.record.definition, &up.in_effect);
    let under_way = |step: &Step| facts.in_flight.get(&step.lane()) == Some(step);
    let vcpus = Step::SetVcpus(wanted.vcpus);
    if under_way(&vcpus) || (wanted.vcpus != live.vcpus && places_are_noted(facts, up)) {
        wants.step(vcpus);
    }
    let memory = Step::SetMemory(wanted.memory);
    // What was asked for before, and not followed, is taken back.
    let outdated = facts.seen.memory_requested.is_some_and(|requested| requested != wanted.memory);
    let differs = outdated || wanted.memory != live.memory;
    // A guest that does not follow may do so late, by itself: that is looked at meanwhile.
    if under_way(&memory) || (differs && !facts.is_stuck(Lane::Memory)) {
        wants.step(memory);
    } else if facts.seen.look_at_memory && !facts.in_flight.contains_key(&Lane::Memory) {
        wants.step(Step::ReadMemory);
    }
    if wanted.cpu_pinning != live.cpu_pinning || (facts.seen.pin_again && wanted.cpu_pinning.is_some()) {
        wants.step(Step::Pin(wanted.cpu_pinning.clone().map(Box::new)));
    }
    if wanted.iso != live.iso {
        wants.step(Step::ExchangeMedium(wanted.iso.clone()));
    }
}

/// How many vCPUs QEMU may have made is stored before it makes or loses one: a daemon that dies over it takes too many
/// places for taken, never too few.
fn places_are_noted(facts: &Facts, up: &Up) -> bool {
    facts.seen.vcpus_noted == Some(facts.record.definition.vcpus)
        && facts.is_stored(|record| record.run.up().is_some_and(|stored| stored.vcpus_made == up.vcpus_made))
}
