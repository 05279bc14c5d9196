//! What waits to be told of a VM, and what goes along with a batch for that. How events come of it is the matter of `news`.

use std::sync::Arc;

use super::{Ms, answer::Ticket, record::Record};
use crate::model::{Asker, Incident, VmSpec};

/// What is to be told, and who has asked for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    pub(super) requests: Vec<By>,
    /// Seen, with how often.
    pub(super) noticed: Vec<(Incident, u32)>,
    /// Counted in the record, and not in the one that is stored.
    pub(super) counted: Vec<(Incident, u32)>,
    /// Nothing is told for the guest's sake before.
    pub(super) next: Ms,
}

/// A request that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    pub(super) ticket: Ticket,
    pub(super) asker: Asker,
    /// It concerns the definition, not the power.
    pub(super) changes: bool,
    /// That it has changed the definition is told.
    pub(super) reported: bool,
    /// Or may be: nobody knows what became of the batch.
    pub(super) sent: bool,
}

/// What a batch tells of, beside the difference that it makes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tells {
    /// Milliseconds since 1970.
    pub at: u64,
    /// What is stored before it, where that is known.
    pub before: Option<Record>,
    /// What was, when it was known last.
    pub(super) known: Option<Arc<VmSpec>>,
    pub(super) incidents: Vec<(Incident, u32)>,
    pub(super) by: Vec<By>,
    pub(super) reason: Option<String>,
    pub(super) missing: Option<String>,
}
