//! What a request means in each state, as one table that is also the dispatch: what `judge` says is what is done
//! (rulings 8, 19, 20, 25, 30). `tests/tree/core_table.rs` prints it whole.

use crate::model::{Conflict, Status};

/// How a VM is, as far as requests are concerned: what was wanted of it before counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Stopped,
    Crashed,
    Starting,
    Running,
    Paused,
    /// The guest is asked to power off, or the kernel holds the process.
    Stopping,
    /// Its process is being ended, whatever the guest does: it is off in a moment.
    Ending,
    Rebooting,
    Unresponsive,
    /// It is being deleted.
    Deleting,
    /// It is being deleted, and the kernel holds its process: nobody can wait for that.
    Held,
}

impl State {
    pub const ALL: [Self; 11] = [
        Self::Stopped,
        Self::Crashed,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Ending,
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
            Self::Stopping | Self::Ending | Self::Deleting | Self::Held => Status::Stopping,
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
    /// Freeze the guest's file systems.
    Freeze,
    Thaw,
    /// Its turn after a boot of the host.
    Boot,
    Change,
    /// Change what a running VM does not take.
    Redefine,
    Delete,
}

impl Ask {
    pub const ALL: [Self; 15] = [
        Self::Start,
        Self::Stop,
        Self::ForceOff,
        Self::Reboot,
        Self::Reset,
        Self::Restart,
        Self::RestartAtOnce,
        Self::Suspend,
        Self::Resume,
        Self::Freeze,
        Self::Thaw,
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
    /// It is judged when the start, the end or the deletion is over.
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
    /// The guest's file systems are frozen, for a time, or thawed.
    Freeze,
    Thaw,
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
            | Ask::Stop
            | Ask::Reboot
            | Ask::Reset
            | Ask::Restart
            | Ask::RestartAtOnce
            | Ask::Suspend
            | Ask::Resume
            | Ask::Freeze
            | Ask::Thaw
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
            | Ask::Freeze
            | Ask::Thaw
            | Ask::Change
            | Ask::Redefine
            | Ask::Boot,
            Held,
        ) => conflict(Conflict::Deleting),

        // It is off in a moment, and what that means for them is known then.
        (
            Ask::Start
            | Ask::Reboot
            | Ask::Reset
            | Ask::Restart
            | Ask::RestartAtOnce
            | Ask::Suspend
            | Ask::Resume
            | Ask::Freeze
            | Ask::Thaw
            | Ask::Redefine,
            Ending,
        ) => Later,

        (Ask::Start, Stopped | Crashed) => Do(Act::Launch),
        (Ask::Start, Starting) => Do(Act::JoinStart),
        (Ask::Start, Running) => Already,
        (Ask::Start, Paused) => Do(Act::Resume),
        (Ask::Start, Stopping) => conflict(Conflict::Stopping),
        (Ask::Start, Rebooting) => conflict(Conflict::Rebooting),
        (Ask::Start, Unresponsive) => Refuse(Refusal::Unresponsive),

        (Ask::Stop, Stopped | Crashed) => Do(Act::Acknowledge),
        (Ask::Stop, Starting) => Later,
        (Ask::Stop, Running | Paused | Stopping | Ending | Rebooting | Unresponsive | Held) => Do(Act::Stop),

        (Ask::ForceOff, Stopped | Crashed) => Do(Act::Acknowledge),
        (
            Ask::ForceOff,
            Starting | Running | Paused | Stopping | Ending | Rebooting | Unresponsive | Deleting | Held,
        ) => Do(Act::Cut),

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
        (Ask::Freeze, Running) => Do(Act::Freeze),
        (Ask::Thaw, Running) => Do(Act::Thaw),
        (Ask::Freeze | Ask::Thaw, Paused) => conflict(Conflict::Suspended),
        (Ask::Suspend | Ask::Resume | Ask::Freeze | Ask::Thaw, Stopped | Crashed) => conflict(Conflict::Off),
        (Ask::Suspend | Ask::Resume | Ask::Freeze | Ask::Thaw, Starting) => Later,
        (Ask::Suspend | Ask::Resume | Ask::Freeze | Ask::Thaw, Stopping) => conflict(Conflict::Stopping),
        (Ask::Suspend | Ask::Resume | Ask::Freeze | Ask::Thaw, Rebooting) => conflict(Conflict::Rebooting),
        (Ask::Suspend | Ask::Resume | Ask::Freeze | Ask::Thaw, Unresponsive) => Refuse(Refusal::Unresponsive),

        (Ask::Boot, Stopped | Crashed) => Do(Act::LookForFiles),
        (Ask::Boot, Starting) => Later,
        (Ask::Boot, Running | Paused | Stopping | Ending | Rebooting | Unresponsive) => Do(Act::StrikeOut),

        (Ask::Change, Starting) => Later,
        (Ask::Change, Stopped | Crashed | Running | Paused | Stopping | Ending | Rebooting | Unresponsive) => {
            Do(Act::Define)
        }

        (Ask::Redefine, Stopped | Crashed) => Do(Act::Define),
        (Ask::Redefine, Starting) => Later,
        (Ask::Redefine, Running | Paused | Stopping | Rebooting | Unresponsive) => {
            conflict(Conflict::MustBeOff(state.status()))
        }

        (
            Ask::Delete,
            Stopped | Crashed | Starting | Running | Paused | Stopping | Ending | Rebooting | Unresponsive | Deleting
            | Held,
        ) => Do(Act::Remove),
    }
}
