//! Changes that belong together. Collects them; writes nothing.

use super::record::{self, Record};
use super::{StoreError, check_key};

/// Changes that happen all or not at all, across kinds. A later change to the same record wins.
#[derive(Debug, Default)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    /// `kind/key` and the new value, or nothing for a removal.
    changes: Vec<(String, Option<Vec<u8>>)>,
    pub(super) may_use_reserve: bool,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Stores `record` under `key`, in place of what is there.
    ///
    /// # Errors
    /// `Refused` when the key is empty or too long, or the record has no JSON form or is larger than 28 KiB.
    pub fn put<R: Record>(mut self, key: &str, record: &R) -> Result<Batch, StoreError> {
        check_key::<R>(key)?;
        self.changes.push((record::name::<R>(key), Some(record::encode(key, record)?)));
        Ok(self)
    }

    /// Removes the record under `key`, if there is one.
    pub fn remove<R: Record>(mut self, key: &str) -> Batch {
        self.changes.push((record::name::<R>(key), None));
        self
    }

    /// For what has happened already, or takes something back: it is also stored on a full disk, from the space that is
    /// kept for that. What is new must not use it up.
    pub fn from_reserve(mut self) -> Batch {
        self.may_use_reserve = true;
        self
    }

    /// What it adds to the log, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.changes.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len)).sum()
    }

    pub(super) fn to_sled(&self) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for (name, value) in &self.changes {
            match value {
                Some(value) => batch.insert(name.as_bytes(), value.as_slice()),
                None => batch.remove(name.as_bytes()),
            }
        }
        batch
    }
}
