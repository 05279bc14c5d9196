//! What a request means in each state, as one pure table. Both dialects' behaviour follows from it, and
//! `tests/lifecycle_table.rs` prints it whole. Carrying a decision out is the actor's work.

use crate::model::{Conflict, Status};

/// What a client may ask of a VM's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Start,
    /// Ask the guest, then cut.
    Stop,
    /// Cut.
    ForceOff,
    Reboot,
    /// Reset at once.
    Reset,
    /// Halt the vCPUs.
    Suspend,
    /// Let them go on.
    Resume,
    /// Change the definition.
    Change,
    /// Change what a running VM does not take.
    Redefine,
    Delete,
}

impl Request {
    pub const ALL: [Self; 10] = [
        Self::Start,
        Self::Stop,
        Self::ForceOff,
        Self::Reboot,
        Self::Reset,
        Self::Suspend,
        Self::Resume,
        Self::Change,
        Self::Redefine,
        Self::Delete,
    ];
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Do(Action),
    /// It is so already: success, nothing happens.
    Already,
    /// Ask again when the operation under way has ended.
    Wait,
    Refuse(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Launch,
    /// Let a paused guest go on.
    Resume,
    /// Ask the guest to power off (a paused one goes on first), and cut it at the deadline.
    PowerDown,
    /// Join the power-down that is under way.
    AwaitPowerDown,
    /// Nobody can be asked: cut at the deadline, or ask if the monitor comes back before.
    AwaitMonitor,
    /// SIGKILL.
    Kill,
    /// Stop a launch half-way and undo it, then go on with the request.
    AbortLaunch,
    /// Forget a crash.
    Acknowledge,
    /// Ask the guest to reboot (a paused one goes on first), and reset it at the deadline.
    Reboot,
    /// Reset it, and let a paused guest go on.
    Reset,
    /// Halt the guest.
    Pause,
    /// Store the change and bring it into effect.
    Apply,
    /// Store the change for the next start.
    Store,
    /// Cut it if it runs, then remove everything it has.
    Remove,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 409 in both dialects.
    Conflict(Conflict),
    /// 503.
    Unresponsive,
}

/// The table (rulings 8, 19, 20, 25, 30).
pub fn decide(status: Status, request: Request) -> Decision {
    use Action::*;
    use Decision::*;
    use Status::*;
    match (request, status) {
        (Request::Start, Stopped | Crashed) => Do(Launch),
        (Request::Start, Starting) => Wait,
        (Request::Start, Running) => Already,
        (Request::Start, Paused) => Do(Resume),
        (Request::Start, Stopping) => Refuse(Refusal::Conflict(Conflict::Stopping)),
        (Request::Start, Rebooting) => Refuse(Refusal::Conflict(Conflict::Rebooting)),
        (Request::Start, Unresponsive) => Refuse(Refusal::Unresponsive),

        (Request::Stop, Stopped) => Already,
        (Request::Stop, Crashed) => Do(Acknowledge),
        (Request::Stop, Starting) => Wait,
        (Request::Stop, Running | Paused | Rebooting) => Do(PowerDown),
        (Request::Stop, Stopping) => Do(AwaitPowerDown),
        (Request::Stop, Unresponsive) => Do(AwaitMonitor),

        (Request::ForceOff, Stopped) => Already,
        (Request::ForceOff, Crashed) => Do(Acknowledge),
        (Request::ForceOff, Starting) => Do(AbortLaunch),
        (Request::ForceOff, Running | Paused | Stopping | Rebooting | Unresponsive) => Do(Kill),

        (Request::Reboot, Stopped | Crashed) => Refuse(Refusal::Conflict(Conflict::NotRunning)),
        (Request::Reboot, Starting) => Wait,
        (Request::Reboot, Running | Paused) => Do(Reboot),
        (Request::Reboot, Stopping) => Refuse(Refusal::Conflict(Conflict::Stopping)),
        (Request::Reboot, Rebooting) => Already,
        (Request::Reboot, Unresponsive) => Refuse(Refusal::Unresponsive),

        (Request::Reset, Stopped | Crashed) => Refuse(Refusal::Conflict(Conflict::NotRunning)),
        (Request::Reset, Starting) => Wait,
        (Request::Reset, Running | Paused | Rebooting) => Do(Reset),
        (Request::Reset, Stopping) => Refuse(Refusal::Conflict(Conflict::Stopping)),
        (Request::Reset, Unresponsive) => Refuse(Refusal::Unresponsive),

        (Request::Suspend, Running) => Do(Pause),
        (Request::Suspend, Paused) => Refuse(Refusal::Conflict(Conflict::AlreadySuspended)),
        (Request::Resume, Paused) => Do(Resume),
        (Request::Resume, Running) => Refuse(Refusal::Conflict(Conflict::AlreadyRunning)),
        (Request::Suspend | Request::Resume, Stopped | Crashed) => Refuse(Refusal::Conflict(Conflict::Off)),
        (Request::Suspend | Request::Resume, Starting) => Wait,
        (Request::Suspend | Request::Resume, Stopping) => Refuse(Refusal::Conflict(Conflict::Stopping)),
        (Request::Suspend | Request::Resume, Rebooting) => Refuse(Refusal::Conflict(Conflict::Rebooting)),
        (Request::Suspend | Request::Resume, Unresponsive) => Refuse(Refusal::Unresponsive),

        (Request::Redefine, Stopped | Crashed) => Do(Store),
        (Request::Redefine, Starting) => Wait,
        (Request::Redefine, Running | Paused | Stopping | Rebooting | Unresponsive) => {
            Refuse(Refusal::Conflict(Conflict::MustBeOff(status)))
        }

        (Request::Change, Starting) => Wait,
        (Request::Change, Running | Paused | Rebooting) => Do(Apply),
        (Request::Change, Stopped | Crashed | Stopping | Unresponsive) => Do(Store),

        (Request::Delete, Starting) => Do(AbortLaunch),
        (Request::Delete, Stopped | Running | Paused | Stopping | Rebooting | Crashed | Unresponsive) => Do(Remove),
    }
}
