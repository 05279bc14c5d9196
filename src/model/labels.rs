//! Labels, and how those are chosen that bear some: VMs of a list, and events by the labels that their VM had then.

use std::collections::BTreeMap;

use super::{MAX_METADATA, check_label_key, written};

pub type Labels = BTreeMap<String, String>;

/// Labels that are wanted, all of them: a key, with its value where that is not to be any.
#[derive(Clone, Debug, Default)]
pub struct LabelFilter(Vec<(String, Option<String>)>);

impl LabelFilter {
    /// As clients write it: `env=prod,tier`.
    ///
    /// # Errors
    /// The part that is none.
    pub fn parse(text: &str) -> Result<Self, &str> {
        let label = |part| {
            let (key, value) = text_of(part);
            check_label_key(key).map_err(|_| part)?;
            Ok((key.to_owned(), value.map(str::to_owned)))
        };
        text.split(',').map(label).collect::<Result<_, _>>().map(Self)
    }

    pub fn wants(&self, labels: &Labels) -> bool {
        let wanted = |value: &String, wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| wanted == value);
        self.0.iter().all(|(key, value)| labels.get(key).is_some_and(|found| wanted(found, value)))
    }

    /// Whether it wants one of these; all of them where nothing is wanted.
    pub fn wants_any(&self, labels: &[Labels]) -> bool {
        self.0.is_empty() || labels.iter().any(|labels| self.wants(labels))
    }
}

fn text_of(part: &str) -> (&str, Option<&str>) {
    part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)))
}

/// What an event is found by that happens while labels change: those after it and those before it, so that whoever follows a
/// label hears that it goes. What does not fit into an event beside the rest is left out.
pub fn around(after: &Labels, before: Option<&Labels>) -> Vec<Labels> {
    let mut found = vec![after];
    found.extend(before.filter(|before| *before != after && written(before) + written(after) <= MAX_METADATA));
    found.into_iter().filter(|labels| !labels.is_empty()).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn all_that_is_wanted_is_there_with_its_value_where_one_is_named() {
        let borne = labels(&[("env", "prod"), ("tier", ""), ("note", "a=b")]);
        for (text, wanted) in [
            ("env", true),
            ("env=prod", true),
            ("env=prod,tier", true),
            ("tier=", true),
            ("note=a=b", true),
            ("env=", false),
            ("env=pro", false),
            ("env=prod,zone", false),
            ("Env", false),
        ] {
            assert_eq!(LabelFilter::parse(text).unwrap().wants(&borne), wanted, "{text}");
        }
        for (text, bad) in [("", ""), ("env,", ""), ("=x", "=x"), ("env,a b=1", "a b=1")] {
            assert_eq!(LabelFilter::parse(text).unwrap_err(), bad);
        }
        assert!(LabelFilter::default().wants_any(&[]));
        assert!(!LabelFilter::parse("env").unwrap().wants_any(&[]));
    }

    #[test]
    fn what_changes_labels_is_found_by_those_before_and_those_after_it() {
        let (prod, test) = (labels(&[("env", "prod")]), labels(&[("env", "test")]));
        assert_eq!(around(&prod, None), *from_ref(&prod));
        assert_eq!(around(&prod, Some(&prod)), *from_ref(&prod));
        assert_eq!(around(&test, Some(&prod)), [test.clone(), prod.clone()]);
        assert_eq!(around(&Labels::new(), Some(&prod)), [prod]);
        assert!(around(&Labels::new(), Some(&Labels::new())).is_empty());
        let large = |value: &str| labels(&[("a", &value.repeat(MAX_METADATA / 2))]);
        assert_eq!(around(&large("x"), Some(&large("y"))), [large("x")]);
    }
}
