//! How a run ended.

use serde::{Deserialize, Serialize};

/// How the last run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Ending {
    /// It never ran, or it stopped as asked.
    Clean,
    /// The process ended unasked, or the guest panicked.
    Crashed { reason: String },
}
