//! Whether a store can be opened, tried by a helper process on a copy. sled panics on some kinds of damage, spins for ever
//! on others, and changes the files while it finds out; neither the daemon nor the original is to suffer from that.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use super::backend::open_alone;
use super::{StoreError, panic_text};
use crate::host::launcher::{Child, STORE_TRIAL};

/// Opening a sound store takes milliseconds; a frozen disk is no damage.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What the helper's exit status says beside success.
const UNSOUND: i32 = 3;
const NO_ROOM: i32 = 4;

/// How to start the helper: this program, with arguments that lead to [`help`]. The copy's path is added.
pub struct Helper {
    pub program: PathBuf,
    pub args: Vec<String>,
}

/// Has a copy of the store in `dir` opened, and all of it read, in a helper process. Blocks for `deadline` at most.
/// What is not there, or cannot be copied for want of space, is not tried.
///
/// # Errors
/// `Damaged`; `Io` when it cannot be tried.
pub fn try_open(dir: &Path, helper: &Helper, deadline: Duration) -> Result<(), StoreError> {
    if !dir.join("db").exists() {
        return Ok(());
    }
    let trial = beside(dir, "trial");
    let tried = copy(dir, &trial, true).and_then(|()| run(helper, &trial, deadline));
    let _ = fs::remove_dir_all(&trial);
    match tried {
        Ok(None) => Ok(()),
        Ok(Some(reason)) => Err(StoreError::Damaged { dir: dir.to_path_buf(), reason }),
        Err(e) if is_full(&e) => {
            tracing::warn!(dir = %dir.display(), "no space to try the store in a helper process first; opening it at once");
            Ok(())
        }
        Err(source) => {
            Err(StoreError::Io { what: "try the store in a helper process", dir: dir.to_path_buf(), source })
        }
    }
}

/// The helper's part, with the bounds that the launcher has set to it. Returns its exit status; the reason goes to standard error.
pub fn help(dir: &Path) -> i32 {
    match open_alone(dir).map(|db| catch_unwind(AssertUnwindSafe(|| db.iter().try_for_each(|entry| entry.map(drop))))) {
        Ok(Ok(Ok(()))) => 0,
        Ok(Ok(Err(error))) => {
            eprintln!("{error}");
            UNSOUND
        }
        Ok(Err(panic)) => {
            eprintln!("{}", panic_text(panic.as_ref()));
            UNSOUND
        }
        Err(StoreError::Damaged { reason, .. }) => {
            eprintln!("{reason}");
            UNSOUND
        }
        Err(StoreError::Io { source, .. }) if is_full(&source) => NO_ROOM,
        Err(other) => {
            eprintln!("{other}");
            1
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// `<dir>.<word>`.
pub(super) fn beside(dir: &Path, word: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(format!(".{word}"));
    name.into()
}

/// Copies a store that nobody has open, with or without what sled only keeps to open it faster (`snap.*`). What is at
/// `to` is replaced.
///
/// # Errors
/// As the file system's.
pub fn copy(from: &Path, to: &Path, snapshots: bool) -> io::Result<()> {
    match fs::remove_dir_all(to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => DirBuilder::new().mode(0o700).create(to)?,
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_snapshot = name.to_string_lossy().starts_with("snap.");
        if entry.file_type()?.is_file() && (snapshots || !is_snapshot) {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

/// The reason when the store is unsound.
fn run(helper: &Helper, dir: &Path, deadline: Duration) -> io::Result<Option<String>> {
    let child = Child::new(STORE_TRIAL, &helper.program).args(&helper.args).arg(dir).piped().spawn()?;
    let ended = pidfd_open(child.pid(), PidfdFlags::empty()).map_err(io::Error::from).and_then(|pidfd| {
        let timeout = Timespec::try_from(deadline).map_err(io::Error::other)?;
        Ok(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))? > 0)
    });
    if !matches!(ended, Ok(true)) {
        child.kill();
    }
    let Output { status, stderr, .. } = child.output()?;
    if !ended? {
        return Ok(Some(format!("sled has not opened it within {} s", deadline.as_secs())));
    }
    let said = String::from_utf8_lossy(&stderr);
    // What it logged comes first.
    let last = said.trim().lines().last().unwrap_or("it left no message").to_owned();
    match status.code() {
        Some(0) => Ok(None),
        Some(1) => Err(io::Error::other(last)),
        Some(UNSOUND) => Ok(Some(last)),
        Some(NO_ROOM) => Err(io::ErrorKind::StorageFull.into()),
        // Ended by a signal: an overflow of the stack, or an abort for want of memory.
        _ => Ok(Some(format!("opening it ended with {status}: {last}"))),
    }
}

/// Everything in a copied store becomes durable, for one that is to be used.
///
/// # Errors
/// As the file system's.
pub fn sync(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    /// A helper of the test's own in the place of this program.
    fn tried(script: &str, deadline: Duration) -> Result<(), StoreError> {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("db");
        drop(Store::open(&store).unwrap());
        let args = ["-c", script, "helper"].map(str::to_owned).to_vec();
        let result = try_open(&store, &Helper { program: "/bin/sh".into(), args }, deadline);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the copy is removed");
        result
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_helper_that_succeeds_opened_a_copy() {
        tried(r#"test -s "$1/db" && test "${1%.trial}" != "$1""#, LONG).unwrap();
    }

    #[test]
    fn whatever_becomes_of_the_helper_the_store_is_damaged_and_the_reason_told() {
        let cases = [
            ("exec sleep 1000", Duration::from_millis(200), "has not opened it within"),
            ("echo one >&2; echo the segment is torn >&2; exit 3", LONG, "damaged: the segment is torn"),
            ("echo out of memory >&2; kill -ABRT $$", LONG, "signal: 6 (SIGABRT)"),
        ];
        for (script, deadline, why) in cases {
            let error = tried(script, deadline).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }) && error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_helper_that_cannot_work_is_no_damage() {
        let error = tried("echo no descriptors >&2; exit 1", LONG).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }) && error.to_string().contains("no descriptors"), "{error}");
    }

    #[test]
    fn where_there_is_no_store_nothing_is_tried() {
        let helper = Helper { program: "/nonexistent".into(), args: vec![] };
        try_open(Path::new("/nonexistent/db"), &helper, LONG).unwrap();
    }
}
