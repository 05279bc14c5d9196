//! Reads every record there is and says what is wrong with it. Repairs nothing.

use std::collections::BTreeMap;

use super::record::{self, Record};
use super::{Store, StoreError};

/// A kind of record, for those who go through all of them.
#[derive(Clone, Copy)]
pub struct RecordKind {
    name: &'static str,
    check: fn(&str, &[u8]) -> Result<(), StoreError>,
}

impl RecordKind {
    pub const fn of<R: Record>() -> RecordKind {
        RecordKind { name: R::KIND, check: |key, value| record::decode::<R>(key, value).map(drop) }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// How many of each kind.
    pub kinds: BTreeMap<String, usize>,
    /// Kinds that this program does not know; of these only the envelope is checked.
    pub unknown: Vec<String>,
    /// Each names its record.
    pub problems: Vec<StoreError>,
}

impl Store {
    /// Reads all records, as `kinds` say. Blocks.
    ///
    /// # Errors
    /// `Failed` or `Damaged` as the store is; what is wrong with single records is in the report.
    pub fn check(&self, kinds: &[RecordKind]) -> Result<Report, StoreError> {
        let mut report = Report::default();
        for (name, value) in self.entries()? {
            let name = String::from_utf8_lossy(&name);
            let (kind, key) = name.split_once('/').unwrap_or((&name, ""));
            *report.kinds.entry(kind.to_owned()).or_default() += 1;
            let checked = match kinds.iter().find(|known| known.name == kind) {
                Some(known) => (known.check)(key, &value),
                None => {
                    if !report.unknown.iter().any(|unknown| unknown == kind) {
                        report.unknown.push(kind.to_owned());
                    }
                    record::check_envelope(&name, &value)
                }
            };
            report.problems.extend(checked.err());
        }
        Ok(report)
    }
}
