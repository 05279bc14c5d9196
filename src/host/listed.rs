//! What is in a folder, all of it or an error: one that cannot be listed, for want of a descriptor say, is not taken for an empty one.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    fs::{self, DirEntry},
    io,
    path::Path,
};

use nix::libc;

/// What is in a folder; nothing where it is not there any more, as that of a process which has ended. Blocks.
///
/// # Errors
/// Why it cannot be listed.
pub fn listed(folder: &Path) -> io::Result<Vec<DirEntry>> {
    let all = fs::read_dir(folder).and_then(Iterator::collect);
    match all {
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        all => all.map_err(|error| io::Error::new(error.kind(), format!("cannot list {}: {error}", folder.display()))),
    }
}

/// Whether an error says that something is not there, as a process which has ended.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_is_not_there_is_empty_and_what_cannot_be_listed_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("a")).unwrap();
        assert_eq!(listed(dir.path()).unwrap().len(), 1);
        assert!(listed(&dir.path().join("b")).unwrap().is_empty());
        assert!(listed(&dir.path().join("a")).unwrap().is_empty());
        assert!(listed(Path::new("/proc/2147483647/task")).unwrap().is_empty());
        symlink("loop", dir.path().join("loop")).unwrap();
        let why = listed(&dir.path().join("loop")).unwrap_err().to_string();
        assert!(why.starts_with("cannot list /"), "{why}");
    }

    /// The limit is this test's process' own.
    #[test]
    fn a_folder_is_not_empty_for_want_of_a_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let mut taken = Vec::new();
        rustix::process::setrlimit(
            rustix::process::Resource::Nofile,
            rustix::process::Rlimit { current: Some(64), maximum: Some(64) },
        )
        .unwrap();
        while let Ok(file) = File::open("/dev/null") {
            taken.push(file);
        }
        let without = listed(dir.path());
        drop(taken);
        assert!(without.is_err() && listed(dir.path()).unwrap().is_empty());
    }
}
