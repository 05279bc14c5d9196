//! Opens files of the host that others may have had their hands on: by a folder that is trusted and a way below it on which no
//! link is followed, nothing but a regular file, and never waiting for one.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, fcntl_setfl, openat, openat2},
    io::Errno,
};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
    /// To write at its end; made where there is none.
    Append,
    /// To be made, where nothing has its name yet.
    Create,
}

impl Access {
    fn flags(self) -> OFlags {
        match self {
            Self::Read => OFlags::RDONLY,
            Self::ReadWrite => OFlags::RDWR,
            Self::Append => OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE,
            Self::Create => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        }
    }
}

/// Opens the file at `path`, which lies in one of the folders, or else in its own. What leads to the folder is its owner's
/// business; below it there are no links. Blocks.
///
/// # Errors
/// The file system's; for what is no regular file.
pub fn open_within(folders: &[PathBuf], path: &Path, access: Access) -> io::Result<File> {
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "it is no path of a file");
    let (folder, below) = match enclosing(folders, path) {
        Some(found) => found,
        None => (path.parent().ok_or_else(none)?.to_owned(), PathBuf::from(path.file_name().ok_or_else(none)?)),
    };
    let folder = openat(CWD, &folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A pipe that nobody has open would be waited for.
    let flags = access.flags() | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let opened = openat2(&folder, &below, flags, mode, resolve).map_err(|error| match error {
        Errno::LOOP => io::Error::other("it is a link, or lies behind one, which is not followed"),
        other => other.into(),
    })?;
    let file = File::from(opened);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    fcntl_setfl(&file, flags & OFlags::APPEND)?;
    Ok(file)
}

/// The innermost folder that a path lies in, by its name or by what that leads to, and the way from there.
fn enclosing(folders: &[PathBuf], path: &Path) -> Option<(PathBuf, PathBuf)> {
    let named = folders.iter().map(|folder| Some(folder.clone()));
    let led_to = folders.iter().map(|folder| folder.canonicalize().ok());
    let all = named.chain(led_to).flatten();
    let enclosing = all.filter_map(|folder| Some((path.strip_prefix(&folder).ok()?.to_owned(), folder)));
    let found =
        enclosing.filter(|(below, _)| below.file_name().is_some()).min_by_key(|(below, _)| below.components().count());
    found.map(|(below, folder)| (folder, below))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read, Write},
        os::unix::fs::symlink,
    };

    use super::*;

    #[test]
    fn a_link_is_followed_up_to_the_folder_and_not_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("real/a")).unwrap();
        fs::write(at("real/a/image"), "x").unwrap();
        fs::write(at("secret"), "hush").unwrap();
        symlink(at("real"), at("linked")).unwrap();
        let folders = [at("linked")];
        for path in ["linked/a/image", "real/a/image"] {
            let mut text = String::new();
            open_within(&folders, &at(path), Access::Read).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "x", "{path}");
        }
        symlink(at("secret"), at("real/a/evil")).unwrap();
        symlink(at("real/a"), at("real/b")).unwrap();
        for path in ["linked/a/evil", "real/a/evil", "linked/b/image"] {
            let why = open_within(&folders, &at(path), Access::Read).unwrap_err().to_string();
            assert!(why.contains("it is a link"), "{path}: {why}");
        }
        assert!(open_within(&folders, &at("linked/../secret"), Access::Read).is_err());
        // In no folder that is known: its own is trusted.
        assert!(open_within(&[], &at("linked/a/image"), Access::Read).is_ok());
        assert!(open_within(&[], &at("real/a/evil"), Access::Read).is_err());
    }

    #[test]
    fn nothing_but_a_regular_file_is_opened_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for access in [Access::Read, Access::ReadWrite, Access::Append] {
            assert!(open_within(&[], &pipe, access).is_err());
            assert!(open_within(&[], dir.path(), access).is_err());
        }
        let log = dir.path().join("log");
        assert!(open_within(&[], &log, Access::Read).is_err() && !log.exists());
        for _ in 0..2 {
            let file = open_within(&[], &log, Access::Append).unwrap();
            assert_eq!(rustix::fs::fcntl_getfl(&file).unwrap() & OFlags::NONBLOCK, OFlags::empty());
            (&file).write_all(b"line\n").unwrap();
        }
        assert_eq!(fs::read(&log).unwrap(), b"line\nline\n");
    }
}
