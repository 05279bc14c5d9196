//! What a request means in each state, as one table that is also the dispatch: what `judge` says is what is done
//! (rulings 8, 19, 20, 25, 30). `tests/lifecycle_table.rs` prints it whole.

use std::sync::Arc;

use super::{
    answer::{Answer, Effects, Ticket, Until},
    difference,
    due::settle,
    facts::{Facts, Guest, Now, Run},
    goal::{Cause, Deadline, Goal},
    request::{Patience, Request},
    seen::{Device, Launch, Monitor},
    step::Lane,
};
use crate::model::{
    Applied, Change, Conflict, Due, Ending, Error, OnIoError, Policy, Redefinition, Result, Status, Upkeep, VmSpec,
};

/// Ordinary requests that may wait for one VM.
const MOST_WAITING: usize = 64;
/// A removal that the guest has not released by then is answered as pending (ruling 34).
const PENDING: u64 = 1_000;

/// How a VM is, as far as requests are concerned: what was wanted of it before counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Stopped,
    Crashed,
    Starting,
    Running,
    Paused,
    Stopping,
    Rebooting,
    Unresponsive,
    /// It is being deleted.
    Deleting,
    /// It is being deleted, and the kernel holds its process: nobody can wait for that.
    Held,
}

impl State {
    pub const ALL: [Self; 10] = [
        Self::Stopped,
        Self::Crashed,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Rebooting,
        Self::Unresponsive,
        Self::Deleting,
        Self::Held,
    ];

    /// As it is told.
    fn status(self) -> Status {
        match self {
            Self::Stopped => Status::Stopped,
            Self::Crashed => Status::Crashed,
            Self::Starting => Status::Starting,
            Self::Running => Status::Running,
            Self::Paused => Status::Paused,
            Self::Stopping | Self::Deleting | Self::Held => Status::Stopping,
            Self::Rebooting => Status::Rebooting,
            Self::Unresponsive => Status::Unresponsive,
        }
    }
}

/// The columns of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Start,
    /// Ask the guest, then cut.
    Stop,
    ForceOff,
    Reboot,
    /// Reset at once.
    Reset,
    /// Reboot, or start.
    Restart,
    /// Reset at once, or start.
    RestartAtOnce,
    Suspend,
    Resume,
    /// Its turn after a boot of the host.
    Boot,
    Change,
    /// Change what a running VM does not take.
    Redefine,
    Delete,
}

impl Ask {
    pub const ALL: [Self; 13] = [
        Self::Start,
        Self::Stop,
        Self::ForceOff,
        Self::Reboot,
        Self::Reset,
        Self::Restart,
        Self::RestartAtOnce,
        Self::Suspend,
        Self::Resume,
        Self::Boot,
        Self::Change,
        Self::Redefine,
        Self::Delete,
    ];
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Do(Act),
    /// It is so already.
    Already,
    /// It is judged when the start, or the deletion, is over.
    Later,
    Refuse(Refusal),
}

/// What a request sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A start begins.
    Launch,
    /// The request waits for the start that is under way.
    JoinStart,
    /// The goals of the same names.
    Stop,
    Reboot,
    Reset,
    Pause,
    Resume,
    /// The power is cut, or a start is.
    Cut,
    /// A crash is forgotten, and so is a start that was owed.
    Acknowledge,
    /// Files are looked for, and then it starts.
    LookForFiles,
    /// A start that was owed is no longer.
    StrikeOut,
    /// The definition.
    Define,
    /// Everything is to go.
    Remove,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 409 in both dialects.
    Conflict(Conflict),
    /// 503.
    Unresponsive,
}

