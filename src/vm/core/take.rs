//! Does what the table says of a request: sets a goal or the definition, and has the request wait.

use super::{
    answer::{Answer, Ticket, Until},
    change::{define, redefine, renamed, unchanged},
    facts::Facts,
    goal::{Cause, Deadline, Goal},
    lane::Lane,
    record::{Guest, Run},
    request::{Patience, Request},
    seen::{Launch, Monitor},
    table::{Act, Ask, Refusal, State, Verdict, judge},
};
use crate::model::{Change, Conflict, Due, Ending, Error, Result, Upkeep};

pub(super) fn take(facts: &mut Facts, ticket: Ticket, request: Request) {
    if facts.gone {
        return facts.refuse(ticket, Error::VmNotFound(facts.record.definition.id));
    }
    let ask = request.ask();
    if let Some(answer) = unchanged(facts, &request) {
        return facts.wait(ticket, Until::Stored(answer));
    }
    if let Request::Redefine(redefinition) = &request
        && renamed(facts, ticket, redefinition)
    {
        return;
    }
    let verdict = judge(state(facts), ask);
    if is_kept_from(facts, &request, verdict) {
        return facts.refuse(ticket, Conflict::Protected.into());
    }
    match verdict {
        Verdict::Do(act) => carry_out(facts, ticket, request, act),
        Verdict::Already => {
            let answer = if ask == Ask::Start { Answer::Running } else { Answer::Done };
            facts.wait(ticket, Until::Stored(Ok(answer)));
        }
        Verdict::Later => facts.later.push((ticket, request)),
        Verdict::Refuse(Refusal::Conflict(conflict)) => facts.refuse(ticket, conflict.into()),
        Verdict::Refuse(Refusal::Unresponsive) => {
            facts.refuse(ticket, Error::Unresponsive(facts.record.definition.id));
        }
    }
}

/// Whether its owner has protected the VM from this. What is so already is none of it, and a stop that the guest was asked for
/// comes to its end.
fn is_kept_from(facts: &Facts, request: &Request, verdict: Verdict) -> bool {
    let ends = match request {
        Request::Delete | Request::StopAndDelete(_) => !matches!(verdict, Verdict::Refuse(_)),
        Request::ForceOff => verdict == Verdict::Do(Act::Cut),
        // Its data goes with it.
        Request::Change(change) => {
            change.each().iter().any(|change| matches!(change, Change::RemoveDisk(_) | Change::Keep { .. }))
        }
        Request::Start
        | Request::Stop(_)
        | Request::Reboot(_)
        | Request::Restart(_)
        | Request::Reset
        | Request::Suspend
        | Request::Resume
        | Request::Freeze(_)
        | Request::Thaw
        | Request::Boot
        | Request::Redefine(_) => false,
    };
    ends && facts.record.definition.metadata.protected
}

/// How the VM is for the table.
pub(super) fn state(facts: &Facts) -> State {
    let gives_up = facts.record.run.is_down() && facts.stuck.contains_key(&Lane::Files);
    let deleting =
        (facts.goal() == Goal::Gone && !gives_up) || facts.waiting.iter().any(|waiting| waiting.until == Until::Gone);
    match &facts.record.run.state {
        _ if deleting && facts.seen.kernel_holds => State::Held,
        _ if deleting => State::Deleting,
        Run::Making { .. } => State::Starting,
        Run::Starting { .. } if facts.seen.kernel_holds => State::Stopping,
        Run::Starting { .. } => State::Starting,
        Run::Down { last: Ending::Clean } => State::Stopped,
        Run::Down { last: Ending::Crashed { .. } } => State::Crashed,
        Run::Up(_) if facts.seen.kernel_holds => State::Stopping,
        Run::Up(up) => match (&facts.seen.monitor, facts.goal()) {
            (_, Goal::Off { .. }) => State::Ending,
            (Monitor::Away { tells_at, .. }, _) if *tells_at <= facts.now.monotonic => State::Unresponsive,
            (_, Goal::Stop(_) | Goal::Gone) => State::Stopping,
            (_, Goal::Reboot(_)) => State::Rebooting,
            (_, Goal::Pause) => State::Paused,
            (_, Goal::Resume | Goal::Reset) => State::Running,
            (_, Goal::Rest) => match up.guest {
                Guest::Running => State::Running,
                Guest::Paused { .. } => State::Paused,
            },
        },
    }
}

