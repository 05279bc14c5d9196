//! A user of the host that one VM runs as and nobody else: what it may do to files and processes is what anybody may.
//!
//! Which numbers are taken is told by locks that the kernel keeps: each child holds the lock on its number's file for as long
//! as it lives, so no two live children of any daemon on this host have the same, and a number is free again by itself. Who
//! removes a file holds its lock; who takes a lock looks whether its file is still there.

#![allow(unsafe_code, reason = "system calls that the libraries make for all threads")]
#![allow(clippy::disallowed_methods, reason = "files of /run, on threads that may wait")]

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::Path,
    thread::sleep,
    time::Duration,
};

use nix::libc;
use rustix::{
    fs::{FlockOperation, flock},
    process::Resource,
};

use super::limits;
use crate::{host::listed, model::Uids};

/// Of the host, not of a state directory.
const LOCKS: &str = "/run/qherd/uids";

/// Processes and threads of a child's user, which are all its own: vCPUs, and those that QEMU reads and writes images with.
const PROCESSES: u64 = 2048;

const TRIES: usize = 5;
const MOMENT: Duration = Duration::from_millis(20);

/// Every number is somebody's.
#[derive(Debug, thiserror::Error)]
#[error("All {} users of --vm-uids {uids} have a VM that runs, or work on an image; stop a VM first, or give VMs more users.", .uids.count())]
pub struct NoneFree {
    uids: Uids,
}

impl NoneFree {
    /// Whether that is what the error tells of: nothing has failed, and there is something to be done about it.
    pub fn is_in(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// A number that is taken for one child.
#[derive(Debug)]
pub struct User {
    id: u32,
    groups: Vec<u32>,
    /// None where another child holds it.
    lock: Option<File>,
}

impl User {
    /// Takes one that is free; `seed` says where the search begins. It is in these further groups as well. Blocks.
    ///
    /// # Errors
    /// [`NoneFree`]; when the folder of the locks cannot be used.
    pub fn take(uids: &Uids, seed: u32, groups: &[u32]) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(LOCKS)?;
        let (first, all) = (uids.first(), uids.count());
        for again in 0..=TRIES {
            for id in (0..all).map(|step| first + (seed % all + step) % all) {
                if let Some(lock) = lock(id, true)? {
                    return Ok(Self { id, groups: groups.to_vec(), lock: Some(lock) });
                }
            }
            // Who removes a file has its lock for a moment.
            if again < TRIES {
                sleep(MOMENT);
            }
        }
        Err(io::Error::other(NoneFree { uids: uids.clone() }))
    }

    /// The user of a child that lives, for another beside it.
    pub fn beside(id: u32) -> Self {
        Self { id, groups: Vec::new(), lock: None }
    }

    /// Removes the file of a number that nobody has.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget(id: u32) -> io::Result<()> {
        match lock(id, false)? {
            // No other has this file's lock before it is gone, and then it is nobody's.
            Some(_lock) => fs::remove_file(Path::new(LOCKS).join(id.to_string())),
            None => Ok(()),
        }
    }

    /// Removes the files of all numbers that nobody has, of whichever daemon. Blocks.
    pub fn forget_all_unused() {
        let files = listed(Path::new(LOCKS)).unwrap_or_else(|error| {
            tracing::warn!(%error, "files of users that no VM has stay");
            Vec::new()
        });
        for id in files.iter().filter_map(|file| file.file_name().to_str()?.parse().ok()) {
            if let Err(error) = Self::forget(id) {
                tracing::debug!(id, %error, "cannot remove the file of a user that no VM has");
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// What the child holds open for its number.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        self.lock.as_ref().map(File::as_raw_fd)
    }

    /// In the child, for good. Allocates nothing.
    ///
    /// # Errors
    /// Of a daemon that may not, or in a container that has no such user.
    pub(super) fn become_it(&self) -> io::Result<()> {
        limits::lower(Resource::Nproc, PROCESSES)?;
        let done = |result: libc::c_long| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // The C library would have every thread follow, by a lock that a thread of the daemon may have held.
        // SAFETY: numbers, and a list that outlives the call.
        unsafe {
            done(libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()))?;
            done(libc::syscall(libc::SYS_setresgid, self.id, self.id, self.id))?;
            done(libc::syscall(libc::SYS_setresuid, self.id, self.id, self.id))
        }
    }
}

/// The lock of a number's file, where nobody has it; with `make` also where there is none yet.
fn lock(id: u32, make: bool) -> io::Result<Option<File>> {
    let path = Path::new(LOCKS).join(id.to_string());
    // Only read: a child that was taken over can let go of its own number, and lock no other.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(if make { libc::O_CREAT } else { 0 } | libc::O_NOFOLLOW).mode(0o600);
    loop {
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
            opened => opened?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Another may have removed it between the two: the lock of a file that is not there any more is worth nothing.
        if file.metadata()?.nlink() > 0 {
            return Ok(Some(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These numbers are this test's.
    #[test]
    fn a_number_is_taken_once_and_free_again_when_nobody_holds_it() {
        let uids: Uids = "1999999990-1999999991".parse().unwrap();
        let one = User::take(&uids, 7, &[]).unwrap();
        let other = User::take(&uids, 7, &[]).unwrap();
        assert_eq!((one.id(), other.id()), (1_999_999_991, 1_999_999_990));
        let why = User::take(&uids, 0, &[]).unwrap_err().to_string();
        assert!(why.contains("--vm-uids 1999999990-1999999991"), "{why}");
        drop(one);
        assert_eq!(User::take(&uids, 0, &[]).unwrap().id(), 1_999_999_991);
    }

    /// Daemons that take numbers and forget them at once: none is anybody's twice, and no file is left.
    #[test]
    fn no_number_is_taken_twice_while_files_are_removed() {
        use std::sync::Mutex;
        let uids: Uids = "1999999980-1999999983".parse().unwrap();
        let held = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for seed in 0..3 {
                let (uids, held) = (&uids, &held);
                scope.spawn(move || {
                    for _ in 0..500 {
                        let user = User::take(uids, seed, &[]).unwrap();
                        let id = user.id();
                        {
                            let mut held = held.lock().unwrap();
                            assert!(!held.contains(&id), "{id} twice");
                            held.push(id);
                        }
                        User::forget(id).unwrap();
                        assert!(Path::new(LOCKS).join(id.to_string()).exists(), "{id} is in use");
                        held.lock().unwrap().retain(|other| *other != id);
                        drop(user);
                        User::forget(id).unwrap();
                    }
                });
            }
        });
        let left = (1_999_999_980..=1_999_999_983_u32).filter(|id| Path::new(LOCKS).join(id.to_string()).exists());
        assert_eq!(left.count(), 0);
    }
}
