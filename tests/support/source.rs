//! Rust sources as `tests/tree/layers.rs` looks at them: without comments and literals, test code told apart. No parser,
//! only as much as formatted code needs.
#![allow(dead_code)] // Every test file uses its own part.

use std::path::{Path, PathBuf};

pub struct Source {
    /// Below src/.
    pub path: String,
    /// The top-level module it belongs to.
    pub module: String,
    pub lines: usize,
    pub opens_with_comment: bool,
    /// A file of tests only.
    pub is_test: bool,
    code: String,
    /// How many modules above this one are its own top-level module's: `super::` more often leads out of it.
    depth: usize,
}

impl Source {
    /// Every file under src/.
    pub fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut paths = Vec::new();
        walk(&root, &mut paths);
        paths.sort();
        assert!(paths.len() > 20, "src/ was not found");
        paths.into_iter().map(|path| Self::read(&root, &path)).collect()
    }

    fn read(root: &Path, path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        Self::parse(path.strip_prefix(root).unwrap().to_str().unwrap(), &text)
    }

    /// `path` is below src/.
    pub fn parse(path: &str, text: &str) -> Self {
        let parts: Vec<&str> = path.split('/').collect();
        let module = parts[0].trim_end_matches(".rs").to_owned();
        let is_mod = parts.last() == Some(&"mod.rs");
        Self {
            module,
            lines: text.lines().count(),
            opens_with_comment: text.starts_with("//!"),
            is_test: parts.last() == Some(&"tests.rs") || parts.contains(&"tests"),
            code: blank(text),
            depth: parts.len() - 1 - usize::from(is_mod && parts.len() > 1),
            path: path.to_owned(),
        }
    }

    /// Numbered lines of code outside test modules; comments and literals are blank.
    pub fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let hidden = if self.is_test { vec![(0, self.code.len())] } else { test_items(&self.code) };
        let mut at = 0;
        self.code.split('\n').enumerate().filter_map(move |(index, line)| {
            let start = at;
            at += line.len() + 1;
            (!hidden.iter().any(|&(from, to)| (from..to).contains(&start))).then_some((index + 1, line))
        })
    }

    /// The top-level modules that are named through `crate::`, `qherd::` (in main) or too many `super::`, with their
    /// lines; tests included.
    pub fn uses(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let line_of = |at: usize| self.code[..at].matches('\n').count() + 1;
        let root = if self.module == "main" { "qherd" } else { "crate" };
        for (at, _, rest) in positions(&self.code).filter(|(_, word, _)| *word == root) {
            if let Some(rest) = rest.strip_prefix("::") {
                found.extend(heads(rest).into_iter().map(|name| (line_of(at), name)));
            }
        }
        let climbs = "super::".repeat(self.depth + 1);
        for (at, _) in self.code.match_indices(&climbs) {
            let before = self.code[..at].trim_end_matches("super::");
            let inside_tests = test_items(&self.code).iter().any(|&(from, to)| (from..to).contains(&at));
            if before.len() == at && !inside_tests {
                found.extend(heads(&self.code[at + climbs.len()..]).into_iter().map(|name| (line_of(at), name)));
            }
        }
        found
    }
}

impl Source {
    /// The lines of product code on which `library` begins a path: `sled::Db`, `use http::Method;`.
    pub fn names(&self, library: &str) -> Vec<usize> {
        let hidden = if self.is_test { vec![(0, self.code.len())] } else { test_items(&self.code) };
        let begins = |at: usize, rest: &str| {
            let before = self.code[..at].trim_end();
            let statement = before.rsplit(';').next().unwrap_or_default().trim_start();
            // Inside the braces of another crate's or module's `use`, the word is a name of that one.
            let import = statement.starts_with("use ") || statement.starts_with("pub use ");
            statement.ends_with("use") || (!import && rest.starts_with("::") && !before.ends_with("::"))
        };
        positions(&self.code)
            .filter(|&(at, word, rest)| word == library && begins(at, rest))
            .filter(|(at, ..)| !hidden.iter().any(|&(from, to)| (from..to).contains(at)))
            .map(|(at, ..)| self.code[..at].matches('\n').count() + 1)
            .collect()
    }
}

/// Words of a line with what follows each.
pub fn words(line: &str) -> impl Iterator<Item = (&str, &str)> {
    positions(line).map(|(_, word, rest)| (word, rest))
}

fn positions(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(letter)?;
        let end = text[start..].find(|c| !letter(c)).map_or(text.len(), |length| start + length);
        at = end;
        Some((start, &text[start..end], &text[end..]))
    })
}

/// The first names of a path, or of each path of a `{…}` group.
fn heads(rest: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut depth, mut names, mut fresh) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && depth == 0 && !c.is_whitespace() => {
                names.push(name(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

/// Where items marked `#[cfg(test)]` begin and end.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let marks = code.match_indices("#[cfg(test)]");
    marks
        .map(|(from, _)| {
            let mut depth = 0;
            for (at, c) in code[from..].char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 1 => return (from, from + at + 1),
                    '}' => depth -= 1,
                    ';' if depth == 0 => return (from, from + at + 1),
                    _ => {}
                }
            }
            (from, code.len())
        })
        .collect()
}

/// The text with comments, strings and character literals blanked, every line where it was.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.chars().last().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if !after_word && let Some(length) = raw_string(rest) {
            length
        } else if first == '"' {
            quoted(rest, '"')
        } else if let Some(length) = character(rest) {
            length
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    code
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let opening = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = opening.len() - opening.trim_start_matches('#').len();
    opening[hashes..].starts_with('"').then(|| {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = text.len() - opening.len() + hashes + 1;
        text[start..].find(&end).map_or(text.len(), |at| start + at + end.len())
    })
}

/// A character literal, not a lifetime.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let first = inner.chars().next()?;
    (first == '\\' || inner[first.len_utf8()..].starts_with('\'')).then(|| quoted(text, '\''))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}
