//! What the outside world talks to: REST dialects over one core.
//!
//! A dialect is translation and nothing else: a route table, the types of its bodies, and its shape of an error.
//! What the dialects share (routing, bodies, decoding, serving, OpenAPI) is in [`http`], which knows no dialect.

mod console;
mod docs;
mod events;
pub(crate) mod fuzz;
mod guest;
pub mod http;
pub mod hyperv;
pub mod kvm;
mod labels;
mod operations;
pub mod yaml;

#[cfg(test)]
#[path = "errors/tests.rs"]
mod error_texts;
#[cfg(test)]
#[path = "examples/tests.rs"]
mod examples;

#[cfg(test)]
mod tests {
    use schemars::{JsonSchema, schema_for};
    use serde::de::DeserializeOwned;

    /// That the document shows how a body is written, and that it can be written so.
    pub fn has_examples<T: JsonSchema + DeserializeOwned>() {
        let schema = schema_for!(T);
        let examples = schema.get("examples").and_then(|examples| examples.as_array()).cloned().unwrap_or_default();
        assert!(!examples.is_empty(), "{} has none", T::schema_name());
        for example in examples {
            if let Err(error) = serde_json::from_value::<T>(example.clone()) {
                panic!("{}: {error}: {example}", T::schema_name());
            }
        }
    }
}
