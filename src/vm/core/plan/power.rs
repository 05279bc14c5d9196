//! Processes and guests: from nothing to a guest that runs, and back.

use super::Wants;
use crate::vm::core::{
    facts::Facts,
    goal::{Cause, Goal},
    lane::Lane,
    record::{Guest, Run, Up},
    seen::Monitor,
    step::{Mode, Step},
};

/// How often the power button is pressed.
const PRESS_AGAIN: u64 = 5_000;
/// QEMU closes its images and ends; it needs some 10 ms.
const QUIT: u64 = 2_000;

pub(super) fn plan(wants: &mut Wants) {
    let facts = wants.facts;
    match &facts.record.run.state {
        Run::Making { .. } | Run::Down { .. } => {}
        Run::Starting { .. } if facts.seen.launch.failed.is_some() => unwind(wants),
        Run::Starting { .. } => start(wants),
        Run::Up(up) => {
            end(wants);
            match &facts.seen.monitor {
                Monitor::Open => guest(wants, up),
                Monitor::Away { next_try, .. } if !facts.seen.kernel_holds => wants.step_at(*next_try, Step::Connect),
                Monitor::Away { .. } | Monitor::None => {}
            }
        }
    }
}

/// SIGKILL waits for nothing, not even for the store.
fn kill(wants: &mut Wants) {
    let seen = &wants.facts.seen;
    if seen.process && (!seen.kernel_holds || seen.kill_again) {
        wants.step(Step::Kill);
    }
}

/// What a start has left that runs is ended; what else it has left is held, and removed when it is down.
fn unwind(wants: &mut Wants) {
    let facts = wants.facts;
    kill(wants);
    let busy = facts.seen.process || facts.in_flight.contains_key(&Lane::Power);
    if !busy && facts.record.run.held.strays {
        wants.step(Step::EndStrays);
    }
}

/// QEMU stopped before its first instruction, monitor, pinning, throttles, and only then the guest.
fn start(wants: &mut Wants) {
    let facts = wants.facts;
    let Run::Starting { process, .. } = &facts.record.run.state else { return };
    if !start_is_stored(facts) {
        return;
    }
    // A process that no record tells of goes no further.
    let is_known = || facts.is_stored(|record| record.run.state == facts.record.run.state);
    let launch = &facts.seen.launch;
    let connected = || {
        let nics = facts.record.definition.nics.iter().filter(|nic| nic.switch().is_some());
        nics.into_iter().all(|nic| facts.seen.taps.contains(&nic.id))
    };
    // Neither may work on files that QEMU opens.
    let in_the_way = |step: &Step| matches!(step, Step::RemoveRunFiles | Step::GrowImage(..));
    if facts.in_flight.values().any(in_the_way) {
        return;
    }
    if !launch.prepared {
        wants.step(Step::Prepare);
    } else if process.is_none() {
        if connected() {
            wants.step(Step::Spawn);
        }
    } else if is_known() {
        wants.step(match facts.seen.monitor {
            Monitor::None | Monitor::Away { .. } => Step::Greet,
            Monitor::Open if !launch.tuned => Step::Tune,
            Monitor::Open => Step::Continue,
        });
    }
}

/// That a start is under way is stored, with what it starts and what it may leave.
pub(super) fn start_is_stored(facts: &Facts) -> bool {
    let (definition, held) = (&facts.record.definition, &facts.record.run.held);
    facts.is_stored(|record| {
        matches!(record.run.state, Run::Starting { .. }) && record.definition == *definition && record.run.held == *held
    })
}

/// A process that is to end.
fn end(wants: &mut Wants) {
    let facts = wants.facts;
    match (facts.goal(), facts.seen.quitting) {
        (Goal::Off { cause: Cause::Cut }, _) => kill(wants),
        // What cannot be stored is not deleted, and its guest runs on.
        (Goal::Gone, _) if facts.goal_is_stored() || facts.seen.was_cut => kill(wants),
        (Goal::Off { .. } | Goal::Stop(_), Some(since)) if since + QUIT <= facts.now.monotonic => kill(wants),
        (Goal::Off { .. } | Goal::Stop(_), Some(since)) => wants.wake_at(since + QUIT),
        (Goal::Off { .. } | Goal::Stop(_), None)
        | (Goal::Gone | Goal::Rest | Goal::Reboot(_) | Goal::Pause | Goal::Resume | Goal::Reset, _) => {}
    }
}

fn guest(wants: &mut Wants, up: &Up) {
    let facts = wants.facts;
    // What is seen of a guest that something is being done about does not last.
    let lasts = !facts.in_flight.contains_key(&Lane::Power);
    if facts.seen.look_at_devices || (facts.seen.look && lasts) {
        wants.step(Step::Look { devices: facts.seen.look_at_devices });
    }
    if let (Goal::Rest, Some(at), Guest::Paused { .. }) = (facts.goal(), facts.seen.trouble.next, &up.guest) {
        wants.step_at(at, Step::GoOn);
    }
    // Nothing is done for a goal that is not stored.
    if !facts.goal_is_stored() {
        return;
    }
    let thaws_first = super::freeze::plan(wants);
    let (off, halted) = (facts.seen.powered_off, up.guest != Guest::Running);
    match facts.goal() {
        Goal::Rest | Goal::Off { cause: Cause::Cut } | Goal::Gone => {}
        Goal::Pause => wants.step(Step::Pause),
        Goal::Resume => wants.step(Step::Continue),
        Goal::Reset => wants.step(Step::Reset),
        Goal::Off { cause: Cause::Guest | Cause::Panic } => quit(wants),
        Goal::Stop(_) if off => quit(wants),
        Goal::Reboot(deadline) if off || deadline.at <= facts.now.monotonic => wants.step(Step::Reset),
        // A halted guest hears nothing.
        Goal::Stop(_) | Goal::Reboot(_) if halted && facts.seen.requested.is_none() => wants.step(Step::Continue),
        Goal::Stop(_) | Goal::Reboot(_) if thaws_first => {}
        Goal::Stop(deadline) => ask(wants, Mode::PowerOff, deadline.agent_only),
        Goal::Reboot(deadline) => ask(wants, Mode::Reboot, deadline.agent_only),
    }
}

fn quit(wants: &mut Wants) {
    if wants.facts.seen.quitting.is_none() {
        wants.step(Step::Quit);
    }
}

fn ask(wants: &mut Wants, mode: Mode, agent_only: bool) {
    let seen = &wants.facts.seen;
    match seen.requested {
        None => {
            // An agent that closes its port meanwhile is doing as it was told; one that has died is noticed by the step.
            let under_way = match wants.facts.in_flight.get(&Lane::Agent) {
                Some(Step::AskGuest { mode: requested, by_agent, agent_only: alone })
                    if (*requested, *alone) == (mode, agent_only) =>
                {
                    Some(*by_agent)
                }
                Some(_) | None => None,
            };
            let by_agent = under_way.unwrap_or(seen.agent || agent_only);
            wants.step(Step::AskGuest { mode, by_agent, agent_only });
        }
        Some(at) if !agent_only => wants.step_at(at + PRESS_AGAIN, Step::PressButton),
        Some(_) => {}
    }
}

/// The devices of a running VM may be worked on: its monitor answers, and it is not on its way out.
pub(super) fn takes_changes(facts: &Facts) -> bool {
    facts.is_open()
        && !facts.goal().ends_run()
        && !facts.seen.powered_off
        && facts.is_stored(|record| record.definition == facts.record.definition)
}
