//! What may be asked of a VM. It sets a goal or changes the definition, and nothing else.

use super::{Ms, table::Ask};
use crate::model::{Change, Redefinition};

/// How long a guest is given, and whether that is all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    pub time: Ms,
    /// Only its agent is asked; a guest that has not followed after that time is left running.
    pub agent_only: bool,
}

/// A request, as a client means it.
#[derive(Clone, Debug)]
pub enum Request {
    /// Or resume, where it is paused.
    Start,
    Stop(Patience),
    /// Power off, as gracefully as that allows, and remove everything then.
    StopAndDelete(Patience),
    ForceOff,
    Reboot(Patience),
    Reset,
    /// A reboot, or a start where it does not run.
    Restart(Option<Patience>),
    Suspend,
    Resume,
    /// The guest's file systems, for as long as this at most.
    Freeze(Ms),
    Thaw,
    /// Its turn after the boot of the host.
    Boot,
    Change(Box<Change>),
    /// Of a VM that is off.
    Redefine(Box<Redefinition>),
    Delete,
}

impl Request {
    /// Overtakes everything that came before it (ruling 8).
    pub fn is_forced(&self) -> bool {
        match self {
            Self::ForceOff | Self::Delete => true,
            Self::Start
            | Self::Stop(_)
            | Self::StopAndDelete(_)
            | Self::Reboot(_)
            | Self::Reset
            | Self::Restart(_)
            | Self::Suspend
            | Self::Resume
            | Self::Freeze(_)
            | Self::Thaw
            | Self::Boot
            | Self::Change(_)
            | Self::Redefine(_) => false,
        }
    }

    /// The row of the table that it is judged by.
    pub fn ask(&self) -> Ask {
        match self {
            Self::Start => Ask::Start,
            Self::Stop(_) | Self::StopAndDelete(_) => Ask::Stop,
            Self::ForceOff => Ask::ForceOff,
            Self::Reboot(_) => Ask::Reboot,
            Self::Reset => Ask::Reset,
            Self::Restart(Some(_)) => Ask::Restart,
            Self::Restart(None) => Ask::RestartAtOnce,
            Self::Suspend => Ask::Suspend,
            Self::Resume => Ask::Resume,
            Self::Freeze(_) => Ask::Freeze,
            Self::Thaw => Ask::Thaw,
            Self::Boot => Ask::Boot,
            Self::Change(_) => Ask::Change,
            Self::Redefine(_) => Ask::Redefine,
            Self::Delete => Ask::Delete,
        }
    }
}
