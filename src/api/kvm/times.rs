//! How this dialect writes times.

use std::time::{Duration, UNIX_EPOCH};

/// RFC 3339, from milliseconds since 1970.
pub fn time(ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}
