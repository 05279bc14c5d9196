//! What serde has to say about a value that does not fit, kept as facts and put into words at the end.
//!
//! The words continue "`<name>` must …", as the contract wants them.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::HttpError;

/// A value that does not fit its type, and where it is.
#[derive(Debug)]
pub struct Fault {
    /// Innermost step first: it is collected on the way out.
    path: Vec<PathPart>,
    kind: FaultKind,
}

#[derive(Debug)]
enum PathPart {
    Key(String),
    Index(usize),
}

#[derive(Debug)]
enum FaultKind {
    Must(String),
    Missing(&'static str),
    Repeated(&'static str),
    Unknown { field: String, known: &'static [&'static str] },
}

impl Fault {
    pub fn must(must: impl Into<String>) -> Self {
        Self { path: Vec::new(), kind: FaultKind::Must(must.into()) }
    }

    pub fn not_one_of(variants: &[&str], found: Unexpected<'_>) -> Self {
        let found = found_words(found);
        Self::must(match variants {
            [] => format!("have another value than {found}"),
            [only] => format!("be {only}, not {found}"),
            several => format!("be one of {}, not {found}", several.join(", ")),
        })
    }

    pub fn inside_key(mut self, key: &str) -> Self {
        self.path.push(PathPart::Key(shorten(key)));
        self
    }

    pub fn inside_index(mut self, index: usize) -> Self {
        self.path.push(PathPart::Index(index));
        self
    }

    fn name(&self, last: Option<&str>) -> String {
        let mut name = String::new();
        let keys = self.path.iter().rev();
        for part in keys {
            match part {
                PathPart::Index(i) => name.push_str(&format!("[{i}]")),
                PathPart::Key(key) => join(&mut name, key),
            }
        }
        if let Some(last) = last {
            join(&mut name, &shorten(last));
        }
        name
    }
}

fn join(name: &mut String, key: &str) {
    if !name.is_empty() {
        name.push('.');
    }
    name.push_str(key);
}

impl From<Fault> for HttpError {
    fn from(fault: Fault) -> Self {
        match &fault.kind {
            FaultKind::Must(must) => {
                let name = fault.name(None);
                let name = if name.is_empty() { "the body".to_owned() } else { name };
                HttpError::invalid(name, must)
            }
            FaultKind::Missing(field) => HttpError::invalid(fault.name(Some(field)), "be given"),
            FaultKind::Repeated(field) => HttpError::invalid(fault.name(Some(field)), "be given only once"),
            FaultKind::Unknown { field, known } => HttpError::unknown(fault.name(Some(field)), field, known),
        }
    }
}

impl de::Error for Fault {
    /// A type's own words (`deserialize_with`, `try_from`). They may begin with "must"; others are quoted.
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        let message = message.trim_end_matches('.');
        match message.strip_prefix("must ") {
            Some(must) => Self::must(must),
            None => Self::must(format!("be valid: {message}")),
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let wanted = expected.to_string();
        if let Some((min, max)) = integer_range(&wanted) {
            return Self::must(not_that_integer(found, min, max));
        }
        Self::must(format!("be {}, not {}", wanted_words(&wanted), found_words(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        let wanted = wanted_words(&expected.to_string());
        Self::must(format!("be {wanted}, not of {length} elements"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::not_one_of(expected, Unexpected::Str(variant))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self { path: Vec::new(), kind: FaultKind::Unknown { field: field.to_owned(), known } }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { path: Vec::new(), kind: FaultKind::Missing(field) }
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self { path: Vec::new(), kind: FaultKind::Repeated(field) }
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.name(None), self.kind)
    }
}

/// What a number of this type can be, from serde's name for it. A whole number beyond 64 bits is not told
/// in digits: they would help nobody.
fn integer_range(wanted: &str) -> Option<(i128, i128)> {
    Some(match wanted {
        "i8" => (i8::MIN.into(), i8::MAX.into()),
        "i16" => (i16::MIN.into(), i16::MAX.into()),
        "i32" => (i32::MIN.into(), i32::MAX.into()),
        "i64" | "isize" | "i128" => (i64::MIN.into(), i64::MAX.into()),
        "u8" => (0, u8::MAX.into()),
        "u16" => (0, u16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "u64" | "usize" | "u128" => (0, u64::MAX.into()),
        "a nonzero u8" => (1, u8::MAX.into()),
        "a nonzero u16" => (1, u16::MAX.into()),
        "a nonzero u32" => (1, u32::MAX.into()),
        "a nonzero u64" | "a nonzero usize" => (1, u64::MAX.into()),
        _ => return None,
    })
}

fn not_that_integer(found: Unexpected<'_>, min: i128, max: i128) -> String {
    let value = match found {
        Unexpected::Unsigned(n) => i128::from(n),
        Unexpected::Signed(n) => i128::from(n),
        // A whole number too large for 64 bits arrives as a float.
        Unexpected::Float(n) if n.fract() == 0.0 && n.abs() > 9e15 => {
            if n > 0.0 {
                i128::MAX
            } else {
                i128::MIN
            }
        }
        other => return format!("be a whole number, not {}", found_words(other)),
    };
    if value < min && min >= 0 {
        format!("be a whole number of at least {min}")
    } else if max >= i64::MAX.into() {
        "be a whole number within range".to_owned()
    } else {
        format!("be a whole number from {min} to {max}")
    }
}

/// Serde's words for what a type wants, in the words of somebody who writes JSON.
fn wanted_words(wanted: &str) -> String {
    match wanted {
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "a borrowed string" | "str" | "string" | "a path string" | "path string" => "a string",
        "a character" => "a string of one character",
        "unit" => "null",
        "a sequence" => "an array",
        "a map" => "an object",
        // A struct may also be fed from an array in serde; not here.
        _ if wanted.starts_with("struct ") => "an object",
        _ if wanted.starts_with("tuple ") || wanted.starts_with("a tuple ") => {
            return wanted
                .rsplit(' ')
                .find_map(|word| word.parse::<usize>().ok())
                .map_or_else(|| "an array".to_owned(), |n| format!("an array of {n} elements"));
        }
        _ if wanted.starts_with("an array of length ") => {
            return wanted.replace("an array of length ", "an array of ") + " elements";
        }
        other => other,
    }
    .to_owned()
}

fn found_words(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(b) => b.to_string(),
        Unexpected::Unsigned(n) => n.to_string(),
        Unexpected::Signed(n) => n.to_string(),
        // Debug writes 2.0 and 1e30 where Display writes 2 and thirty zeros.
        Unexpected::Float(n) => format!("{n:?}"),
        Unexpected::Str(s) => format!("\"{}\"", shorten(s)),
        Unexpected::Unit => "null".to_owned(),
        Unexpected::Seq => "an array".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        other => other.to_string(),
    }
}

/// What the client sent is repeated to it, but not by the megabyte.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
