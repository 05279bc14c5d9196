//! What follows from the facts without anybody's doing: deadlines that pass, starts that are due, ends that are complete. It
//! is looked at after everything that happens, and when a plan's time to wake has come.

use super::{
    Ms,
    answer::{Answer, Effects, Until},
    difference::disk,
    facts::Facts,
    goal::{Cause, Goal},
    lane::{DiskNo, Lane},
    record::{Record, Run},
    seen::Monitor,
    table::{Act, Verdict, judge},
    take::{launch, state, take},
};
use crate::model::{Conflict, Due, Ending, Error, Nic};

/// Brings the facts to rest, and says what follows at once.
pub(super) fn bring_to_rest(facts: &mut Facts) -> Effects {
    drop_unmade(facts);
    finish_making(facts);
    finish_unwinding(facts);
    note_ports(facts);
    note_vcpus(facts);
    pass_deadlines(facts);
    give_up_freezing(facts);
    note_silence(facts);
    note_power_off(facts);
    restart(facts);
    take_later(facts);
    facts.note_news();
    let effects = facts.take_answers();
    facts.forget_askers();
    effects
}

/// Disks that are defined no more, neither here nor after a crash, are none that wait to be made.
fn drop_unmade(facts: &mut Facts) {
    let bears = |record: &Record, no: DiskNo| disk(&record.definition, no).is_some();
    let gone = |no: &&DiskNo| !bears(&facts.record, **no) && facts.is_stored(|record| !bears(record, **no));
    if let Some(no) = facts.record.run.unmade.iter().find(gone).copied() {
        facts.record.run.unmade.remove(&no);
    }
}

/// Every disk of a new VM is made: it exists, or it exists once it runs. One that could not be made never did.
fn finish_making(facts: &mut Facts) {
    let Run::Making { start } = facts.record.run.state else { return };
    if facts.seen.launch.failed.is_some() {
        return facts.set_goal(Goal::Gone);
    }
    if facts.goal() == Goal::Gone || !facts.record.run.unmade.is_empty() {
        return;
    }
    if !start {
        facts.record.run.state = Run::Down { last: Ending::Clean };
        return facts.answer_instead(|until| *until == Until::Made, &Ok(Answer::Done));
    }
    if let Err(error) = launch(facts, false) {
        facts.fail_starts(&error);
        facts.seen.launch.failed = Some(error);
        facts.set_goal(Goal::Gone);
    }
}

/// A start that failed has left nothing that runs.
fn finish_unwinding(facts: &mut Facts) {
    let Run::Starting { new, last, .. } = &facts.record.run.state else { return };
    let Some(error) = facts.seen.launch.failed.clone() else { return };
    let busy = facts.seen.process || facts.in_flight.contains_key(&Lane::Power) || facts.record.run.held.strays;
    if busy {
        return;
    }
    if *new {
        // All or nothing.
        facts.record.run.state = Run::Making { start: true };
        facts.set_goal(Goal::Gone);
        return;
    }
    let mut last = facts.seen.launch.ending.take().unwrap_or_else(|| last.clone());
    if facts.seen.launch.unattended && !facts.seen.launch.was_cut && !facts.bounds.closing {
        // Nobody waits for it: it shows as a crash, and counts as one.
        let upkeep = &mut facts.record.run.upkeep;
        let what = match upkeep.due {
            Some(Due::Boot) => "it did not start after the boot of the host",
            Some(Due::Restart { .. }) | None => "it did not start again",
        };
        last = Ending::Crashed { reason: format!("{what}: {error}") };
        upkeep.due = None;
        *upkeep = upkeep.after(&facts.record.definition.policy, &last, 0, facts.now.wall);
        upkeep.due = upkeep.due.map(|due| dated(due, facts.now.wall, facts.now.monotonic));
    }
    facts.record.run.state = Run::Down { last };
    facts.seen.look_for_files = true;
    is_off(facts, true);
}

/// The VM has no process any more, and it shows.
pub(super) fn is_off(facts: &mut Facts, forced: bool) {
    facts.seen.kernel_holds = false;
    facts.seen.launch = Default::default();
    let stopped = Ok(Answer::Stopped { forced });
    facts.answer_instead(|until| matches!(until, Until::Off(_)), &stopped);
    let commit = facts.due_commit();
    for waiting in &mut facts.waiting {
        match &waiting.until {
            Until::TakenBack(error) => (waiting.until, waiting.commit) = (Until::Stored(Err(error.clone())), commit),
            Until::OffThenGone(_) => waiting.until = Until::Gone,
            _ => {}
        }
    }
}

/// What a NIC may have on the host is known before it has it.
fn note_ports(facts: &mut Facts) {
    let in_effect = match &facts.record.run.state {
        Run::Making { .. } | Run::Down { .. } => return,
        Run::Starting { .. } => None,
        Run::Up(up) => Some(&up.in_effect),
    };
    let is_plugged = |nic: &Nic| in_effect.is_none_or(|live| live.nic(nic.id).is_some());
    let may_leave = |nic: &&Nic| nic.switch().is_some() || !is_plugged(nic);
    for nic in facts.record.definition.nics.iter().filter(may_leave) {
        facts.record.run.held.ports.entry(nic.id).or_insert_with(|| std::sync::Arc::new(nic.clone()));
    }
}

