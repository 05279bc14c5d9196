//! What a child that may open nothing by its own rights opens all the same: the files that it was lent, by the names that they have in
//! it (`/proc/self/fd/N`), as qemu-img takes images. The kernel asks about each of its opens (seccomp, Linux 5.14): for such a name
//! it is given the very file that it holds already, and every other one is the kernel's to judge as ever. So nothing is granted here that the
//! child does not have.

#![allow(unsafe_code, reason = "structures of the kernel's, all of them numbers")]
#![allow(clippy::disallowed_methods, reason = "memory of a child that waits for the answer")]

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::Path,
    sync::Arc,
};

use nix::libc;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::OFlags,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
    process::Pid,
};

use crate::host::is_gone;

/// The longest name that an open file of a child has, and its end.
const LONGEST: usize = "/proc/self/fd/2147483647".len() + 1;

/// Open files under the numbers that they have in the child, held by us as well.
pub(super) type Lent = Arc<Vec<(RawFd, OwnedFd)>>;

/// The way on which the kernel's questions come to us: the child makes what they are asked by, before it executes its program.
pub(super) struct Way {
    ours: OwnedFd,
    childs: OwnedFd,
}

/// Who answers them.
#[derive(Debug)]
pub(super) struct Questions {
    listener: OwnedFd,
    lent: Lent,
}

impl Way {
    /// # Errors
    /// When the kernel has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let (ours, childs) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { ours, childs })
    }

    /// In the child. Allocates nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&self, listener: BorrowedFd) -> io::Result<()> {
        let (mut space, fds) = ([MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))], [listener]);
        let mut with = SendAncillaryBuffer::new(&mut space);
        with.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.childs, &[IoSlice::new(b"?")], &mut with, SendFlags::empty())?;
        Ok(())
    }

    /// Of a child that has begun to execute its program.
    ///
    /// # Errors
    /// When its memory, where the names are, may not be looked at, as in a container without CAP_SYS_PTRACE; when the kernel has no
    /// descriptor left.
    pub fn receive(&self, child: Pid, lent: Lent) -> io::Result<Questions> {
        match memory(child.as_raw_pid()) {
            Err(error) if !is_gone(&error) => {
                return Err(io::Error::new(error.kind(), format!("what it opens cannot be seen: {error}")));
            }
            Ok(_) | Err(_) => {}
        }
        let (mut space, mut byte) = ([MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))], [0]);
        let mut with = RecvAncillaryBuffer::new(&mut space);
        recvmsg(
            &self.ours,
            &mut [IoSliceMut::new(&mut byte)],
            &mut with,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )?;
        let mut received = with.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let listener = received.next().ok_or_else(|| io::Error::other("what a child opens is not asked about"))?;
        Ok(Questions { listener, lent })
    }
}

impl Questions {
    /// Answers them until the child has ended, which `child` is the descriptor of. Blocks.
    ///
    /// # Errors
    /// The kernel's; the child opens nothing from then on.
    pub fn answer_all(&self, child: BorrowedFd) -> io::Result<()> {
        loop {
            let mut both = [PollFd::new(&child, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut both, None) {
                Ok(_) if !both[0].revents().is_empty() => return Ok(()),
                Ok(_) if both[1].revents().contains(PollFlags::IN) => self.answer()?,
                // Nobody asks any more.
                Ok(_) if !both[1].revents().is_empty() => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn answer(&self) -> io::Result<()> {
        // SAFETY: numbers; the kernel wants them to be 0.
        let mut question = unsafe { MaybeUninit::<libc::seccomp_notif>::zeroed().assume_init() };
        if !still_waits(self.control(libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut question))? {
            return Ok(());
        }
        let [_, name, flags, ..] = question.data.args;
        match self.lent_as(question.pid, name, flags as u32) {
            Some(file) => {
                let mut answer = libc::seccomp_notif_addfd {
                    id: question.id,
                    flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
                    srcfd: file.as_raw_fd() as u32,
                    newfd: 0,
                    newfd_flags: flags as u32 & libc::O_CLOEXEC as u32,
                };
                still_waits(self.control(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut answer)).map(drop)
            }
            None => {
                let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
                let mut answer = libc::seccomp_notif_resp { id: question.id, val: 0, error: 0, flags };
                still_waits(self.control(libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer)).map(drop)
            }
        }
    }

    /// The file that a name in the child's memory means; none where it was not lent for that, which is for the kernel to refuse.
    fn lent_as(&self, pid: u32, name: u64, flags: u32) -> Option<BorrowedFd<'_>> {
        let mut bytes = [0; LONGEST];
        // It waits for the answer. If it has ended, and the number is another's by now, the answer goes nowhere.
        let read = memory(i32::try_from(pid).ok()?).and_then(|memory| memory.read_at(&mut bytes, name)).ok()?;
        let number = number_of(&bytes[..read])?;
        let (_, file) = self.lent.iter().find(|(lent, _)| *lent == number)?;
        let (held, wanted) = (rustix::fs::fcntl_getfl(file).ok()?, OFlags::from_bits_retain(flags));
        let enough = held & OFlags::RWMODE == OFlags::RDWR || held & OFlags::RWMODE == wanted & OFlags::RWMODE;
        enough.then(|| file.as_fd())
    }

    fn control<T>(&self, request: libc::Ioctl, value: *mut T) -> libc::c_int {
        // SAFETY: the structure is the request's, and lives until the call returns.
        unsafe { libc::ioctl(self.listener.as_raw_fd(), request, value) }
    }
}

fn memory(pid: i32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/mem"))
}

/// Which of its open files a name means, to the child that uses it.
fn number_of(bytes: &[u8]) -> Option<RawFd> {
    let name = bytes.split(|byte| *byte == 0).next()?;
    // One that is cut off here is longer than any of them.
    let name = Path::new(std::ffi::OsStr::from_bytes(name))
        .strip_prefix("/proc/self/fd")
        .ok()
        .filter(|_| name.len() < LONGEST)?;
    name.to_str()?.parse().ok()
}

/// Whether there was still somebody who asked.
fn still_waits(result: libc::c_int) -> io::Result<bool> {
    if result >= 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // It was killed meanwhile, or a signal came.
        Some(libc::ENOENT | libc::EINTR | libc::EINPROGRESS) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_an_open_file_is_read_and_no_other() {
        for (name, number) in [
            (&b"/proc/self/fd/17\0rest"[..], Some(17)),
            (b"/proc/self/fd/2147483647\0", Some(2_147_483_647)),
            (b"/proc/self/fd/17", Some(17)),
            (b"/proc/self/fd/99999999990", None),
            (b"/proc/self/fd/17/x\0", None),
            (b"/proc/self/fd/-1x\0", None),
            (b"/proc/self/fd/\0", None),
            (b"/proc/self/fdx/17\0", None),
            (b"/etc/shadow\0", None),
            (b"\0/proc/self/fd/17", None),
            (b"", None),
        ] {
            assert_eq!(number_of(name), number, "{:?}", String::from_utf8_lossy(name));
        }
    }
}
