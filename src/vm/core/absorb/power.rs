//! Starts, stops and what a guest does about them.

use std::{borrow::Cow, sync::Arc};

use super::again;
use crate::{
    model::{Due, Ending, Error, FailedStart, Incident, Operation, Upkeep},
    vm::core::{
        answer::{Answer, Until},
        due::{dated, give_up_at_once, is_off, leave_running},
        facts::Facts,
        goal::{Cause, Goal},
        lane::Lane,
        record::{Guest, Run, Up},
        seen::{Device, Monitor, Seen},
        step::{Outcome, Report, Setback, StartedWith, Step},
    },
};

/// Between two looks for room.
const LOOK: u64 = 2_000;

/// Of a step towards a start.
pub(super) fn launched(facts: &mut Facts, step: &Step, outcome: Outcome) {
    let report = match outcome {
        Outcome::Done(report) => report,
        Outcome::Failed(setback) => return fail_launch(facts, start_error(setback)),
        // It is being taken back; where it is not, the step comes again.
        Outcome::Cut => return,
    };
    match (step, report) {
        (Step::Prepare, _) => facts.seen.launch.prepared = true,
        (Step::Spawn, Report::Spawned { process, with }) => {
            facts.seen.process = true;
            facts.seen.launch.with = Some(with);
            if let Run::Starting { process: known, .. } = &mut facts.record.run.state {
                *known = Some(process);
            }
        }
        (Step::Greet, _) => facts.seen.monitor = Monitor::Open,
        (Step::Tune, _) => facts.seen.launch.tuned = true,
        _ => {}
    }
}

fn start_error(setback: Setback) -> Error {
    match setback {
        Setback::Reported(error) | Setback::Foreign(error) => error,
        Setback::NotNow(why)
        | Setback::Refused(why)
        | Setback::Host(why)
        | Setback::Lost(why)
        | Setback::NotStored(why)
        | Setback::StoreSilent(why) => Error::failed(Operation::Start, why),
        Setback::Held => Error::failed(Operation::Start, "the kernel holds the process"),
    }
}

/// The start is taken back: the plan ends what runs, and `bring_to_rest` sees when it is done.
pub(super) fn fail_launch(facts: &mut Facts, error: Error) {
    let Run::Starting { .. } = facts.record.run.state else { return };
    if facts.seen.launch.failed.is_none() {
        facts.seen.launch.failed = Some(error.clone());
        facts.record.run.failed_start = Some(Arc::new(FailedStart::new(&error.to_string(), facts.now.wall)));
    }
    facts.fail_starts(&error);
}

/// The guest runs for the first time.
fn is_up(facts: &mut Facts) {
    let (Run::Starting { process: Some(process), .. }, Some(StartedWith { fitted, hotplug_memory, sandbox })) =
        (facts.record.run.state.clone(), facts.seen.launch.with.take())
    else {
        return;
    };
    facts.record.run.upkeep.due = None;
    if !facts.seen.launch.unattended {
        facts.record.run.upkeep.attempts = 0;
    }
    facts.record.run.held.strays = false;
    facts.record.run.failed_start = None;
    facts.record.run.state = Run::Up(Box::new(Up {
        process,
        started_at: facts.now.wall,
        boot_memory: fitted.memory,
        hotplug_memory,
        sandbox: Some(sandbox),
        in_effect: match fitted.for_qemu() {
            // One and the same, as it is of most VMs.
            Cow::Borrowed(_) => fitted.clone(),
            Cow::Owned(spec) => Arc::new(spec),
        },
        vcpus_made: 0,
        guest: Guest::Running,
    }));
    facts.seen.vcpus = Some(fitted.vcpus);
    facts.seen.devices_known = true;
    facts.seen.taps.clear();
    facts.seen.launch = Default::default();
    facts.seen.missing = None;
    facts.stuck.clear();
    facts.answer_instead(|until| matches!(until, Until::Up | Until::Made), &Ok(Answer::Started));
}

/// Of a step that ends a process. That it has ended is a sight.
pub(super) fn ended(facts: &mut Facts, step: &Step, outcome: Outcome) {
    match (step, outcome) {
        (Step::EndStrays, Outcome::Done(_)) => facts.record.run.held.strays = false,
        (Step::EndStrays, Outcome::Failed(Setback::Held)) => {
            kernel_holds(facts);
            again(facts, Lane::Strays, "the kernel holds the process".to_owned());
        }
        (Step::EndStrays, Outcome::Failed(setback)) => again(facts, Lane::Strays, format!("{setback:?}")),
        (_, Outcome::Failed(Setback::Held)) if facts.seen.process => kernel_holds(facts),
        (_, Outcome::Done(_) | Outcome::Failed(_) | Outcome::Cut) => {}
    }
}

