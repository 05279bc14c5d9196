//! Golden files: what the code generates, kept under tests/golden/ as insta's snapshots and compared to the letter.

use std::path::PathBuf;

pub fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Compares; `scripts/bless` writes the file instead.
#[allow(dead_code)]
#[track_caller]
pub fn compare(name: &str, generated: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(directory());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, generated));
}

/// What is kept, without insta's head.
#[allow(dead_code)]
pub fn kept(name: &str) -> String {
    let file = std::fs::read_to_string(directory().join(format!("{name}.snap"))).unwrap();
    let (_, text) = file.split_once("\n---\n").unwrap();
    text.to_owned()
}
