//! The words in which a part of a definition was sent, shown in its place for as long as they say how it is. Which parts there are is
//! `as_sent`'s.

use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::Value;

use crate::model::VmSpec;

/// A part of a definition, shown as its client wrote it where that says the same.
#[derive(Clone, Debug)]
pub struct AsSent<T> {
    is: T,
    written: Option<Value>,
}

impl<T> AsSent<T> {
    pub fn new(is: T, written: Option<Value>) -> Self {
        Self { is, written }
    }
}

impl<T> Deref for AsSent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.is
    }
}

impl<T: Serialize> Serialize for AsSent<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.written {
            Some(written) => written.serialize(serializer),
            None => self.is.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for AsSent<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { is: T::deserialize(deserializer)?, written: None })
    }
}

/// A field that is no list, where it was sent in other words than it would be shown in and they say how it is.
pub fn plain<T: DeserializeOwned>(spec: &VmSpec, name: &str, same: impl Fn(&T) -> bool) -> Option<Value> {
    written(spec.named.sent.plain.get(name).map(|text| &**text), same)
}

/// What was sent, where it says how it is.
pub fn written<T: DeserializeOwned>(text: Option<&str>, same: impl Fn(&T) -> bool) -> Option<Value> {
    let value: Value = serde_json::from_str(text?).ok()?;
    T::deserialize(&value).is_ok_and(|read| same(&read)).then_some(value)
}