/// Nothing is left to be done but to wait for the kernel, which may take for ever: whoever waits is told so.
fn kernel_holds(facts: &mut Facts) {
    facts.seen.kernel_holds = true;
    let deleting = facts.goal() == Goal::Gone || facts.waiting.iter().any(|waiting| waiting.until == Until::Gone);
    let (operation, what) =
        if deleting { (Operation::Delete, "is deleted") } else { (Operation::Stop, "counts as stopped") };
    let why = format!(
        "QEMU was killed, but the kernel still holds it, most likely in storage that hangs; the VM {what} as soon as the \
         kernel lets go"
    );
    let error = Err(Error::failed(operation, why));
    if deleting {
        // Nobody waits for it any more, and it goes all the same.
        facts.set_goal(Goal::Gone);
    }
    facts.answer_instead(|until| matches!(until, Until::Off(_) | Until::OffThenGone(_) | Until::Gone), &error);
    for waiting in &mut facts.waiting {
        if let Until::TakenBack(error) = &waiting.until {
            (waiting.until, waiting.commit) = (Until::Stored(Err(error.clone())), 0);
        }
    }
}

/// Of a step about the guest's power.
pub(super) fn done(facts: &mut Facts, step: &Step, outcome: Outcome) {
    if let Run::Starting { .. } = facts.record.run.state {
        return match outcome {
            Outcome::Done(_) if facts.seen.launch.failed.is_none() => is_up(facts),
            Outcome::Done(_) | Outcome::Cut => {}
            Outcome::Failed(setback) => fail_launch(facts, start_error(setback)),
        };
    }
    if facts.up().is_none() {
        return;
    }
    match (step, outcome) {
        (Step::Continue, Outcome::Done(_)) => {
            set_guest(facts, Guest::Running);
            if facts.goal() == Goal::Resume {
                facts.set_goal(Goal::Rest);
            }
        }
        (Step::Pause, Outcome::Done(_)) => {
            set_guest(facts, Guest::Paused { reason: None, critical: false });
            if facts.goal() == Goal::Pause {
                facts.set_goal(Goal::Rest);
            }
        }
        (Step::Reset, Outcome::Done(_)) => {
            set_guest(facts, Guest::Running);
            facts.seen.powered_off = false;
            if let Goal::Reboot(_) | Goal::Reset = facts.goal() {
                facts.set_goal(Goal::Rest);
            }
        }
        (Step::GoOn, outcome) => went_on(facts, outcome),
        // That it has ended is a sight; where it has not, it is killed.
        (Step::Quit, _) => {}
        (_, Outcome::Failed(Setback::Lost(_))) => {
            give_up_at_once(facts, &Error::Unresponsive(facts.record.definition.id));
        }
        (step, Outcome::Failed(setback)) => refused(facts, step, setback),
        (_, Outcome::Done(_) | Outcome::Cut) => {}
    }
}

fn set_guest(facts: &mut Facts, guest: Guest) {
    if guest == Guest::Running {
        facts.seen.trouble.next = None;
    }
    if let Some(up) = facts.up_mut() {
        up.guest = guest;
    }
}

fn refused(facts: &mut Facts, step: &Step, setback: Setback) {
    let why = format!("QEMU refuses: {setback:?}");
    let operation = match step {
        Step::Pause => Operation::Suspend,
        Step::Continue => Operation::Resume,
        _ => Operation::Reboot,
    };
    give_up_at_once(facts, &Error::failed(operation, &why));
    if let Goal::Reboot(_) = facts.goal() {
        return facts.set_goal(Goal::Rest);
    }
    // A stop has its deadline.
    again(facts, Lane::Power, why);
}

/// After an I/O error.
fn went_on(facts: &mut Facts, outcome: Outcome) {
    let now = facts.now.monotonic;
    let trouble = &mut facts.seen.trouble;
    match outcome {
        Outcome::Done(_) => {
            (trouble.tries, trouble.last_try, trouble.next) = (trouble.tries.saturating_add(1), Some(now), None);
            facts.seen.look = true;
        }
        // There is no room yet.
        Outcome::Failed(Setback::NotNow(_)) => trouble.next = Some(now + LOOK),
        Outcome::Failed(_) | Outcome::Cut => trouble.next = trouble.next.map(|_| now + LOOK),
    }
}

/// Of a step that asks the guest.
pub(super) fn requested(facts: &mut Facts, step: &Step, outcome: Outcome) {
    let alone = matches!(step, Step::AskGuest { agent_only: true, .. });
    match outcome {
        Outcome::Cut => {}
        Outcome::Failed(Setback::Reported(error)) if alone => {
            if facts.goal().deadline().is_some_and(|deadline| deadline.agent_only) {
                leave_running(facts, &error);
            }
        }
        // Whether the guest heeds is the deadline's matter.
        Outcome::Done(_) | Outcome::Failed(_) => {
            facts.seen.requested = Some(facts.now.monotonic);
            facts.answer_instead(|until| *until == Until::Requested, &Ok(Answer::Done));
        }
    }
}

