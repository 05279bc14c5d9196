//! What is wanted of a VM's power. A goal is stored before anything is done for it, so it holds over the death of the
//! daemon; once it is reached, it is [`Goal::Rest`] again.

use serde::{Deserialize, Serialize};

use super::Ms;

/// What is wanted of the power of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "goal")]
pub enum Goal {
    /// Nothing: it stays as it is, up or down.
    #[default]
    Rest,
    /// The guest is to power off; at the deadline its power is cut.
    Stop(Deadline),
    /// The guest is to reboot; at the deadline it is reset.
    Reboot(Deadline),
    /// The guest is to halt.
    Pause,
    /// A halted guest is to go on.
    Resume,
    /// The guest is to be reset at once.
    Reset,
    /// Its process is to end.
    Off { cause: Cause },
    /// Its process is to end, and everything that belongs to it is to go.
    Gone,
}

/// How long a guest has, and who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// By the clock of the host's boot: a live QEMU is of the same one.
    pub at: Ms,
    /// Only its agent is asked, and at the deadline the guest is left running (ruling 27).
    #[serde(default)]
    pub agent_only: bool,
}

/// Why a process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A client, or a deadline that a client set, cuts the power.
    Cut,
    /// The guest has powered off by itself, and QEMU waits.
    Guest,
    /// The guest has panicked, and QEMU waits.
    Panic,
}

impl Goal {
    /// When the guest's time is over.
    pub fn deadline(self) -> Option<Deadline> {
        match self {
            Self::Stop(deadline) | Self::Reboot(deadline) => Some(deadline),
            Self::Rest | Self::Pause | Self::Resume | Self::Reset | Self::Off { .. } | Self::Gone => None,
        }
    }

    /// A client wants it off: it does not start again by itself.
    pub fn is_stop(self) -> bool {
        match self {
            Self::Stop(_) | Self::Off { cause: Cause::Cut } | Self::Gone => true,
            Self::Rest | Self::Reboot(_) | Self::Pause | Self::Resume | Self::Reset | Self::Off { .. } => false,
        }
    }

    /// Nothing is changed about the devices of a VM that is on its way out.
    pub fn ends_run(self) -> bool {
        match self {
            Self::Stop(_) | Self::Off { .. } | Self::Gone => true,
            Self::Rest | Self::Reboot(_) | Self::Pause | Self::Resume | Self::Reset => false,
        }
    }

    /// What one more stop means. Several share one deadline, the earliest, as each was promised to be over by its own; but
    /// one that leaves the guest running does not hasten one that cuts its power.
    pub fn joined_by_stop(self, new: Deadline) -> Self {
        match self {
            Self::Stop(now) if now.agent_only == new.agent_only => {
                Self::Stop(Deadline { at: now.at.min(new.at), ..now })
            }
            Self::Stop(now) if !now.agent_only => self,
            Self::Off { cause: Cause::Cut } | Self::Gone => self,
            // A guest that has powered off, of a QEMU that does not end, has no deadline of its own.
            Self::Off { cause: Cause::Guest | Cause::Panic }
            | Self::Stop(_)
            | Self::Rest
            | Self::Reboot(_)
            | Self::Pause
            | Self::Resume
            | Self::Reset => Self::Stop(new),
        }
    }
}
