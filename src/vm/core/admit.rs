//! Takes requests in: what the table says is done, which is to set a goal or the definition, and to wait.

use super::{
    answer::{Answer, Effects, Ticket, Until, Waiting},
    change::{define, redefine, renamed, take_back, unchanged},
    due::bring_to_rest,
    facts::{Facts, Guest, Now, Run},
    goal::{Cause, Deadline, Goal},
    request::{Patience, Request},
    seen::{Launch, Monitor},
    step::Lane,
    table::{Act, Ask, Refusal, State, Verdict, judge},
};
use crate::model::{Conflict, Due, Ending, Error, Result, Upkeep};

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
        refuse(facts, ticket, Error::Busy(facts.record.definition.id));
    } else if !request.is_forced() && !facts.later.is_empty() {
        // Behind one that has to wait, everything waits: requests are done in their order.
        facts.later.push((ticket, request));
    } else {
        take(facts, ticket, request);
    }
    bring_to_rest(facts)
}

/// A refusal holds whatever is stored.
pub(super) fn refuse(facts: &mut Facts, ticket: Ticket, error: Error) {
    facts.waiting.push(Waiting { ticket, until: Until::Stored(Err(error)), commit: 0 });
}

pub(super) fn take(facts: &mut Facts, ticket: Ticket, request: Request) {
    if facts.gone {
        return refuse(facts, ticket, Error::VmNotFound(facts.record.definition.id));
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
    match judge(state(facts), ask) {
        Verdict::Do(act) => carry_out(facts, ticket, request, act),
        Verdict::Already => {
            let answer = if ask == Ask::Start { Answer::Running } else { Answer::Done };
            facts.wait(ticket, Until::Stored(Ok(answer)));
        }
        Verdict::Later => facts.later.push((ticket, request)),
        Verdict::Refuse(Refusal::Conflict(conflict)) => refuse(facts, ticket, conflict.into()),
        Verdict::Refuse(Refusal::Unresponsive) => {
            refuse(facts, ticket, Error::Unresponsive(facts.record.definition.id));
        }
    }
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
            Err(error) => refuse(facts, ticket, error),
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
            wait_for_off(facts, ticket, Until::Off);
        }
        Act::Acknowledge => {
            facts.record.run.state = Run::Down { last: Ending::Clean };
            facts.record.run.upkeep = Upkeep::default();
            match request {
                Request::StopAndDelete(_) => wait_for_gone(facts, ticket),
                _ => facts.wait(ticket, Until::Stored(Ok(Answer::Stopped { forced: false, already: true }))),
            }
        }
        Act::Reboot => {
            let Some(patience) = patience(&request) else { return };
            if patience.agent_only
                && let Err(error) = need_agent(facts)
            {
                return refuse(facts, ticket, error);
            }
            facts.set_goal(Goal::Reboot(deadline(facts, patience)));
            facts.seen.requested = None;
            let until = if patience.agent_only { Until::Requested } else { Until::Stored(Ok(Answer::Done)) };
            facts.wait(ticket, until);
        }
        Act::Reset => set(facts, ticket, Goal::Reset, Until::WasReset),
        Act::Pause => set(facts, ticket, Goal::Pause, Until::Halted),
        Act::Resume => set(facts, ticket, Goal::Resume, Until::GoesOn),
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
            cut_launch(facts);
            wait_for_gone(facts, ticket);
        }
    }
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
        return refuse(facts, ticket, error);
    }
    let goal = before.joined_by_stop(deadline(facts, patience));
    if !matches!((before, goal), (Goal::Stop(then), Goal::Stop(now)) if then.agent_only == now.agent_only) {
        facts.seen.requested = None;
    }
    facts.set_goal(goal);
    let then_gone = matches!(request, Request::StopAndDelete(_));
    wait_for_off(facts, ticket, if then_gone { Until::OffThenGone } else { Until::Off });
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
    if is_off && until == Until::OffThenGone {
        return wait_for_gone(facts, ticket);
    }
    facts.wait(
        ticket,
        match until {
            Until::Off if is_off => Until::Stored(Ok(Answer::Stopped { forced: true, already: false })),
            until => until,
        },
    );
}

fn need_agent(facts: &Facts) -> Result<()> {
    let why = match (facts.is_open(), facts.seen.agent) {
        (true, true) => return Ok(()),
        (true, false) => "it is not running in the guest, or the guest is still booting",
        (false, _) => "the VM's monitor does not answer, so it cannot be asked",
    };
    Err(Error::NoAgent { why: format!("{why}; force=true cuts the power") })
}

fn cut(facts: &mut Facts) {
    cut_launch(facts);
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

/// A start that is under way is taken back.
fn cut_launch(facts: &mut Facts) {
    if let Run::Starting { .. } | Run::Making { .. } = facts.record.run.state {
        let overtaken = Error::Conflict(Conflict::Overtaken);
        facts.fail_starts(&overtaken);
        facts.seen.launch.failed.get_or_insert(overtaken);
        (facts.seen.launch.was_cut, facts.seen.was_cut) = (true, true);
    }
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
            | Until::OffThenGone
            | Until::Halted
            | Until::GoesOn
            | Until::WasReset
            | Until::Requested
            | Until::Turn => true,
            // Starts are taken back with what they have begun.
            Until::Up
            | Until::Made
            | Until::TakenBack(_)
            | Until::Stored(_)
            | Until::Cleared { .. }
            | Until::Off
            | Until::Gone => false,
        },
        &overtaken(),
    );
}

fn answer_overtaken(facts: &mut Facts, ticket: Ticket, request: &Request) {
    match request {
        Request::Stop(_) if facts.record.run.is_down() || facts.gone => {
            facts.wait(ticket, Until::Stored(Ok(Answer::Stopped { forced: true, already: false })));
        }
        // The kernel, or the store, stands in the way of the other one.
        Request::Stop(_) => facts.wait(ticket, Until::Off),
        Request::Start
        | Request::StopAndDelete(_)
        | Request::ForceOff
        | Request::Reboot(_)
        | Request::Reset
        | Request::Restart(_)
        | Request::Suspend
        | Request::Resume
        | Request::Boot
        | Request::Change(_)
        | Request::Redefine(_)
        | Request::Delete => refuse(facts, ticket, Conflict::Overtaken.into()),
    }
}
