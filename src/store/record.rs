//! How one record lies on disk: versioned, checksummed JSON. Knows nothing about where it is kept.
//!
//! A stored value is `{"v":N,"crc":"xxxxxxxx","data":{…}}`, with `"generation":N` behind the version in a kind whose
//! generations are counted. The checksum (CRC-32, hexadecimal) covers the bytes of
//! `data` exactly as they are stored. `RawValue` hands these bytes through untouched in both directions, so no
//! canonical form is needed and a reformatted or reordered record counts as altered.
//!
//! An envelope, once written by a release, is readable for ever: see `tests/fixtures/store`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::StoreError;

/// Larger records, envelope included, are refused: `disk` says what would come of them.
pub const MAX_RECORD_BYTES: usize = 28 * 1024;
/// For kind and key together.
pub(super) const MAX_KEY_BYTES: usize = 255;

/// How many times a record of a counted kind has been put.
pub type Generation = u64;

/// A type that can be kept in the store.
///
/// To change the JSON form of a record in a way that old data does not decode into, raise `VERSION`, teach
/// [`migrate`](Record::migrate) the way up from each older version, and add a line of old data to the fixtures.
pub trait Record: Serialize + DeserializeOwned {
    /// The first part of its key. Without `/`, never changed once released.
    const KIND: &'static str;
    /// The version that this program writes, from 1.
    const VERSION: u32;

    /// Whether its generations are counted, as of what has several owners: each change of a record then names the generation
    /// that it replaces, and is refused where that is not the one that is stored.
    const COUNTED: bool = false;

    /// Turns the data of an older version, stored under `key`, into that of [`VERSION`](Record::VERSION).
    /// Stored records are not rewritten by reading them, only by the next `put`.
    ///
    /// # Errors
    /// A reason, in words; also the default for a type that has no older versions.
    fn migrate(key: &str, from: u32, data: Value) -> Result<Value, String> {
        let _ = (key, data);
        Err(format!("nothing here knows version {from}"))
    }
}

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<Generation>,
    crc: String,
    data: &'a RawValue,
}

/// An event that goes with a batch.
#[derive(Clone, Debug)]
pub(super) struct NewEvent {
    pub at: u64,
    pub version: u32,
    pub data: Box<RawValue>,
}

/// What stands around the data of an event, and its name.
pub(super) const ENVELOPE: usize = 128;

#[derive(Serialize)]
struct WrittenEvent<'a> {
    v: u32,
    number: u64,
    at: u64,
    crc: String,
    data: &'a RawValue,
}

/// Everything but the version is optional: a newer envelope may look different, and must still be told
/// apart from a broken one.
#[derive(Deserialize)]
struct Found<'a> {
    v: u32,
    generation: Option<Generation>,
    number: Option<u64>,
    at: Option<u64>,
    crc: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// The full name of a record: `kind/key`.
pub(super) fn name<R: Record>(key: &str) -> String {
    format!("{}/{key}", R::KIND)
}

fn checksum(data: &RawValue) -> String {
    format!("{:08x}", crc32fast::hash(data.get().as_bytes()))
}

/// `generation` is that of a counted kind.
///
/// # Errors
/// `Refused` when the record has no JSON form or is too large.
pub(super) fn encode<R: Record>(key: &str, record: &R, generation: Option<Generation>) -> Result<Vec<u8>, StoreError> {
    let refused = |reason: String| StoreError::Refused { record: name::<R>(key), reason };
    let json = |e: serde_json::Error| refused(e.to_string());
    let data = serde_json::value::to_raw_value(record).map_err(json)?;
    let written = Written { v: R::VERSION, generation, crc: checksum(&data), data: &data };
    let bytes = serde_json::to_vec(&written).map_err(json)?;
    if bytes.len() > MAX_RECORD_BYTES {
        let len = bytes.len();
        return Err(refused(format!("{len} bytes are more than {MAX_RECORD_BYTES}")));
    }
    Ok(bytes)
}

/// The data of an event, which gets its number later.
///
/// # Errors
/// As [`encode`].
pub(super) fn to_tell<R: Record>(event: &R) -> Result<Box<RawValue>, StoreError> {
    let refused = |reason: String| StoreError::Refused { record: name::<R>("new"), reason };
    let data = serde_json::value::to_raw_value(event).map_err(|e| refused(e.to_string()))?;
    let len = data.get().len() + ENVELOPE;
    if len > MAX_RECORD_BYTES {
        return Err(refused(format!("{len} bytes are more than {MAX_RECORD_BYTES}")));
    }
    Ok(data)
}

pub(super) fn encode_told(event: &NewEvent, number: u64) -> Vec<u8> {
    let data = &*event.data;
    let written = WrittenEvent { v: event.version, number, at: event.at, crc: checksum(data), data };
    // Numbers, and text that is JSON already, cannot fail.
    serde_json::to_vec(&written).unwrap_or_default()
}

