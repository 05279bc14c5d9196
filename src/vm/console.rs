//! The guest's serial output, and QEMU's own complaints. QEMU itself appends them to the logs (also while no daemon runs);
//! here they are kept bounded and read back. Nobody is connected to the serial socket, so nothing can keep the guest's
//! console waiting.

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    host::{last_lines, last_text},
    qemu::RunPaths,
};

/// Bytes in each of the two files of the console, 16 MiB together.
const HALF: u64 = 8 << 20;
/// And of QEMU's standard error, where only the last lines are ever wanted.
const QEMU_HALF: u64 = 256 << 10;

fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Keeps both logs of a VM within their bounds.
pub(super) fn bound(paths: &RunPaths) {
    for (log, half) in [(paths.console_log(), HALF), (paths.qemu_log(), QEMU_HALF)] {
        if let Err(error) = cut(&log, half) {
            tracing::warn!(log = %log.display(), %error, "cannot keep a log within its bounds");
        }
    }
}

/// Once a log is full its last half becomes the older file and it starts anew. QEMU holds it open with O_APPEND:
/// cutting it is safe, renaming it would take it away.
fn cut(log: &Path, half: u64) -> io::Result<()> {
    if !fs::metadata(log).is_ok_and(|m| m.len() > half) {
        return Ok(());
    }
    // Beside the older half, so that a disk that is full costs the new text and not the old one as well.
    let copy = log.with_extension("log.new");
    let kept =
        last_text(log, half).and_then(|text| fs::write(&copy, text)).and_then(|()| fs::rename(&copy, older(log)));
    if kept.is_err() {
        let _ = fs::remove_file(&copy);
    }
    // Whether it could be kept or not: a log without end would fill the disk.
    let cut = File::options().write(true).open(log).and_then(|log| log.set_len(0));
    kept.and(cut)
}

/// Where QEMU's standard error goes: to a log of this run alone.
///
/// # Errors
/// When it cannot be made.
pub(super) fn new_qemu_log(paths: &RunPaths) -> io::Result<File> {
    let log = paths.qemu_log();
    for old in [older(&log), log.clone()] {
        match fs::remove_file(old) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    File::options().create(true).append(true).open(log)
}

/// The last `lines` lines of QEMU's standard error; empty when there are none.
pub(super) fn complaints(paths: &RunPaths, lines: usize) -> Vec<u8> {
    read_back(&paths.qemu_log(), 8192, lines).unwrap_or_default()
}

/// Bytes of them in a message: it stands in the VM's record after a crash.
pub(super) const MAX_COMPLAINT: usize = 1024;

/// The last complaints of QEMU, for a message.
pub(super) fn last_complaints(paths: &RunPaths) -> String {
    let text = complaints(paths, 3);
    let text = String::from_utf8_lossy(&text).trim().replace('\n', "; ").replace(char::is_control, " ");
    let mut from = text.len().saturating_sub(MAX_COMPLAINT);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    if text.is_empty() { "it left no message".to_owned() } else { text[from..].trim_start().to_owned() }
}

/// The last `lines` lines of the console, over both files; empty when the VM never ran.
///
/// # Errors
/// When a log cannot be read.
pub(crate) fn tail(paths: &RunPaths, lines: usize) -> io::Result<Vec<u8>> {
    read_back(&paths.console_log(), 2 * HALF, lines)
}

/// At most `limit` bytes of each file.
fn read_back(log: &Path, limit: u64, lines: usize) -> io::Result<Vec<u8>> {
    let read = |path: &Path| match last_text(path, limit) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    };
    let mut text = read(&older(log))?;
    text.extend(read(log)?);
    Ok(last_lines(&text, lines).to_vec())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_log_stays_bounded_and_its_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let paths = RunPaths::new(dir.path().to_owned());
        let mut qemu = File::options().create(true).append(true).open(paths.console_log()).unwrap();
        assert_eq!(tail(&RunPaths::new(dir.path().join("never ran")), 9).unwrap(), b"");
        let line = [b'x'; 1023];
        for number in 0..20_000 {
            writeln!(qemu, "{number} {}", String::from_utf8_lossy(&line)).unwrap();
            bound(&paths);
        }
        let size: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(size <= 2 * HALF + 2048, "{size}");
        let text = tail(&paths, 9000).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().count(), 9000);
        assert!(text.starts_with("11000 ") && text.lines().last().unwrap().starts_with("19999 "));
    }

    #[test]
    fn what_qemu_complained_of_last_is_there_also_after_the_cut() {
        let dir = tempfile::tempdir().unwrap();
        let paths = RunPaths::new(dir.path().to_owned());
        assert_eq!(complaints(&paths, 3), b"");
        let mut qemu = new_qemu_log(&paths).unwrap();
        let sentence = "x".repeat(99);
        for number in 0..20_000 {
            writeln!(qemu, "{number} {sentence}").unwrap();
        }
        bound(&paths);
        assert_eq!(fs::metadata(paths.qemu_log()).unwrap().len(), 0);
        writeln!(qemu, "the end").unwrap();
        let text = String::from_utf8(complaints(&paths, 2)).unwrap();
        assert_eq!(text, format!("19999 {sentence}\nthe end\n"));
        let size: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(size <= 2 * QEMU_HALF, "{size}");
        drop(new_qemu_log(&paths).unwrap());
        assert_eq!(complaints(&paths, 9), b"", "of this run alone");
    }
}
