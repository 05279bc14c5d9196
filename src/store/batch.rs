//! Changes that belong together. Collects them; writes nothing.

use std::collections::HashMap;

use super::record::{self, Generation, NewEvent, Record};
use super::{StoreError, check_key};

/// Changes that happen all or not at all, across kinds. A later change to the same record wins.
#[derive(Debug, Default)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    changes: Vec<Change>,
    /// Events, which get their numbers when the batch has its turn.
    pub(super) events: Vec<NewEvent>,
    pub(super) may_use_reserve: bool,
}

#[derive(Clone, Debug)]
struct Change {
    /// `kind/key`.
    name: String,
    /// None for a removal.
    value: Option<Vec<u8>>,
    /// Of a counted kind.
    replaces: Option<Replaced>,
}

/// What has to be stored where a change is to be made: a record of this generation, or none.
type Replaced = Option<Generation>;

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Stores `record` under `key`, in place of what is there.
    ///
    /// # Errors
    /// `Refused` when the key is empty or too long, or the record has no JSON form or is larger than 28 KiB.
    pub fn put<R: Record>(mut self, key: &str, record: &R) -> Result<Batch, StoreError> {
        const { assert!(!R::COUNTED, "a change of a counted kind names what it replaces") };
        check_key::<R>(key)?;
        let value = Some(record::encode(key, record, None)?);
        self.changes.push(Change { name: record::name::<R>(key), value, replaces: None });
        Ok(self)
    }

    /// Removes the record under `key`, if there is one.
    pub fn remove<R: Record>(mut self, key: &str) -> Batch {
        const { assert!(!R::COUNTED, "a change of a counted kind names what it replaces") };
        self.changes.push(Change { name: record::name::<R>(key), value: None, replaces: None });
        self
    }

    /// Stores `record` as the next generation of the one under `key`, which has to be `before`; none where there is to be
    /// nothing yet. Where something else is stored when its turn comes, the whole batch is refused as `Outdated`.
    ///
    /// # Errors
    /// As [`Batch::put`].
    pub fn put_over<R: Record>(
        mut self,
        key: &str,
        record: &R,
        before: Option<Generation>,
    ) -> Result<Batch, StoreError> {
        const { assert!(R::COUNTED, "nobody counts the generations of this kind") };
        check_key::<R>(key)?;
        let value = Some(record::encode(key, record, Some(following(before)))?);
        self.changes.push(Change { name: record::name::<R>(key), value, replaces: Some(before) });
        Ok(self)
    }

    /// Removes the record under `key`, which has to be of the generation `before`. Where it is not, the whole batch is
    /// refused as `Outdated`.
    pub fn remove_at<R: Record>(mut self, key: &str, before: Generation) -> Batch {
        const { assert!(R::COUNTED, "nobody counts the generations of this kind") };
        self.changes.push(Change { name: record::name::<R>(key), value: None, replaces: Some(Some(before)) });
        self
    }

    /// With all changes of another one.
    pub fn and(mut self, other: &Batch) -> Batch {
        self.changes.extend_from_slice(&other.changes);
        self.events.extend_from_slice(&other.events);
        self
    }

    /// What is no record.
    pub(super) fn remove_named(mut self, name: &str) -> Batch {
        self.changes.push(Change { name: name.to_owned(), value: None, replaces: None });
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
        let changed = self.changes.iter().map(|change| change.name.len() + change.value.as_ref().map_or(0, Vec::len));
        let events = self.events.iter().map(|event| event.data.get().len() + record::ENVELOPE);
        changed.chain(events).sum()
    }

    /// The first record that is not what a change is to replace. `stored` tells the generation of what is under a name; what
    /// the batch itself has made of it before counts as well.
    ///
    /// # Errors
    /// Those of `stored`.
    pub(super) fn outdated<E>(
        &self,
        mut stored: impl FnMut(&str) -> Result<Option<Generation>, E>,
    ) -> Result<Option<&str>, E> {
        let mut own: HashMap<&str, Option<Generation>> = HashMap::new();
        for Change { name, value, replaces } in &self.changes {
            let Some(replaces) = replaces else { continue };
            let is = match own.get(name.as_str()) {
                Some(is) => *is,
                None => stored(name)?,
            };
            if is != *replaces {
                return Ok(Some(name));
            }
            own.insert(name, value.as_ref().map(|_| following(*replaces)));
        }
        Ok(None)
    }

    pub(super) fn to_sled(&self) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for Change { name, value, .. } in &self.changes {
            match value {
                Some(value) => batch.insert(name.as_bytes(), value.as_slice()),
                None => batch.remove(name.as_bytes()),
            }
        }
        batch
    }
}

/// The generation of what is put over `before`.
pub fn following(before: Option<Generation>) -> Generation {
    before.unwrap_or(0) + 1
}
