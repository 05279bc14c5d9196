//! What a request waits for, and what it is answered. Who is answered when is `waiting`'s.

use std::{collections::BTreeMap, sync::Arc};

use super::{Ms, goal::Deadline, lane::Lane};
use crate::model::{Applied, Error, Result, VmSpec};

/// A request, as its task knows it. Each gets one answer.
pub type Ticket = u64;

/// What a request is answered that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Started,
    Running,
    Stopped {
        /// The guest did not power off by itself.
        forced: bool,
    },
    /// It was off before.
    WasOff {
        /// A crash was forgotten, or a start that was owed.
        changed: bool,
    },
    Applied(Applied),
    /// Whether anything was changed.
    Redefined(bool),
    /// Of its turn after a boot: it was not waiting for one.
    Skipped,
    /// Its files are not there yet.
    TooEarly,
    Deleted,
    /// So many file systems.
    Frozen(u64),
    Thawed(u64),
}

/// What a request waits for.
#[derive(Clone, Debug, PartialEq)]
pub enum Until {
    /// The answer is known, and waits for what it says to be stored.
    Stored(Result<Answer>),
    /// The answer is known, and waits for what was begun to be taken back.
    TakenBack(Error),
    /// It exists.
    Made,
    Up,
    /// Off, by this deadline where the guest has time.
    Off(Option<Deadline>),
    /// Off, and gone then.
    OffThenGone(Deadline),
    Gone,
    Halted,
    GoesOn,
    WasReset,
    /// The agent has been asked.
    Requested,
    /// The guest's file systems are frozen, or are thawed.
    Frozen,
    Thawed,
    /// The files of its turn were looked for.
    Turn,
    /// A change is in effect, or waits.
    Applied {
        /// Where something is to be done.
        lanes: Vec<Lane>,
        of_start: OfStart,
        /// When a removal that the guest holds is answered as pending.
        pending_at: Option<Ms>,
        /// The definition before and after it, for taking it back.
        before: Arc<VmSpec>,
        after: Arc<VmSpec>,
    },
    /// How far it has come is known, and not taken back any more; that is stored, and the image of what was removed goes.
    Cleared {
        lanes: Vec<Lane>,
        applied: Applied,
        after: Arc<VmSpec>,
    },
    /// As `Applied`, of a change that a VM which is off has taken.
    Grown {
        lanes: Vec<Lane>,
        before: Arc<VmSpec>,
        after: Arc<VmSpec>,
    },
}

/// What a change is about that a guest gets at its start alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfStart {
    pub cpu: bool,
    pub seed: bool,
}

/// A request that has no answer yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    pub ticket: Ticket,
    pub until: Until,
    /// The commit that has to be through before it is answered.
    pub commit: u64,
}

/// What follows at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    pub answers: Vec<(Ticket, Result<Answer>)>,
    /// The definition as a change that is answered has left it: others may have come since, in the same batch.
    pub left: BTreeMap<Ticket, Arc<VmSpec>>,
}