fn carry_out(facts: &mut Facts, ticket: Ticket, request: Request, act: Act) {
    match act {
        Act::Launch => match launch(facts, false) {
            Ok(()) => facts.wait(ticket, Until::Up),
            Err(error) => facts.refuse(ticket, error),
        },
        Act::JoinStart => {
            let starts = matches!(facts.record.run.state, Run::Starting { .. } | Run::Making { start: true });
            if starts && facts.seen.launch.failed.is_none() {
                facts.wait(ticket, Until::Up);
            } else {
                // It is being taken back already, or comes to no start.
                facts.later.push((ticket, request));
            }
        }
        Act::Stop => stop(facts, ticket, &request),
        Act::Cut => {
            cut(facts);
            wait_for_off(facts, ticket, Until::Off(None));
        }
        Act::Acknowledge => {
            let (state, upkeep) = (Run::Down { last: Ending::Clean }, Upkeep::default());
            let changed = (&facts.record.run.state, &facts.record.run.upkeep) != (&state, &upkeep);
            (facts.record.run.state, facts.record.run.upkeep) = (state, upkeep);
            match request {
                Request::StopAndDelete(_) => wait_for_gone(facts, ticket),
                _ => facts.wait(ticket, Until::Stored(Ok(Answer::WasOff { changed }))),
            }
        }
        Act::Reboot => {
            let Some(patience) = patience(&request) else { return };
            if patience.agent_only
                && let Err(error) = need_agent(facts)
            {
                return facts.refuse(ticket, error);
            }
            facts.set_goal(Goal::Reboot(deadline(facts, patience)));
            facts.seen.requested = None;
            let until = if patience.agent_only { Until::Requested } else { Until::Stored(Ok(Answer::Done)) };
            facts.wait(ticket, until);
        }
        Act::Reset => set(facts, ticket, Goal::Reset, Until::WasReset),
        Act::Pause => set(facts, ticket, Goal::Pause, Until::Halted),
        Act::Resume => set(facts, ticket, Goal::Resume, Until::GoesOn),
        Act::Freeze | Act::Thaw => freeze(facts, ticket, &request),
        Act::LookForFiles if facts.record.run.upkeep.due == Some(Due::Boot) && !facts.bounds.closing => {
            facts.seen.look_for_files = true;
            facts.stuck.remove(&Lane::Files);
            facts.wait(ticket, Until::Turn);
        }
        Act::StrikeOut if facts.record.run.upkeep.due == Some(Due::Boot) && !facts.bounds.closing => {
            facts.record.run.upkeep.due = None;
            facts.wait(ticket, Until::Stored(Ok(Answer::Done)));
        }
        Act::LookForFiles | Act::StrikeOut => facts.wait(ticket, Until::Stored(Ok(Answer::Skipped))),
        Act::Define => match request {
            Request::Change(change) => define(facts, ticket, *change),
            Request::Redefine(redefinition) => redefine(facts, ticket, *redefinition),
            _ => {}
        },
        Act::Remove => {
            cut_launch(facts, Conflict::Overtaken);
            wait_for_gone(facts, ticket);
        }
    }
}

/// A guest that somebody else has frozen is thawed as well.
fn freeze(facts: &mut Facts, ticket: Ticket, request: &Request) {
    if let Err(why) = agent_is_there(facts) {
        return facts.refuse(ticket, Error::NoAgent { why: why.to_owned() });
    }
    let now = facts.now.monotonic;
    let (until, at) = match request {
        Request::Freeze(_) if facts.record.run.frozen.is_some() => {
            return facts.refuse(ticket, Conflict::Frozen.into());
        }
        Request::Freeze(time) => (Until::Frozen, now.saturating_add(*time)),
        _ => (Until::Thawed, now),
    };
    facts.seen.thaw_next = None;
    facts.record.run.frozen = Some(at);
    facts.wait(ticket, until);
}

fn set(facts: &mut Facts, ticket: Ticket, goal: Goal, until: Until) {
    facts.set_goal(goal);
    facts.wait(ticket, until);
}

/// A start begins, whoever wants it.
pub(super) fn launch(facts: &mut Facts, unattended: bool) -> Result<()> {
    if facts.bounds.closing {
        return Err(Error::ShuttingDown);
    }
    let (new, last) = match &facts.record.run.state {
        Run::Down { last } => (false, last.clone()),
        Run::Making { .. } => (true, Ending::Clean),
        Run::Starting { .. } | Run::Up(_) => return Ok(()),
    };
    let definition = facts.record.definition.clone();
    if !new {
        // It was to go, and that failed.
        facts.set_goal(Goal::Rest);
    }
    facts.seen.wish |= !unattended;
    facts.seen.grow.clear();
    facts.seen.taps.clear();
    facts.record.run.held.before_start(&definition.nics);
    facts.record.run.state = Run::Starting { process: None, new, last };
    facts.seen.launch = Launch { unattended, ..Launch::default() };
    facts.seen.was_cut = false;
    // Its turn after the boot of the host is taken, whoever took it.
    facts.seen.look_for_files = false;
    facts.answer_instead(|until| *until == Until::Turn, &Ok(Answer::Done));
    Ok(())
}

