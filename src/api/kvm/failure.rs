//! Why the last start of a VM came to nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::times::time;
use crate::model;

/// A start that came to nothing.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct FailedStart {
    pub reason: String,
    pub at: String,
}

impl FailedStart {
    pub fn of(failed: &model::FailedStart) -> Self {
        Self { reason: failed.why.clone(), at: time(failed.at) }
    }
}
