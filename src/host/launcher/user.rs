//! A user of the host that one VM runs as and nobody else: what it may do to files and processes is what anybody may.
//!
//! Which numbers are taken is told by locks that the kernel keeps: each child holds the lock on its number's file for as long
//! as it lives, so no two live children of any daemon on this host have the same, and a number is free again by itself.

#![allow(unsafe_code, reason = "system calls that the libraries make for all threads")]

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::Path,
};

use nix::libc;
use rustix::{
    fs::{FlockOperation, flock},
    process::Resource,
};

use super::limits;
use crate::model::Uids;

/// Of the host, not of a state directory.
const LOCKS: &str = "/run/qherd/uids";

/// Processes and threads of a child's user, which are all its own: vCPUs, and those that QEMU reads and writes images with.
const PROCESSES: u64 = 2048;

/// A number that is taken for one child.
#[derive(Debug)]
pub struct User {
    id: u32,
    groups: Vec<u32>,
    lock: File,
}

impl User {
    /// Takes one that is free; `seed` says where the search begins. It is in these further groups as well.
    ///
    /// # Errors
    /// When none is free, or the folder of the locks cannot be used.
    pub fn take(uids: &Uids, seed: u32, groups: &[u32]) -> io::Result<Self> {
        let folder = Path::new(LOCKS);
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let (first, all) = (uids.first(), uids.count());
        for id in (0..all).map(|step| first + (seed % all + step) % all) {
            let file = folder.join(id.to_string());
            // Only read: a child that was taken over can let go of its own number, and lock no other.
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_CREAT | libc::O_NOFOLLOW).mode(0o600);
            let lock = options.open(&file)?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { id, groups: groups.to_vec(), lock }),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other(format!("every user of --vm-uids {uids} has a VM that runs")))
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// What the child holds open for its number.
    pub(super) fn descriptor(&self) -> RawFd {
        self.lock.as_raw_fd()
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
}
