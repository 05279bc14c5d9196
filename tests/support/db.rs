//! `qherd db` in tests: the command, what it says, and what is in a store by its exports.
#![allow(dead_code)] // Every test file uses its own part.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::support::Daemon;

pub fn db(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
    command.arg("db").args(args).arg("--state-dir").arg(state).current_dir(state.parent().unwrap());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QHERD_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

pub fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

/// The command succeeds; what it says on standard output.
#[track_caller]
pub fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout).to_owned()
}

/// The command fails with one message that holds every one of `words`.
#[track_caller]
pub fn refused(command: &mut Command, words: &[&str]) -> Output {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    output
}

/// The records' lines of an export.
pub fn records(state: &Path) -> Vec<String> {
    lines(&done(&mut db(state, &["export"])))
}

pub fn lines(export: &str) -> Vec<String> {
    let lines: Vec<_> = export.lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("{\"qherd_export\":1,") && lines[lines.len() - 1].starts_with("{\"records\":"));
    lines[1..lines.len() - 1].to_vec()
}

/// An export of these lines.
pub fn export(lines: &[String]) -> String {
    let head = r#"{"qherd_export":1,"by":"a test","at":"2026-11-22T00:00:00Z"}"#;
    format!("{head}\n{}{{\"records\":{}}}\n", lines.iter().map(|l| format!("{l}\n")).collect::<String>(), lines.len())
}

pub fn import(state: &Path, lines: &[String], args: &[&str]) -> Command {
    let file = state.parent().unwrap().join("import.jsonl");
    fs::write(&file, export(lines)).unwrap();
    let mut all = vec!["import", file.to_str().unwrap()];
    all.extend(args);
    db(state, &all)
}

/// Files of the state directory whose names begin so.
pub fn beside(state: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(state).unwrap().map(|e| e.unwrap());
    entries.filter(|e| e.file_name().to_str().unwrap().starts_with(prefix)).map(|e| e.path()).collect()
}

pub fn exports(daemon: &Daemon) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(daemon.state().join("exports")).unwrap().map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

/// Every file below a folder with its bytes. A daemon that was killed leaves its socket as well.
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            found.extend(contents(&entry));
        } else if entry.is_file() {
            found.push((entry.clone(), fs::read(&entry).unwrap()));
        }
    }
    found.sort();
    found
}

/// Records of a store beside its VMs: the last boot of the host.
pub const OTHERS: usize = 1;
/// Records of one VM: its definition, what is known of its run, and the layer of its disk.
pub const OF_A_VM: usize = 3;

pub async fn stopped_with_vms(count: usize) -> (Daemon, Vec<String>) {
    let mut daemon = Daemon::start();
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(daemon.create(daemon.wish()).await);
    }
    assert!(daemon.terminate().success());
    (daemon, ids)
}
