//! Why the last start of a VM came to nothing.

use schemars::JsonSchema;
use serde::Serialize;

/// A start that came to nothing.
#[derive(Serialize, JsonSchema)]
pub struct FailedStart {
    pub reason: String,
    pub at: String,
}