/// How many vCPUs QEMU has made, before it makes or loses any.
fn note_vcpus(facts: &mut Facts) {
    let wanted = facts.record.definition.vcpus;
    let (Some(present), Some(up)) = (facts.seen.vcpus, facts.up()) else { return };
    if up.in_effect.vcpus == wanted || facts.seen.vcpus_noted == Some(wanted) {
        return;
    }
    let (used, made, most) = (up.in_effect.vcpus, up.vcpus_made, up.in_effect.max_vcpus);
    facts.seen.vcpus_noted = Some(wanted);
    facts.seen.vcpu_room = most.saturating_sub(made.max(present));
    let Some(up) = facts.up_mut() else { return };
    if wanted < used {
        up.vcpus_made = made.max(present);
    } else if made > present {
        // As long as none has gone, those that are there tell.
        up.vcpus_made = (made + wanted.saturating_sub(present)).min(most);
    }
}

fn pass_deadlines(facts: &mut Facts) {
    let Some(deadline) = facts.goal().deadline() else { return };
    if deadline.at > facts.now.monotonic || facts.up().is_none() || facts.seen.kernel_holds {
        return;
    }
    if deadline.agent_only {
        let why = "the guest was asked by its agent and did not do it in time; force=true cuts the power";
        return leave_running(facts, &Error::NoAgent { why: why.to_owned() });
    }
    if let Goal::Stop(_) = facts.goal() {
        facts.seen.was_cut = true;
        facts.set_goal(Goal::Off { cause: Cause::Cut });
    }
}

/// What is to power off or reboot is not frozen for anybody.
fn give_up_freezing(facts: &mut Facts) {
    if facts.goal().ends_run() || matches!(facts.goal(), Goal::Reboot(_)) {
        facts.answer_instead(|until| *until == Until::Frozen, &Err(Conflict::Overtaken.into()));
    }
}

/// The guest goes on as if it had not been asked; whoever waits for its end is told why that does not come.
pub(super) fn leave_running(facts: &mut Facts, error: &Error) {
    let concerned = |until: &Until| matches!(until, Until::Off(_) | Until::OffThenGone(_) | Until::Requested);
    facts.answer_instead(concerned, &Err(error.clone()));
    facts.set_goal(Goal::Rest);
}

/// A guest that has powered off, and that nobody wants to reboot any more.
fn note_power_off(facts: &mut Facts) {
    let is_reset = facts.in_flight.contains_key(&Lane::Power);
    if facts.up().is_some() && facts.seen.powered_off && !is_reset && facts.goal() == Goal::Rest {
        facts.set_goal(Goal::Off { cause: Cause::Guest });
    }
}

/// A monitor that has had its time can do nothing for those who wait for it.
fn note_silence(facts: &mut Facts) {
    let Monitor::Away { tells_at, .. } = &facts.seen.monitor else { return };
    if *tells_at <= facts.now.monotonic {
        give_up_at_once(facts, &Error::Unresponsive(facts.record.definition.id));
    }
}

/// What is done at once, or not at all.
pub(super) fn give_up_at_once(facts: &mut Facts, error: &Error) {
    let concerned = |until: &Until| {
        matches!(
            until,
            Until::Halted | Until::GoesOn | Until::WasReset | Until::Requested | Until::Frozen | Until::Thawed
        )
    };
    facts.answer_instead(concerned, &Err(error.clone()));
    if let Goal::Pause | Goal::Resume | Goal::Reset = facts.goal() {
        facts.set_goal(Goal::Rest);
    }
}

fn restart(facts: &mut Facts) {
    let Some(at) = restart_at(facts) else { return };
    if at <= facts.now.monotonic {
        // The daemon does not end: that is the only refusal.
        let _ = launch(facts, true);
    }
}

/// When the next restart is due.
fn restart_at(facts: &Facts) -> Option<Ms> {
    let waits = facts.record.run.is_down() && facts.goal() == Goal::Rest && !facts.bounds.closing;
    let deleted = facts.waiting.iter().any(|waiting| waiting.until == Until::Gone);
    match facts.record.run.upkeep.due {
        Some(Due::Restart { monotonic, .. }) if waits && !deleted => Some(monotonic.unwrap_or(facts.now.monotonic)),
        Some(Due::Restart { .. } | Due::Boot) | None => None,
    }
}

/// By the clock that nobody sets.
pub(super) fn dated(due: Due, wall: u64, monotonic: Ms) -> Due {
    match due {
        Due::Restart { at, .. } => Due::Restart { at, monotonic: Some(monotonic + at.saturating_sub(wall)) },
        Due::Boot => Due::Boot,
    }
}

/// Requests that came during a start or a deletion have their turn, in their order.
fn take_later(facts: &mut Facts) {
    while let Some((_, request)) = facts.later.first() {
        let verdict = judge(state(facts), request.ask());
        if !facts.gone && matches!(verdict, Verdict::Later | Verdict::Do(Act::JoinStart)) {
            return;
        }
        let (ticket, request) = facts.later.remove(0);
        take(facts, ticket, request);
    }
}

/// When something follows that nobody says.
pub(super) fn next_wake(facts: &Facts) -> Option<Ms> {
    let deadline = facts.goal().deadline().filter(|_| facts.up().is_some() && !facts.seen.kernel_holds);
    let silence = match &facts.seen.monitor {
        Monitor::Away { tells_at, .. } => Some(*tells_at),
        Monitor::None | Monitor::Open => None,
    };
    let pending = facts.waiting.iter().filter_map(|waiting| match waiting.until {
        Until::Applied { pending_at, .. } => pending_at,
        _ => None,
    });
    let stuck = facts.stuck.values().filter_map(|stuck| stuck.again);
    let alone = [deadline.map(|deadline| deadline.at), silence, restart_at(facts), facts.next_news()];
    alone.into_iter().flatten().chain(pending).chain(stuck).filter(|at| *at > facts.now.monotonic).min()
}