fn patience(request: &Request) -> Option<Patience> {
    match request {
        Request::Stop(patience) | Request::StopAndDelete(patience) | Request::Reboot(patience) => Some(*patience),
        Request::Restart(patience) => *patience,
        Request::Start
        | Request::ForceOff
        | Request::Reset
        | Request::Suspend
        | Request::Resume
        | Request::Freeze(_)
        | Request::Thaw
        | Request::Boot
        | Request::Change(_)
        | Request::Redefine(_)
        | Request::Delete => None,
    }
}

fn deadline(facts: &Facts, patience: Patience) -> Deadline {
    Deadline { at: facts.now.monotonic.saturating_add(patience.time), agent_only: patience.agent_only }
}

fn stop(facts: &mut Facts, ticket: Ticket, request: &Request) {
    let Some(patience) = patience(request) else { return };
    let before = facts.goal();
    if patience.agent_only
        && !before.ends_run()
        && let Err(error) = need_agent(facts)
    {
        return facts.refuse(ticket, error);
    }
    let deadline = deadline(facts, patience);
    set_stop(facts, before.joined_by_stop(deadline));
    let then_gone = matches!(request, Request::StopAndDelete(_));
    let until = if then_gone { Until::OffThenGone(deadline) } else { Until::Off(Some(deadline)) };
    wait_for_off(facts, ticket, until);
}

/// The guest is asked anew where another way is to be taken.
pub(super) fn set_stop(facts: &mut Facts, goal: Goal) {
    let before = facts.goal();
    if !matches!((before, goal), (Goal::Stop(then), Goal::Stop(now)) if then.agent_only == now.agent_only) {
        facts.seen.requested = None;
    }
    facts.set_goal(goal);
}

/// A deletion that failed is tried again.
fn wait_for_gone(facts: &mut Facts, ticket: Ticket) {
    facts.seen.kill_again = facts.seen.kernel_holds;
    facts.stuck.remove(&Lane::Files);
    facts.wait(ticket, Until::Gone);
}

/// One that the kernel holds is tried once more: there is nothing else to wait for.
fn wait_for_off(facts: &mut Facts, ticket: Ticket, until: Until) {
    facts.seen.kill_again = facts.seen.kernel_holds;
    let is_off = matches!(facts.record.run.state, Run::Down { .. });
    if is_off {
        // What is to stay off is owed no start, should its deletion fail.
        facts.record.run.upkeep = Upkeep::default();
    }
    if is_off && matches!(until, Until::OffThenGone(_)) {
        return wait_for_gone(facts, ticket);
    }
    facts.wait(
        ticket,
        match until {
            Until::Off(_) if is_off => Until::Stored(Ok(Answer::Stopped { forced: true })),
            until => until,
        },
    );
}

fn need_agent(facts: &Facts) -> Result<()> {
    agent_is_there(facts).map_err(|why| Error::NoAgent { why: format!("{why}; force=true cuts the power") })
}

/// # Errors
/// Why not.
fn agent_is_there(facts: &Facts) -> Result<(), &'static str> {
    match (facts.is_open(), facts.seen.agent) {
        (true, true) => Ok(()),
        (true, false) => Err("it is not running in the guest, or the guest is still booting"),
        (false, _) => Err("the VM's monitor does not answer, so it cannot be asked"),
    }
}

fn cut(facts: &mut Facts) {
    cut_launch(facts, Conflict::Overtaken);
    // A start that was owed is no longer, and a crash before it is forgotten.
    if let Run::Starting { last, .. } = &mut facts.record.run.state {
        *last = Ending::Clean;
        facts.record.run.upkeep = Upkeep::default();
    }
    if facts.up().is_some() {
        facts.seen.was_cut = true;
        if facts.goal() != Goal::Gone {
            facts.set_goal(Goal::Off { cause: Cause::Cut });
        }
    }
}

/// A start that is under way is taken back, for this reason.
pub(super) fn cut_launch(facts: &mut Facts, why: Conflict) {
    if let Run::Starting { .. } | Run::Making { .. } = facts.record.run.state {
        let error = Error::Conflict(why);
        facts.fail_starts(&error);
        facts.seen.launch.failed.get_or_insert(error);
        (facts.seen.launch.was_cut, facts.seen.was_cut) = (true, true);
    }
}
