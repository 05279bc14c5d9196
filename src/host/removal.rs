//! Takes the image of a disk away: only from the folders where qherd keeps disks, links in the way resolved, and only what
//! no program has locked. Whose an image is, is known above (ADR 0014).

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};

use crate::model::OwnFile;

/// A program that was told to end lets go of its files when it does.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Removes an image that qherd made, and that lies below one of `folders`. False when there is none. Blocks.
///
/// # Errors
/// When it lies elsewhere, is no file, or another program has it locked, as QEMU and qemu-img do; and the file system's.
pub fn remove_image(file: &OwnFile, folders: &[PathBuf]) -> io::Result<bool> {
    let refused = |why: String| io::Error::new(ErrorKind::PermissionDenied, why);
    let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
        return Err(refused("it is no path of a file".into()));
    };
    let folder = match folder.canonicalize() {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(false),
        folder => folder?,
    };
    if !folders.iter().filter_map(|allowed| allowed.canonicalize().ok()).any(|allowed| folder.starts_with(allowed)) {
        return Err(refused(format!("{} is outside of the state and storage directories", folder.display())));
    }
    let file = folder.join(name);
    let kind = match fs::symlink_metadata(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        found => found?.file_type(),
    };
    // Of a link only the link goes, not what it leads to.
    if !kind.is_file() && !kind.is_symlink() {
        return Err(refused("it is no file".into()));
    }
    let patience = Instant::now() + LETTING_GO;
    while kind.is_file() && is_locked(&file)? {
        if Instant::now() > patience {
            return Err(io::Error::new(ErrorKind::ResourceBusy, "another program has it open"));
        }
        sleep(Duration::from_millis(20));
    }
    match fs::remove_file(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// Whether anybody holds a lock on any byte. QEMU and qemu-img lock every image that they have open.
fn is_locked(file: &Path) -> io::Result<bool> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(file)?;
    // From the beginning to whatever is the end.
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => Ok(lock.l_type != libc::F_UNLCK as libc::c_short),
        // A file system without locks: QEMU has none there either.
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn remove_image(file: &Path, folders: &[PathBuf]) -> io::Result<bool> {
        super::remove_image(&OwnFile::new(file.to_owned()), folders)
    }

    #[test]
    fn only_an_image_in_its_place_that_nobody_has_open_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("images"), dir.path().join("theirs"));
        fs::create_dir_all(ours.join("folder")).unwrap();
        fs::create_dir(&theirs).unwrap();
        let folders = [ours.clone()];
        let made = |path: PathBuf| {
            fs::write(&path, "precious").unwrap();
            path
        };
        assert!(remove_image(&made(ours.join("a")), &folders).unwrap());
        assert!(!remove_image(&ours.join("a"), &folders).unwrap());
        assert!(!remove_image(&ours.join("nowhere/a"), &folders).unwrap());

        let precious = made(theirs.join("b"));
        symlink(&theirs, ours.join("link")).unwrap();
        for path in [precious.clone(), ours.join("../theirs/b"), ours.join("link/b")] {
            let error = remove_image(&path, &folders).unwrap_err().to_string();
            assert!(error.contains("outside"), "{error}");
        }
        symlink(&precious, ours.join("c")).unwrap();
        assert!(remove_image(&ours.join("c"), &folders).unwrap());
        assert!(precious.exists() && !ours.join("c").exists());
        assert!(remove_image(&ours.join("folder"), &folders).is_err());
    }

    #[test]
    fn what_a_qemu_has_open_stays() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.qcow2");
        fs::write(&image, "precious").unwrap();
        let open = File::options().read(true).write(true).open(&image).unwrap();
        // As QEMU locks: one byte of each permission that it uses.
        let lock = libc::flock {
            l_type: libc::F_RDLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 101,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&open, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        let folders = [dir.path().to_owned()];
        let error = remove_image(&image, &folders).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
        assert!(image.exists());
        drop(open);
        assert!(remove_image(&image, &folders).unwrap());
    }
}
