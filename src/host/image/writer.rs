//! Whether some program has an image open for writing, by the locks that QEMU and its tools take, and which one it is. One
//! that takes no locks is not seen.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};

use crate::host::{Access, open_within};

/// QEMU holds a shared lock on this byte of every image that it may write to (block/file-posix.c: RAW_LOCK_PERM_BASE and
/// the bit of BLK_PERM_WRITE), and finds out about others by asking for an exclusive one.
const WRITES: i64 = 101;

/// Who has `path` open for writing, for people.
///
/// # Errors
/// When it cannot be opened.
pub fn writer(path: &Path) -> io::Result<Option<String>> {
    let file = open_within(&[], path, Access::Read)?;
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: WRITES,
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) if i32::from(lock.l_type) == libc::F_UNLCK => Ok(None),
        Ok(_) => {
            let holder = file.metadata().ok().and_then(|image| holder(&image));
            Ok(Some(holder.unwrap_or_else(|| "another process".to_owned())))
        }
        // A file system without locks: QEMU cannot have any either.
        Err(_) => Ok(None),
    }
}

/// Who has an open file open for writing as well, whether with locks or without, such as a program that copies it there. Of
/// processes that this one may not look into nothing is seen.
///
/// # Errors
/// The file system's.
pub fn who_writes(file: &File) -> io::Result<Option<String>> {
    Ok(holder(&file.metadata()?))
}

/// The lock belongs to an open file and names no process: one that has the file open for writing is looked for.
fn holder(image: &Metadata) -> Option<String> {
    let pid = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let writes = |pid: u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        descriptors.flatten().find(|descriptor| {
            let same = fs::metadata(descriptor.path())
                .is_ok_and(|open| (open.dev(), open.ino()) == (image.dev(), image.ino()));
            same && is_for_writing(pid, &descriptor.file_name().to_string_lossy())
        })
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let found = processes.filter_map(|entry| pid(&entry)).find(|pid| writes(*pid).is_some())?;
    let name = fs::read_to_string(format!("/proc/{found}/comm")).unwrap_or_default();
    Some(format!("process {found} ({})", name.trim()))
}

fn is_for_writing(pid: u32, descriptor: &str) -> bool {
    let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")) else { return false };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|f| f & libc::O_ACCMODE != libc::O_RDONLY)
}
