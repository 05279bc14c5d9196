//! Reads every record there is and says what is wrong with it. Repairs nothing.

use std::collections::BTreeMap;

use super::record::{self, Record};
use super::{Store, StoreError};

/// A kind of record, for those who go through all of them.
#[derive(Clone, Copy)]
pub struct RecordKind {
    name: &'static str,
    check: fn(&str, &[u8]) -> Result<(), StoreError>,
    version: u32,
    again: fn(&[u8]) -> Result<(), String>,
}

impl RecordKind {
    pub const fn of<R: Record>() -> RecordKind {
        RecordKind {
            name: R::KIND,
            check: |key, value| record::decode::<R>(key, value).map(drop),
            version: R::VERSION,
            again: again::<R>,
        }
    }
}

/// For the fuzz targets: data as each kind and version reads it. The first two bytes choose these, since what has a wrong
/// checksum is not read at all.
///
/// # Errors
/// What is not read as it was written.
pub(crate) fn fuzz(kinds: &[RecordKind], bytes: &[u8]) -> Result<(), String> {
    let [kind, version, data @ ..] = bytes else { return Ok(()) };
    let Some(kind) = kinds.get(usize::from(*kind) % kinds.len().max(1)) else { return Ok(()) };
    // One more than there is.
    let version = u32::from(*version) % (kind.version + 1) + 1;
    let Ok(data) = std::str::from_utf8(data) else { return Ok(()) };
    let envelope = format!(r#"{{"v":{version},"crc":"{:08x}","data":{data}}}"#, crc32fast::hash(data.as_bytes()));
    (kind.again)(envelope.as_bytes())
}

/// What was read is read again as it was, where it may be written at all.
fn again<R: Record>(bytes: &[u8]) -> Result<(), String> {
    let Ok(read) = record::decode::<R>("key", bytes) else { return Ok(()) };
    let Ok(written) = record::encode("key", &read, R::COUNTED.then_some(1)) else { return Ok(()) };
    let same = record::decode::<R>("key", &written).map_err(|e| format!("what was read is not read again: {e}"))?;
    match record::encode("key", &same, R::COUNTED.then_some(1)) {
        Ok(twice) if twice == written => Ok(()),
        _ => Err(format!("{} is another when it is read again", String::from_utf8_lossy(&written))),
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
    /// Reads all records and events, as `kinds` say. Blocks.
    ///
    /// # Errors
    /// `Failed` or `Damaged` as the store is; what is wrong with single records is in the report.
    pub fn check(&self, kinds: &[RecordKind]) -> Result<Report, StoreError> {
        let mut report = Report::default();
        for (name, value) in self.everything()? {
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