/// The table.
pub fn judge(state: State, ask: Ask) -> Verdict {
    use State::*;
    use Verdict::{Already, Do, Later, Refuse};
    let conflict = |conflict| Refuse(Refusal::Conflict(conflict));
    match (ask, state) {
        // A deletion that fails leaves a VM, which these are for; one that succeeds leaves none.
        (
            Ask::Start
            | Ask::Reboot
            | Ask::Reset
            | Ask::Restart
            | Ask::RestartAtOnce
            | Ask::Suspend
            | Ask::Resume
            | Ask::Change
            | Ask::Redefine
            | Ask::Boot,
            Deleting,
        ) => Later,
        (
            Ask::Start
            | Ask::Reboot
            | Ask::Reset
            | Ask::Restart
            | Ask::RestartAtOnce
            | Ask::Suspend
            | Ask::Resume
            | Ask::Change
            | Ask::Redefine
            | Ask::Boot,
            Held,
        ) => conflict(Conflict::Deleting),

        (Ask::Start, Stopped | Crashed) => Do(Act::Launch),
        (Ask::Start, Starting) => Do(Act::JoinStart),
        (Ask::Start, Running) => Already,
        (Ask::Start, Paused) => Do(Act::Resume),
        (Ask::Start, Stopping) => conflict(Conflict::Stopping),
        (Ask::Start, Rebooting) => conflict(Conflict::Rebooting),
        (Ask::Start, Unresponsive) => Refuse(Refusal::Unresponsive),

        (Ask::Stop, Stopped | Crashed) => Do(Act::Acknowledge),
        (Ask::Stop, Starting) => Later,
        (Ask::Stop, Running | Paused | Stopping | Rebooting | Unresponsive | Deleting | Held) => Do(Act::Stop),

        (Ask::ForceOff, Stopped | Crashed) => Do(Act::Acknowledge),
        (Ask::ForceOff, Starting | Running | Paused | Stopping | Rebooting | Unresponsive | Deleting | Held) => {
            Do(Act::Cut)
        }

        (Ask::Reboot | Ask::Reset, Stopped | Crashed) => conflict(Conflict::NotRunning),
        (Ask::Restart | Ask::RestartAtOnce, Stopped | Crashed) => Do(Act::Launch),
        (Ask::Reboot | Ask::Reset | Ask::Restart | Ask::RestartAtOnce, Starting) => Later,
        (Ask::Reboot | Ask::Restart, Running | Paused) => Do(Act::Reboot),
        (Ask::Reset | Ask::RestartAtOnce, Running | Paused) => Do(Act::Reset),
        (Ask::Reboot | Ask::Reset | Ask::Restart | Ask::RestartAtOnce, Stopping) => conflict(Conflict::Stopping),
        (Ask::Reboot | Ask::Restart, Rebooting) => Already,
        (Ask::Reset | Ask::RestartAtOnce, Rebooting) => Do(Act::Reset),
        (Ask::Reboot | Ask::Reset | Ask::Restart | Ask::RestartAtOnce, Unresponsive) => Refuse(Refusal::Unresponsive),

        (Ask::Suspend, Running) => Do(Act::Pause),
        (Ask::Suspend, Paused) => conflict(Conflict::AlreadySuspended),
        (Ask::Resume, Paused) => Do(Act::Resume),
        (Ask::Resume, Running) => conflict(Conflict::AlreadyRunning),
        (Ask::Suspend | Ask::Resume, Stopped | Crashed) => conflict(Conflict::Off),
        (Ask::Suspend | Ask::Resume, Starting) => Later,
        (Ask::Suspend | Ask::Resume, Stopping) => conflict(Conflict::Stopping),
        (Ask::Suspend | Ask::Resume, Rebooting) => conflict(Conflict::Rebooting),
        (Ask::Suspend | Ask::Resume, Unresponsive) => Refuse(Refusal::Unresponsive),

        (Ask::Boot, Stopped | Crashed) => Do(Act::LookForFiles),
        (Ask::Boot, Starting) => Later,
        (Ask::Boot, Running | Paused | Stopping | Rebooting | Unresponsive) => Do(Act::StrikeOut),

        (Ask::Change, Starting) => Later,
        (Ask::Change, Stopped | Crashed | Running | Paused | Stopping | Rebooting | Unresponsive) => Do(Act::Define),

        (Ask::Redefine, Stopped | Crashed) => Do(Act::Define),
        (Ask::Redefine, Starting) => Later,
        (Ask::Redefine, Running | Paused | Stopping | Rebooting | Unresponsive) => {
            conflict(Conflict::MustBeOff(state.status()))
        }

        (
            Ask::Delete,
            Stopped | Crashed | Starting | Running | Paused | Stopping | Rebooting | Unresponsive | Deleting | Held,
        ) => Do(Act::Remove),
    }
}

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
    settle(facts)
}

/// A refusal holds whatever is stored.
fn refuse(facts: &mut Facts, ticket: Ticket, error: Error) {
    facts.waiting.push(super::answer::Waiting { ticket, until: Until::Stored(Err(error)), commit: 0 });
}

