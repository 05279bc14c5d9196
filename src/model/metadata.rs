//! What people and programs note of a VM beside its hardware, and of a switch: labels, a description, and that it is protected. Neither
//! QEMU nor the host knows of it, so a change of it is in effect at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Error, Result, written};

/// Labels of one VM, or switch.
pub const MAX_LABELS: usize = 64;
/// Characters of a label's key.
const MAX_KEY: usize = 63;
/// Characters of a label's value.
const MAX_VALUE: usize = 255;
/// Characters of a description.
const MAX_DESCRIPTION: usize = 1024;
/// Bytes, as JSON, of all of it, which stands in the record of the definition beside the rest.
pub const MAX_METADATA: usize = 10 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// It is neither deleted nor, of a VM, forced off until that is taken away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
}

/// Of it, what is to be another: decoded, not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataWish {
    /// Replaced whole.
    pub labels: Option<BTreeMap<String, String>>,
    /// Beside those that there are; one of the same key is replaced.
    pub add_labels: Option<BTreeMap<String, String>>,
    /// By their keys; one that is not there is no matter.
    pub remove_labels: Option<Vec<String>>,
    /// `Some(None)` removes it.
    pub description: Option<Option<String>>,
    pub protected: Option<bool>,
}

impl Metadata {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl MetadataWish {
    /// # Errors
    /// [`Error::Invalid`] with the field and its bound.
    pub fn apply(self, metadata: &mut Metadata) -> Result<()> {
        if self.labels.is_some() && (self.add_labels.is_some() || self.remove_labels.is_some()) {
            return Err(Error::invalid("labels", "not be combined with add_labels or remove_labels"));
        }
        if let Some(labels) = self.labels {
            check_labels(&labels)?;
            metadata.labels = labels;
        }
        for key in self.remove_labels.iter().flatten() {
            if self.add_labels.as_ref().is_some_and(|labels| labels.contains_key(key)) {
                return Err(Error::invalid("remove_labels", format!("not name {key:?}, which add_labels has")));
            }
            metadata.labels.remove(key);
        }
        if let Some(labels) = self.add_labels {
            metadata.labels.extend(labels);
            check_labels(&metadata.labels)?;
        }
        if let Some(description) = self.description {
            // Empty is none: a client that always sends the field has nothing else to send.
            let description = description.filter(|text| !text.is_empty());
            description.iter().try_for_each(|text| check_description(text))?;
            metadata.description = description;
        }
        if let Some(protected) = self.protected {
            metadata.protected = protected;
        }
        let size = written(metadata);
        if size > MAX_METADATA {
            let must =
                format!("take at most {MAX_METADATA} bytes together with the description, as JSON, and take {size}");
            return Err(Error::invalid("labels", must));
        }
        Ok(())
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return Err(Error::invalid("labels", format!("be at most {MAX_LABELS}, and there are {}", labels.len())));
    }
    for (key, value) in labels {
        check_label_key(key)?;
        if value.chars().count() > MAX_VALUE || value.chars().any(char::is_control) {
            let must = format!("have at most {MAX_VALUE} characters, none of them a control character");
            return Err(Error::invalid(format!("labels.{key}"), must));
        }
    }
    Ok(())
}

/// # Errors
/// [`Error::Invalid`].
pub fn check_label_key(key: &str) -> Result<()> {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if key.len() <= MAX_KEY && ends(key.chars().next()) && ends(key.chars().last()) && key.chars().all(fits) {
        return Ok(());
    }
    let must = format!(
        "have keys of 1 to {MAX_KEY} letters and digits of ASCII, with '.', '_', '-' and '/' between them; {:?} is none",
        key.chars().take(MAX_KEY + 1).collect::<String>()
    );
    Err(Error::invalid("labels", must))
}

fn check_description(text: &str) -> Result<()> {
    let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.chars().count() > MAX_DESCRIPTION || text.chars().any(odd) {
        let must =
            format!("have at most {MAX_DESCRIPTION} characters, and no control characters but line breaks and tabs");
        return Err(Error::invalid("description", must));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> Result<Metadata> {
        let mut metadata = Metadata::default();
        let labels = Some([(key.to_owned(), value.to_owned())].into());
        MetadataWish { labels, ..MetadataWish::default() }.apply(&mut metadata)?;
        Ok(metadata)
    }

    #[test]
    fn labels_are_what_other_programs_can_carry() {
        for key in ["env", "qherd.io/team-1", "A.b_c", &"x".repeat(63)] {
            assert_eq!(with(key, "größe, 1 = 2").unwrap().labels[key], "größe, 1 = 2");
        }
        for key in ["", "-a", "a-", "a b", "ü", "a=b", &"x".repeat(64)] {
            assert!(with(key, "").unwrap_err().to_string().contains("labels must have keys"), "{key}");
        }
        assert_eq!(with("a", &"ü".repeat(255)).unwrap().labels.len(), 1);
        assert!(with("a", &"ü".repeat(256)).is_err());
        assert!(with("a", "\u{1b}[31m").unwrap_err().to_string().contains("labels.a must have"));
    }

    #[test]
    fn labels_are_added_and_removed_beside_those_that_others_set() {
        let mut metadata = with("a", "1").unwrap();
        let wish = |add: &[(&str, &str)], remove: &[&str]| MetadataWish {
            add_labels: Some(add.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
            remove_labels: Some(remove.iter().map(|key| (*key).to_owned()).collect()),
            ..MetadataWish::default()
        };
        wish(&[("b", "2")], &["none"]).apply(&mut metadata).unwrap();
        wish(&[("c", "3")], &["a"]).apply(&mut metadata).unwrap();
        assert_eq!(metadata.labels, [("b".to_owned(), "2".to_owned()), ("c".to_owned(), "3".to_owned())].into());
        assert!(wish(&[("b", "4")], &["b"]).apply(&mut metadata).is_err());
        let both = MetadataWish { labels: Some(BTreeMap::new()), ..wish(&[], &[]) };
        assert!(both.apply(&mut metadata).unwrap_err().to_string().contains("not be combined"));
        // The bound is of all of them.
        let many: Vec<(String, String)> = (0..MAX_LABELS).map(|n| (format!("k{n}"), String::new())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert!(wish(&many, &[]).apply(&mut metadata).is_err());
    }

    #[test]
    fn what_does_not_fit_beside_a_definition_is_refused_by_name() {
        let many = |count: usize, value: usize| {
            let labels = (0..count).map(|n| (format!("k{n:02}"), "v".repeat(value))).collect();
            MetadataWish { labels: Some(labels), ..MetadataWish::default() }.apply(&mut Metadata::default())
        };
        many(64, 100).unwrap();
        assert!(many(65, 1).unwrap_err().to_string().contains("be at most 64"));
        assert!(many(64, 255).unwrap_err().to_string().contains("10240 bytes"));
    }

    #[test]
    fn a_part_that_is_not_named_stays_and_an_empty_description_is_none() {
        let mut metadata = with("a", "b").unwrap();
        let wish = |description: Option<&str>| MetadataWish {
            description: Some(description.map(str::to_owned)),
            ..MetadataWish::default()
        };
        wish(Some("two\nlines")).apply(&mut metadata).unwrap();
        assert_eq!((metadata.labels.len(), metadata.description.as_deref()), (1, Some("two\nlines")));
        assert!(wish(Some("\u{7}")).apply(&mut metadata).is_err());
        wish(Some("")).apply(&mut metadata).unwrap();
        assert_eq!(metadata.description, None);
    }
}
