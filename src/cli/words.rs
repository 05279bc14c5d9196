//! Words of the API as values of flags: what a field takes, a flag takes, and in the same words.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::{Serialize, de::DeserializeOwned};

use crate::model::Applied;

/// One of these words, as the API reads it.
pub fn one_of<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| serde_json::from_value(serde_json::Value::String(word)))
}

/// As the API writes it.
pub fn named(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// What is to be said of a change that is not in effect yet.
pub fn when(applied: Applied) -> &'static str {
    match applied {
        Applied::Live => "",
        Applied::NextStart => " (from the next start on)",
    }
}

pub const RESTART: &[&str] = &["never", "on-failure", "always"];
pub const IO_ERROR: &[&str] = &["pause", "retry", "report"];
pub const SWITCH: &[&str] = &["private", "internal", "external"];
