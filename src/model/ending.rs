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

/// Why the last start came to nothing. It stays until one succeeds, whatever becomes of the VM meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStart {
    pub why: String,
    /// Milliseconds since 1970.
    pub at: u64,
}

impl FailedStart {
    /// Bytes of the reason: it stands in the VM's record.
    pub const MOST: usize = 512;

    /// Without controls, of which a record takes six bytes each, and cut where it is too long.
    pub fn new(why: &str, at: u64) -> Self {
        let mut why = why.replace(char::is_control, " ");
        let mut end = why.len().min(Self::MOST);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        why.truncate(end);
        Self { why, at }
    }
}
