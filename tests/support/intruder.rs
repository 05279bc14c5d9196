//! The program of `intruder_program.rs`, compiled, and what it says.
#![allow(dead_code)] // Every test file uses its own part.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

pub struct Intruder(tempfile::TempDir);

impl Intruder {
    pub fn build() -> Self {
        let dir = tempfile::Builder::new().prefix("qherd-intruder-").tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/intruder_program.rs");
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition", "2024", "--deny", "warnings", "-o"]).arg(dir.path().join("intruder")).arg(source);
        let output = rustc.current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(dir)
    }

    /// A VM runs as a user of its own.
    pub fn show_to_all(&self) {
        for shown in [self.0.path().to_owned(), self.path()] {
            std::fs::set_permissions(shown, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("intruder")
    }
}

/// Of each attempt: nothing where it succeeded, else the number of the error, or of the signal with a minus.
pub type Outcomes = BTreeMap<String, Option<i32>>;

pub fn outcomes(said: &str) -> Outcomes {
    let outcome = |line: &str| {
        let (attempt, outcome) = line.rsplit_once(' ')?;
        let outcome = if outcome == "ok" { None } else { Some(outcome.parse().ok()?) };
        Some((attempt.to_owned(), outcome))
    };
    said.lines().filter_map(outcome).collect()
}