pub(super) fn take(facts: &mut Facts, ticket: Ticket, request: Request) {
    if facts.gone {
        return refuse(facts, ticket, Error::VmNotFound(facts.record.definition.id));
    }
    let ask = request.ask();
    if let Some(answer) = unchanged(facts, &request) {
        return facts.wait(ticket, Until::Stored(answer));
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
    let deleting = (facts.goal() == Goal::Gone && !gives_up)
        || facts.waiting.iter().any(|waiting| waiting.until == Until::Gone);
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
            (Monitor::Away { tells_at, .. }, _) if *tells_at <= facts.now.monotonic => State::Unresponsive,
            (_, Goal::Stop(_) | Goal::Off { .. } | Goal::Gone) => State::Stopping,
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
    facts.seen.look_for_files = false;
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
    if is_off && until == Until::OffThenGone {
        return wait_for_gone(facts, ticket);
    }
    facts.wait(ticket, match until {
        Until::Off if is_off => Until::Stored(Ok(Answer::Stopped { forced: true, already: false })),
        until => until,
    });
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
    facts.answer_instead(
        |until| match until {
            Until::Applied { .. }
            | Until::Grown { .. }
            | Until::OffThenGone
            | Until::Halted
            | Until::GoesOn
            | Until::WasReset
            | Until::Requested
            | Until::Turn => true,
            // Starts are taken back with what they have begun.
            Until::Up | Until::Made | Until::TakenBack(_) | Until::Stored(_) | Until::Off | Until::Gone => false,
        },
        &overtaken(),
    );
    facts.seen.look_for_files = false;
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

/// Takes a change out of the definition again.
pub(super) fn take_back(facts: &mut Facts, before: &VmSpec, after: &VmSpec) {
    let without = difference::without(&facts.record.definition, before, after);
    for disk in &after.disks {
        let no = super::step::DiskNo::of(&disk.name);
        facts.seen.grow.retain(|grow| Some(*grow) != no);
    }
    if without != *facts.record.definition {
        facts.record.definition = Arc::new(without);
        adopt_policy(facts);
    }
}

/// The answer to a request that changes nothing, in any state.
fn unchanged(facts: &Facts, request: &Request) -> Option<Result<Answer>> {
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

fn define(facts: &mut Facts, ticket: Ticket, change: Change) {
    let before = facts.record.definition.clone();
    let in_effect = facts.up().map(|up| up.in_effect.clone());
    let wanted = match change.clone().apply(&before, in_effect.as_deref(), facts.bounds.memory) {
        Ok(wanted) => Arc::new(without_bookkeeping(wanted)),
        Err(error) => return refuse(facts, ticket, error),
    };
    let removes = matches!(change, Change::RemoveDisk(_) | Change::RemoveNic(_));
    // It frees space, which a full disk must not prevent.
    facts.seen.wish |= !removes;
    facts.record.run.upkeep = facts.record.run.upkeep.within(&wanted.policy);
    facts.record.definition = wanted.clone();
    let mut lanes = difference::lanes(&before, &wanted);
    if let Change::RemoveNic(id) = &change {
        // One that the guest has not let go of is asked for again.
        lanes.push(Lane::Nic(*id));
    }
    prepare_lanes(facts, &before, &wanted, &lanes);
    adopt_policy(facts);
    let pending_at = removes.then_some(facts.now.monotonic + PENDING);
    facts.wait(ticket, Until::Applied { lanes, pending_at, before, after: wanted });
}

fn redefine(facts: &mut Facts, ticket: Ticket, redefinition: Redefinition) {
    let before = facts.record.definition.clone();
    // It was applied before, for whether it changes anything.
    let Ok(wanted) = redefinition.apply(&before, facts.bounds.memory) else { return };
    let wanted = Arc::new(wanted);
    facts.record.definition = wanted.clone();
    facts.seen.wish = true;
    let lanes = difference::lanes(&before, &wanted);
    prepare_lanes(facts, &before, &wanted, &lanes);
    facts.wait(ticket, Until::Grown { lanes, before, after: wanted });
}

/// Whether a disk is made is no part of a definition.
fn without_bookkeeping(mut spec: VmSpec) -> VmSpec {
    spec.disks.iter_mut().for_each(|disk| disk.in_making = false);
    spec
}

/// A change is a new reason to try, and may be one to grow an image.
fn prepare_lanes(facts: &mut Facts, before: &VmSpec, wanted: &VmSpec, lanes: &[Lane]) {
    if facts.record.run.is_down() {
        // It was to go, and that failed: whoever changes it wants it.
        facts.set_goal(Goal::Rest);
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
    let had = up.in_effect.policy.clone();
    let follows = reports(&had) == reports(&wanted);
    let on_io_error = if follows { wanted.on_io_error } else { had.on_io_error };
    let policy = Policy { on_io_error, ..wanted };
    facts.note_effect(|spec| spec.policy = policy);
    // A guest that is halted may go on by itself from now on, or no longer.
    facts.seen.look = true;
}
