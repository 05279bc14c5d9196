//! A store as text, a record a line; nothing here reads or writes one. An export is
//!
//! ```text
//! {"qherd_export":1,"by":"0.1.0","at":"2026-11-22T00:00:00Z"}
//! {"name":"vm/6f…","value":{"v":1,"crc":"…","data":{…}}}
//! {"records":1,"crc":"2c1b7a90"}
//! ```
//! The bytes of a value are handed through untouched, whatever its kind and version. A name or value that is no text, or
//! no JSON on one line, stands there in hexadecimal as `name_hex` or `value_hex`. The last line tells a whole
//! export from half of one; its `crc` (CRC-32 of all lines between the first and the last) may be taken out
//! to import a file that was changed by hand.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Of the text, not of the records.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    qherd_export: u32,
    by: String,
    at: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<String>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

/// The last line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tail {
    pub records: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crc: Option<String>,
}

/// Name (`kind/key`) and value, as they are stored.
pub(super) type Entry = (Vec<u8>, Vec<u8>);

/// The first line, with its end.
pub(super) fn head(at: &str) -> String {
    json(&Head { qherd_export: FORMAT, by: env!("CARGO_PKG_VERSION").into(), at: at.into() })
}

/// One record's line, with its end.
pub(super) fn line(name: &[u8], value: &[u8]) -> String {
    let text = str::from_utf8(name).ok();
    let value_text = str::from_utf8(value).ok().and_then(raw);
    json(&Line {
        name: text.map(str::to_owned),
        name_hex: text.is_none().then(|| to_hex(name)),
        value: value_text,
        value_hex: value_text.is_none().then(|| to_hex(value)),
    })
}

/// The last line, with its end; `lines` is the CRC of what `line` gave.
pub(super) fn tail(records: usize, lines: u32) -> String {
    json(&Tail { records, crc: Some(format!("{lines:08x}")) })
}

/// All records of an export.
///
/// # Errors
/// What is wrong, with the number of the line.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let mut lines = text.split_inclusive('\n').enumerate();
    let head = lines.next().map_or("", |(_, line)| line);
    let head: Head = serde_json::from_str(head).map_err(|_| "it does not begin as an export of qherd".to_owned())?;
    if head.qherd_export > FORMAT {
        let by = head.by;
        return Err(format!("it was written in a newer format, by qherd {by}; use that one, or a later one"));
    }
    let (mut entries, mut crc) = (Vec::new(), crc32fast::Hasher::new());
    while let Some((index, line)) = lines.next() {
        if let Ok(tail) = serde_json::from_str::<Tail>(line) {
            if let Some((index, _)) = lines.next() {
                return Err(format!("line {} comes after its end", index + 1));
            }
            return whole(&tail, entries, &format!("{:08x}", crc.finalize()));
        }
        match entry(line) {
            Ok(entry) => entries.push(entry),
            Err(_) if !line.ends_with('\n') => break,
            Err(why) => return Err(format!("line {}: {why}", index + 1)),
        }
        crc.update(line.as_bytes());
    }
    Err(format!("it ends after {} records without its last line, so it is not whole", entries.len()))
}

fn whole(tail: &Tail, entries: Vec<Entry>, crc: &str) -> Result<Vec<Entry>, String> {
    if tail.records != entries.len() {
        return Err(format!("it holds {} records and its last line says {}", entries.len(), tail.records));
    }
    match &tail.crc {
        Some(written) if written != crc => Err(format!(
            "its checksum is {crc} instead of {written}, so it was damaged or changed; \
             to import it all the same, take \"crc\" out of its last line"
        )),
        _ => Ok(entries),
    }
}

fn entry(line: &str) -> Result<Entry, String> {
    let line: Line<'_> = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let name = match (line.name, line.name_hex) {
        (Some(name), None) => name.into_bytes(),
        (None, Some(hex)) => from_hex(&hex).ok_or("name_hex is not hexadecimal")?,
        _ => return Err("it has not one name".into()),
    };
    let value = match (line.value, line.value_hex) {
        (Some(value), None) => value.get().as_bytes().to_vec(),
        (None, Some(hex)) => from_hex(&hex).ok_or("value_hex is not hexadecimal")?,
        _ => return Err("it has not one value".into()),
    };
    Ok((name, value))
}

/// Where JSON hands the very bytes through.
fn raw(text: &str) -> Option<&RawValue> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    // `null` would be no value at all.
    (raw.get() == text && text != "null" && !text.contains(['\n', '\r'])).then_some(raw)
}

fn json(value: &impl Serialize) -> String {
    // Strings, numbers and text that is JSON already cannot fail.
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    text
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn export(entries: &[Entry]) -> String {
        let lines: String = entries.iter().map(|(name, value)| line(name, value)).collect();
        head("2026-11-22T00:00:00Z") + &lines + &tail(entries.len(), crc32fast::hash(lines.as_bytes()))
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<Vec<u8>>(),
            any::<String>().prop_map(String::into_bytes),
            any::<String>().prop_map(|s| serde_json::to_vec(&s).unwrap()),
            r#" ?\{"v": ?[0-9]{1,30}\.?,("x":null|"x":1e400|"a":1,"a":2)\}\n?"#.prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_stored_comes_back_byte_by_byte(entries in prop::collection::vec((any::<Vec<u8>>(), value()), 0..9)) {
            prop_assert_eq!(parse(&export(&entries)).unwrap(), entries);
        }

        #[test]
        fn half_an_export_is_never_taken_for_a_whole_one(cut in 0usize..1000) {
            let text = export(&[(b"vm/1".to_vec(), br#"{"v":1}"#.to_vec()), (b"x".to_vec(), vec![0xff])]);
            let cut = cut % (text.trim_end().len());
            prop_assert!(parse(&text[..cut]).is_err());
        }
    }

    #[test]
    fn a_record_is_readable_where_it_is_json() {
        let value = br#"{"v":9,"sha":"x","body":[1, 2.50,"\u00e4"]}"#;
        assert_eq!(
            line("vm/ä".as_bytes(), value),
            "{\"name\":\"vm/ä\",\"value\":{\"v\":9,\"sha\":\"x\",\"body\":[1, 2.50,\"\\u00e4\"]}}\n"
        );
        assert_eq!(line(b"\xff", b"no"), "{\"name_hex\":\"ff\",\"value_hex\":\"6e6f\"}\n");
        assert_eq!(line(b"a", b"null"), "{\"name\":\"a\",\"value_hex\":\"6e756c6c\"}\n");
    }

    #[test]
    fn what_is_wrong_is_told() {
        let good = export(&[(b"vm/1".to_vec(), br#"{"v":1}"#.to_vec())]);
        let error = |text: &str| parse(text).unwrap_err();
        assert!(error("").contains("does not begin"));
        assert!(error(&good.replace("\"qherd_export\":1", "\"qherd_export\":2")).contains("newer format"));
        assert!(error(&good.replace("{\"v\":1}", "{\"v\":2}")).contains("checksum"));
        assert!(error(&good.replace("vm/1\"", "vm/1\",\"x\":1")).contains("line 2"));
        assert!(error(&good.replace("\"records\":1", "\"records\":2")).contains("says 2"));
        assert!(error(&(good.clone() + "{}\n")).contains("line 4"));
        let (body, _) = good.rsplit_once(",\"crc\"").unwrap();
        assert_eq!(parse(&(body.replace("{\"v\":1}", "{\"v\":2}") + "}\n")).unwrap()[0].1, br#"{"v":2}"#);
    }
}
