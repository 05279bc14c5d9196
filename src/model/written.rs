//! How much room a part of a record takes.

use serde::Serialize;

/// Bytes of it as JSON.
pub fn written(part: &impl Serialize) -> usize {
    // What has no JSON form is refused by the store.
    serde_json::to_vec(part).map_or(usize::MAX, |json| json.len())
}
