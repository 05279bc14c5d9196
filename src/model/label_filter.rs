//! Which labels a client wants of what it lists.

use super::{Error, Metadata, Result, check_label_key};

/// With these values, or with any where none is named. An empty one takes everything.
#[derive(Clone, Debug, Default)]
pub struct LabelFilter(Vec<(String, Option<String>)>);

impl LabelFilter {
    /// As JSON Schema has it; [`Self::read`] says it in words.
    pub const FORM: &str = "^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?(=[^,]*)?(,[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?(=[^,]*)?)*$";

    /// `env=prod,tier`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the part that is no label.
    pub fn read(text: &str) -> Result<Self> {
        let label = |part: &str| {
            let (key, value) = part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value.to_owned())));
            check_label_key(key)
                .map_err(|_| Error::invalid("label", format!("name labels, as in env=prod,tier; {part:?} is none")))?;
            Ok((key.to_owned(), value))
        };
        Ok(Self(text.split(',').map(label).collect::<Result<_>>()?))
    }

    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.0.iter().all(|(key, wanted)| {
            let value = metadata.labels.get(key);
            value.is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_every_label_with_its_value_matches() {
        let labels = [("env", "prod"), ("tier", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let metadata = Metadata { labels: labels.into(), ..Metadata::default() };
        for (text, matches) in [
            ("env=prod", true),
            ("env", true),
            ("tier=", true),
            ("tier,env=prod", true),
            ("env=test", false),
            ("env=prod,owner", false),
            ("Env", false),
        ] {
            assert_eq!(LabelFilter::read(text).unwrap().matches(&metadata), matches, "{text}");
        }
        assert!(LabelFilter::default().matches(&Metadata::default()));
        for bad in ["", "env=prod,", "=x", "a b"] {
            assert!(LabelFilter::read(bad).unwrap_err().to_string().contains("label must name labels"), "{bad}");
        }
    }
}
