//! User data that cloud-init would pass over without a word: what has no header, and `#cloud-config` that is no YAML.

use saphyr_parser::{Event, Parser};

use crate::model::{Error, Result};

const FIELD: &str = "cloud_init.user_data";
const CONFIG: &str = "#cloud-config";
/// Levels within levels.
const DEEPEST: usize = 100;
/// Beginnings of what cloud-init knows, and what guests of Windows do.
const HEADERS: [&str; 6] = ["#", "content-type:", "mime-version:", "from ", "rem cmd", "<"];

pub(super) fn check(text: &str) -> Result<()> {
    let begins = text.get(..32.min(text.len())).map_or_else(|| text.chars().take(32).collect(), str::to_owned);
    let begins = begins.to_ascii_lowercase();
    if !HEADERS.iter().any(|header| begins.starts_with(header)) {
        let must =
            "begin with #cloud-config, #! or another header of cloud-init's, which does nothing with what has none";
        return Err(Error::invalid(FIELD, must));
    }
    if text.lines().next().is_some_and(|line| line.trim_end() == CONFIG) { check_yaml(text) } else { Ok(()) }
}

/// Event by event: what aliases stand for, a few of them one within another, would be more than any memory.
fn check_yaml(text: &str) -> Result<()> {
    let (mut depth, mut is_mapping) = (0_usize, None);
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| no_yaml(&error.to_string()))?;
        let begins = match event {
            Event::MappingStart(..) => true,
            Event::SequenceStart(..) | Event::Alias(_) => false,
            // Nothing behind the header is an empty one.
            Event::Scalar(ref text, ..) => text.is_empty(),
            Event::MappingEnd | Event::SequenceEnd => {
                depth -= 1;
                continue;
            }
            _ => continue,
        };
        is_mapping.get_or_insert(begins);
        depth += usize::from(matches!(event, Event::MappingStart(..) | Event::SequenceStart(..)));
        if depth > DEEPEST {
            return Err(no_yaml(&format!("it is more than {DEEPEST} levels deep")));
        }
    }
    if is_mapping == Some(false) { Err(no_yaml("it is no mapping")) } else { Ok(()) }
}

fn no_yaml(why: &str) -> Error {
    Error::invalid(FIELD, format!("be YAML behind #cloud-config, a mapping of keys: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cloud_init_would_pass_over_is_refused() {
        for good in [
            "#cloud-config\npackages: [nginx]\n",
            "#cloud-config\n",
            "#!/bin/sh\nexit 0: [",
            "#include\nhttps://example.com",
            "## template: jinja\n#cloud-config\n{% if a %}",
            "Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n",
            "#cloud-config\na: &x [1]\nb: *x\n",
            "#größe",
        ] {
            check(good).unwrap();
        }
        for (bad, why) in [
            ("packages: [nginx]\n", "begin with #cloud-config"),
            ("größe", "begin with"),
            ("#cloud-config\npackages: [nginx\n", "be YAML"),
            ("#cloud-config\n- a\n", "no mapping"),
            ("#cloud-config\nword\n", "no mapping"),
            (&format!("#cloud-config\n{}", "- ".repeat(200_000)), "levels deep"),
        ] {
            let said = check(bad).unwrap_err().to_string();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }
}