/// The guest has powered off; QEMU waits.
pub(super) fn powered_off(facts: &mut Facts) {
    guest_ended(facts, Cause::Guest);
}

pub(super) fn panicked(facts: &mut Facts) {
    guest_ended(facts, Cause::Panic);
}

fn guest_ended(facts: &mut Facts, cause: Cause) {
    if facts.up().is_none() || facts.seen.powered_off {
        return;
    }
    facts.seen.powered_off = true;
    match (cause, facts.goal()) {
        (Cause::Panic, _) => facts.notice(Incident::Panicked),
        // What is wanted is told as a status.
        (_, goal) if goal.ends_run() || matches!(goal, Goal::Reboot(_)) => {}
        _ => facts.notice(Incident::PoweredOff),
    }
    match (facts.goal(), cause) {
        (Goal::Stop(_) | Goal::Off { .. } | Goal::Gone, _) | (Goal::Reboot(_), Cause::Guest | Cause::Cut) => {}
        (Goal::Reboot(_), Cause::Panic) | (Goal::Rest | Goal::Pause | Goal::Resume | Goal::Reset, _) => {
            guest_is_off(facts);
            facts.set_goal(Goal::Off { cause });
        }
    }
}

/// What the guest cannot do any more for those who wait.
fn guest_is_off(facts: &mut Facts) {
    let why = |operation| Error::failed(operation, "the guest has just powered off, or QEMU has ended");
    let operation = match facts.goal() {
        Goal::Pause => Operation::Suspend,
        Goal::Resume => Operation::Resume,
        _ => Operation::Reboot,
    };
    give_up_at_once(facts, &why(operation));
    facts.answer_instead(|until| *until == Until::Up, &Err(why(Operation::Start)));
    if let Some(up) = facts.up_mut() {
        up.guest = Guest::Paused { reason: None, critical: false };
    }
}

/// The process of a run has ended.
pub(super) fn end_run(facts: &mut Facts, how: &str) {
    let goal = facts.goal();
    let ending = match goal {
        Goal::Off { cause: Cause::Panic } => {
            Ending::Crashed { reason: "the guest panicked; its console log may say why".to_owned() }
        }
        Goal::Stop(_) | Goal::Off { .. } | Goal::Gone => Ending::Clean,
        _ if facts.bounds.ends_vms || facts.seen.kernel_holds => Ending::Clean,
        Goal::Rest | Goal::Reboot(_) | Goal::Pause | Goal::Resume | Goal::Reset => {
            Ending::Crashed { reason: how.to_owned() }
        }
    };
    end_run_as(facts, ending);
}

pub(in crate::vm::core) fn end_run_as(facts: &mut Facts, ending: Ending) {
    guest_is_off(facts);
    let goal = facts.goal();
    facts.record.run.upkeep = owed_after(facts, &ending);
    facts.record.run.frozen = None;
    facts.record.run.state = Run::Down { last: ending };
    if goal != Goal::Gone {
        facts.set_goal(Goal::Rest);
    }
    // A client has cut it, or nobody else has ended it.
    let forced = facts.seen.was_cut || !facts.seen.powered_off;
    facts.seen = Seen {
        missing: facts.seen.missing.take(),
        wish: facts.seen.wish,
        unsure: facts.seen.unsure,
        ..Seen::default()
    };
    facts.stuck.retain(|lane, _| *lane == Lane::Store);
    is_off(facts, forced);
}

/// What is owed after an end.
fn owed_after(facts: &Facts, ending: &Ending) -> Upkeep {
    let (Some(up), goal) = (facts.up(), facts.goal()) else { return Upkeep::default() };
    let before = facts.record.run.upkeep;
    // The daemon ends its VMs with itself, whoever is quicker; and a client's word counts.
    if facts.bounds.ends_vms || goal.is_stop() {
        return Upkeep::default();
    }
    let started = up.process.started();
    let ran = match facts.now.uptime.checked_sub(started) {
        Some(ran) => ran,
        // It ran before the host was booted.
        None => facts.now.wall.saturating_sub(up.started_at),
    };
    let after = |upkeep: Upkeep| {
        let next = upkeep.after(&facts.record.definition.policy, ending, ran, facts.now.wall);
        let due: Option<Due> = next.due.map(|due| dated(due, facts.now.wall, facts.now.monotonic));
        Upkeep { due, ..next }
    };
    if !facts.bounds.closing {
        return after(before);
    }
    // Most likely the host goes down. The next daemon starts it again, and this is no failure of its own.
    let next = after(Upkeep { attempts: 0, ..before });
    if next.due.is_some() { Upkeep { attempts: before.attempts.max(1), ..next } } else { next }
}

/// A device that the plan has no more business with.
pub(super) fn forget(facts: &mut Facts, device: Device) {
    facts.seen.releases.remove(&device);
}
