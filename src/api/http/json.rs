//! Bytes to a tree of JSON: the first of the two steps of reading a body.
//!
//! The tree differs from `serde_json::Value` in one thing: an object keeps every member it was given, so that a field
//! given twice is still visible when the tree is turned into a type (`decode`). It knows no type and no field.

use std::{collections::HashMap, fmt};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::HttpError;

#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Null,
    /// A null that says as much as if its member were not there; see [`Node::absent_nulls`].
    Absent,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// For sentences such as "must be an object, not an array".
    pub fn kind(&self) -> &'static str {
        match self {
            Node::Null | Node::Absent => "null",
            Node::Bool(_) => "true or false",
            Node::Number(_) => "a number",
            Node::Text(_) => "a string",
            Node::Array(_) => "an array",
            Node::Object(_) => "an object",
        }
    }

    /// The same for who knows no type of it.
    pub fn into_value(self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Node::Null | Node::Absent => Value::Null,
            Node::Bool(value) => Value::Bool(value),
            Node::Number(number) => Value::Number(number),
            Node::Text(text) => Value::String(text),
            Node::Array(items) => items.into_iter().map(Node::into_value).collect(),
            Node::Object(members) => members.into_iter().map(|(name, member)| (name, member.into_value())).collect(),
        }
    }

    /// Marks the nulls among the members of objects `depth` levels down and below. The member itself stays, so that an
    /// unknown name is still refused; one that is given twice is left for that objection.
    pub fn absent_nulls(&mut self, depth: usize) {
        match self {
            Node::Array(items) => items.iter_mut().for_each(|item| item.absent_nulls(depth.saturating_sub(1))),
            Node::Object(members) => {
                // Counted once: a body may have a hundred thousand members.
                let mut times: HashMap<String, usize> = HashMap::new();
                if depth == 0 && members.iter().any(|(_, member)| *member == Node::Null) {
                    members.iter().for_each(|(name, _)| *times.entry(name.clone()).or_default() += 1);
                }
                for (name, member) in members {
                    if depth == 0 && *member == Node::Null && times.get(name) == Some(&1) {
                        *member = Node::Absent;
                    } else {
                        member.absent_nulls(depth.saturating_sub(1));
                    }
                }
            }
            Node::Null | Node::Absent | Node::Bool(_) | Node::Number(_) | Node::Text(_) => {}
        }
    }
}

/// Reads the whole of `bytes`, without the byte order mark that some clients put before them. serde_json's limit of 128 levels keeps a hostile body from exhausting the stack here,
/// in `decode` and in `Drop`.
pub fn parse(bytes: &[u8]) -> Result<Node, HttpError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|err| {
        let good = bytes.get(..err.valid_up_to()).unwrap_or_default();
        let line_start = good.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        HttpError::NotJson {
            line: 1 + good.iter().filter(|b| **b == b'\n').count(),
            column: 1 + good.len() - line_start,
            why: "it is not UTF-8".to_owned(),
        }
    })?;
    serde_json::from_str(text).map_err(|err| HttpError::NotJson {
        line: err.line(),
        column: err.column(),
        why: why(&err.to_string()),
    })
}

/// serde_json's own words without the position, which is told apart; the few that only a programmer would
/// understand are put differently.
fn why(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(head, _)| head);
    if let Some(rest) = message.strip_prefix("EOF while parsing ") {
        let what = match rest {
            "an object" | "a list" | "a string" => rest.replace("a list", "an array"),
            _ => "a value".to_owned(),
        };
        return format!("it ends in the middle of {what}");
    }
    match message {
        "recursion limit exceeded" => "it is nested too deeply".to_owned(),
        "trailing characters" => "something follows after its end".to_owned(),
        "number out of range" => "a number is too large".to_owned(),
        "expected value" => "a value is expected".to_owned(),
        _ => message.to_owned(),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Build)
    }
}

struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Node, E> {
        Ok(Node::Bool(v))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Node, E> {
        Ok(Node::Number(v.into()))
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Node, E> {
        Ok(Node::Number(v.into()))
    }
    /// A number without a fraction is an integer however it is written (`2.0`, `1e3`), as in JSON Schema. Beyond 2^53 a
    /// float no longer says which one; nothing here counts that far.
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Node, E> {
        const EXACT: f64 = (1_u64 << 53) as f64;
        if v.fract() == 0.0 && v.abs() <= EXACT {
            return Ok(Node::Number((v as i64).into()));
        }
        serde_json::Number::from_f64(v).map(Node::Number).ok_or_else(|| E::custom("number out of range"))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Node, E> {
        Ok(Node::Text(v.to_owned()))
    }
    fn visit_string<E: de::Error>(self, v: String) -> Result<Node, E> {
        Ok(Node::Text(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Node::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> (usize, usize, String) {
        match parse(bytes) {
            Err(HttpError::NotJson { line, column, why }) => (line, column, why),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_full_of_nulls_takes_time_by_its_length() {
        let members: Vec<String> = (0..80_000).map(|number| format!("\"{number}\":null")).collect();
        let mut node = parse(format!("{{{}}}", members.join(",")).as_bytes()).unwrap();
        let begun = std::time::Instant::now();
        node.absent_nulls(0);
        // To compare each with each takes minutes.
        assert!(begun.elapsed() < std::time::Duration::from_secs(30));
        let Node::Object(members) = node else { panic!() };
        assert!(members.iter().all(|(_, member)| *member == Node::Absent));
    }

    #[test]
    fn what_is_not_json_is_refused_with_the_place() {
        assert_eq!(refusal(b"{\"a\":1,\n oops}").0, 2);
        let cases: [(&[u8], &str); 8] = [
            (b"", "it ends in the middle of a value"),
            (b"{\"a\":", "it ends in the middle of a value"),
            (b"{\"a\":1", "it ends in the middle of an object"),
            (b"[1", "it ends in the middle of an array"),
            (b"{} {}", "something follows after its end"),
            (b"vcpus=2", "a value is expected"),
            (b"1e400", "a number is too large"),
            (b"{\"a\":\n\"\xff\"}", "it is not UTF-8"),
        ];
        for (text, why) in cases {
            assert_eq!(refusal(text).2, why, "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(refusal(b"{\"a\":\n\"\xff\"}"), (2, 2, "it is not UTF-8".into()));
    }

    #[test]
    fn nesting_without_end_is_refused_and_does_not_exhaust_the_stack() {
        let deep = "[".repeat(1_000_000);
        assert_eq!(refusal(deep.as_bytes()).2, "it is nested too deeply");
    }

    #[test]
    fn a_number_without_a_fraction_is_an_integer() {
        let whole = |text: &str| match parse(text.as_bytes()) {
            Ok(Node::Number(number)) => number.as_i64(),
            other => panic!("{other:?}"),
        };
        for (text, number) in [
            ("2.0", Some(2)),
            ("1e3", Some(1000)),
            ("-25e-1", None),
            ("-250e-1", Some(-25)),
            ("-0.0", Some(0)),
            ("2.5", None),
            ("9007199254740992.0", Some(1 << 53)),
            ("1e30", None),
        ] {
            assert_eq!(whole(text), number, "{text}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped_once_and_at_the_beginning_only() {
        assert_eq!(parse(b"\xef\xbb\xbf[]"), Ok(Node::Array(Vec::new())));
        assert_eq!(refusal(b"\xef\xbb\xbf\xef\xbb\xbf[]").2, "a value is expected");
        assert_eq!(refusal(b"[] \xef\xbb\xbf").2, "something follows after its end");
    }

    #[test]
    fn a_member_given_twice_is_kept_twice() {
        let Ok(Node::Object(members)) = parse(br#"{"a":1,"a":2}"#) else { panic!("an object") };
        assert_eq!(members.len(), 2);
    }
}
