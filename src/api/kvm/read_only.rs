//! What a client that reads a VM whole sends back in its update, and cannot change: taken as long as it is so.

use schemars::Schema;
use serde_json::{Value, json};

use super::{dto::Details, error::Problem};
use crate::model::Error;

/// The fields of a reply about a VM that its update does not change.
pub const FIELDS: &[&str] = &[
    "id",
    "vm_id",
    "disk_file",
    "mac_address",
    "machine_type",
    "created_at",
    "pending",
    "status",
    "message",
    "reason",
    "restarts",
    "next_restart",
    "last_failure",
    "pid",
    "started_at",
    "uptime",
    "sandbox",
    "guest_agent",
    "accelerator",
];
/// Those that say when they were read.
const PASSING: [&str; 2] = ["uptime", "message"];

/// # Errors
/// [`Error::Fixed`] for one that is other than it is.
pub fn check(details: &Details, sent: Vec<(String, Value)>) -> Result<(), Problem> {
    if sent.is_empty() {
        return Ok(());
    }
    let now = serde_json::to_value(details).unwrap_or_default();
    for (name, value) in sent.into_iter().filter(|(name, value)| !value.is_null() && !PASSING.contains(&name.as_str()))
    {
        let is = now.get(&name).unwrap_or(&Value::Null);
        if value != *is {
            let is = is.as_str().map_or_else(|| is.to_string(), str::to_owned);
            return Err(Error::Fixed { param: name.into(), is }.into());
        }
    }
    Ok(())
}

/// As a schema has them: nobody need send them.
pub fn describe(schema: &mut Schema) {
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for name in FIELDS {
        let known = json!({ "readOnly": true, "description": "As it is told; taken as long as it is so, else a 409." });
        properties.insert((*name).to_owned(), known);
    }
}
