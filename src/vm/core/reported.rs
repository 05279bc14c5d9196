//! What of a VM was told last: it stands in the record that the events lie beside, so that a next daemon goes on from there.
//! What follows from it is the matter of `news`.

use serde::{Deserialize, Serialize};

use crate::model::Status;

/// What of a VM was told last, in the record that the events lie beside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// None of a VM that does not exist yet, or that an earlier version has stored.
    #[serde(default)]
    pub status: Option<Status>,
    #[serde(default)]
    pub agent: bool,
    #[serde(default)]
    pub missing: bool,
    /// How many incidents.
    #[serde(default)]
    pub incidents: u64,
}