/// Of an event.
pub(super) fn number_and_time(bytes: &[u8]) -> Option<(u64, u64)> {
    let found: Found<'_> = serde_json::from_slice(bytes).ok()?;
    found.number.zip(found.at)
}

/// # Errors
/// `Newer`, `Migrate` or `BadRecord`, each naming the record.
pub(super) fn decode<R: Record>(key: &str, bytes: &[u8]) -> Result<R, StoreError> {
    let record = || name::<R>(key);
    let bad = |reason: String| StoreError::BadRecord { record: record(), reason };
    let undecodable = |e: serde_json::Error| bad(format!("it does not decode ({e})"));

    let found: Found<'_> = serde_json::from_slice(bytes).map_err(undecodable)?;
    // Before the checksum: a newer version may compute it in another way.
    if found.v > R::VERSION {
        return Err(StoreError::Newer { record: record(), found: found.v, known: R::VERSION });
    }
    let (Some(crc), Some(data)) = (found.crc, found.data) else {
        return Err(bad("its envelope is incomplete".into()));
    };
    let actual = checksum(data);
    if crc != actual {
        return Err(bad(format!("its checksum is {actual} instead of {crc}")));
    }
    if found.v == R::VERSION {
        return serde_json::from_str(data.get()).map_err(undecodable);
    }
    let failed = |reason| StoreError::Migrate { record: record(), from: found.v, known: R::VERSION, reason };
    let old = serde_json::from_str(data.get()).map_err(undecodable)?;
    let new = R::migrate(key, found.v, old).map_err(failed)?;
    serde_json::from_value(new).map_err(|e| failed(e.to_string()))
}

/// What is stored has this generation; 0 where nobody has counted.
pub(super) fn generation(bytes: &[u8]) -> Generation {
    serde_json::from_slice::<Found<'_>>(bytes).ok().and_then(|found| found.generation).unwrap_or(0)
}

/// What can be told of a record whose kind is not known: that its checksum, where it has one, is right.
///
/// # Errors
/// `BadRecord`.
pub(super) fn check_envelope(name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let Ok(Found { crc: Some(crc), data: Some(data), .. }) = serde_json::from_slice(bytes) else { return Ok(()) };
    let actual = checksum(data);
    if crc == actual {
        return Ok(());
    }
    let reason = format!("its checksum is {actual} instead of {crc}");
    Err(StoreError::BadRecord { record: name.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
    }
    impl Record for Note {
        const KIND: &'static str = "note";
        const VERSION: u32 = 2;
    }

    fn error(bytes: &str) -> String {
        decode::<Note>("a", bytes.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_form_on_disk_is_this_one() {
        let note = Note { text: "hé/\"".into() };
        let bytes = encode("a", &note, None).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert_eq!(text, r#"{"v":2,"crc":"76e01f3f","data":{"text":"hé/\""}}"#);
        assert_eq!((decode::<Note>("a", &bytes).unwrap(), generation(&bytes)), (note.clone(), 0));
        let counted = encode("a", &note, Some(7)).unwrap();
        assert_eq!(str::from_utf8(&counted).unwrap(), text.replace("\"v\":2", "\"v\":2,\"generation\":7"));
        assert_eq!((decode::<Note>("a", &counted).unwrap(), generation(&counted)), (note, 7));
    }

    #[test]
    fn a_newer_version_is_refused_even_when_its_envelope_is_unknown() {
        for newer in [r#"{"v":3,"crc":"0","data":{}}"#, r#"{"v":3,"sha":"x","body":[1]}"#] {
            let message = error(newer);
            for part in ["note/a", "version 3", "up to 2", "newer qherd", "export"] {
                assert!(message.contains(part), "{message}");
            }
        }
    }

    #[test]
    fn any_altered_byte_of_the_data_is_noticed() {
        let good = String::from_utf8(encode("a", &Note { text: "ab".into() }, None).unwrap()).unwrap();
        assert!(error(&good.replace("ab", "aB")).contains("note/a"));
        assert!(error(&good.replace(r#""text":"#, r#""text": "#)).contains("checksum"));
        assert!(error(&good[..good.len() - 2]).contains("does not decode"));
        assert!(error(r#"{"v":2}"#).contains("incomplete"));
        assert!(error("\u{0}\u{0}").contains("does not decode"));
    }

    #[test]
    fn an_older_version_without_a_migration_is_refused() {
        let old = format!(r#"{{"v":1,"crc":"{:08x}","data":{{}}}}"#, crc32fast::hash(b"{}"));
        let message = error(&old);
        assert!(message.contains("version 1") && message.contains("note/a"), "{message}");
    }

    #[test]
    fn an_oversized_record_is_refused() {
        let big = Note { text: "x".repeat(MAX_RECORD_BYTES) };
        assert!(matches!(encode("a", &big, None), Err(StoreError::Refused { .. })));
    }
}
