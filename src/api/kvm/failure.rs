//! Why the last start of a VM came to nothing.

use schemars::JsonSchema;
use serde::Serialize;

use super::dto::time;
use crate::model;

/// A start that came to nothing.
#[derive(Serialize, JsonSchema)]
pub struct FailedStart {
    reason: String,
    at: String,
}

impl FailedStart {
    pub fn of(failed: &model::FailedStart) -> Self {
        Self { reason: failed.why.clone(), at: time(failed.at) }
    }
}
