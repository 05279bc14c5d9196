//! Golden files: what the code generates, kept under tests/golden/ and compared to the letter.

use std::path::PathBuf;

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares, or rewrites the file when `scripts/bless` asks for it.
#[track_caller]
pub fn compare(name: &str, generated: &str) {
    let path = path(name);
    if std::env::var_os("QHERD_BLESS").is_some() {
        std::fs::write(&path, generated).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = golden.lines().zip(generated.lines()).position(|(g, n)| g != n);
    if golden != generated {
        let line = differing.unwrap_or_else(|| golden.lines().count().min(generated.lines().count()));
        panic!(
            "{} differs from line {} on:\n  golden    {}\n  generated {}\nIf that is meant, run scripts/bless and read the diff.",
            path.display(),
            line + 1,
            golden.lines().nth(line).unwrap_or("(end)"),
            generated.lines().nth(line).unwrap_or("(end)"),
        );
    }
}
