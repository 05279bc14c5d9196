//! The guest's serial output. QEMU itself appends it to the log (also while no daemon runs); here it is kept bounded
//! and read back. Nobody is connected to the serial socket, so nothing can keep the guest's console waiting.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
};

use crate::{
    host::{last_lines, last_text},
    qemu::RunPaths,
};

/// Bytes in each of the two files, 16 MiB together.
const HALF: u64 = 8 << 20;

fn older(paths: &RunPaths) -> PathBuf {
    paths.dir().join("console.log.1")
}

/// Once the log is full its last half becomes the older file and it starts anew. QEMU holds it open with O_APPEND:
/// cutting it is safe, renaming it would take it away.
pub(super) fn bound(paths: &RunPaths) {
    let log = paths.console_log();
    if !fs::metadata(&log).is_ok_and(|m| m.len() > HALF) {
        return;
    }
    // Beside the older half, so that a disk that is full costs the new text and not the old one as well.
    let copy = paths.dir().join("console.log.new");
    let kept =
        last_text(&log, HALF).and_then(|text| fs::write(&copy, text)).and_then(|()| fs::rename(&copy, older(paths)));
    if kept.is_err() {
        let _ = fs::remove_file(&copy);
    }
    // Whether it could be kept or not: a log without end would fill the disk.
    let cut = File::options().write(true).open(&log).and_then(|log| log.set_len(0));
    if let Err(error) = kept.and(cut) {
        tracing::warn!(log = %log.display(), %error, "cannot keep the console log within its bounds");
    }
}

/// The last `lines` lines, over both files; empty when the VM never ran.
///
/// # Errors
/// When a log cannot be read.
pub(crate) fn tail(paths: &RunPaths, lines: usize) -> io::Result<Vec<u8>> {
    let read = |path: PathBuf| match last_text(&path, 2 * HALF) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    };
    let mut text = read(older(paths))?;
    text.extend(read(paths.console_log())?);
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
}
