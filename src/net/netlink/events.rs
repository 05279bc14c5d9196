//! What the kernel tells by itself of the host's network.

#![expect(unsafe_code, reason = "tokio's AsyncFd::register wants the descriptor kept open")]

use std::{io, os::fd::OwnedFd};

use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;

use super::sockets;

/// Groups (linux/rtnetlink.h): links, queues, addresses and routes of both families, and what sysctls say of both.
const GROUPS: [u32; 8] = [1, 4, 5, 7, 9, 11, 24, 25];

/// Events of all kinds. Their content is not looked at: whoever follows them looks at the whole anyway, and
/// so an overrun loses nothing.
pub struct Events(AsyncFd<OwnedFd>);

impl Events {
    pub fn open() -> io::Result<Self> {
        let socket = sockets::open(GROUPS.iter().fold(0, |groups, group| groups | 1 << (group - 1)))?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        // SAFETY: it owns the descriptor, which nobody closes or replaces meanwhile.
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    /// Returns when something has happened, also when so much happened that the kernel lost count.
    pub async fn next(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.try_io(forget) {
                Ok(reported) => return reported,
                Err(_not_yet) => {}
            }
        }
    }

    /// What has happened up to now is answered by a look that begins after this.
    pub fn forget(&self) {
        let _ = forget(&self.0);
    }
}

/// Takes all that is there. An error where that is nothing.
fn forget(socket: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut reported = Err(io::ErrorKind::WouldBlock.into());
    // Whatever of a message does not fit in is left out.
    let mut beginning = [0; 16];
    loop {
        match recv(socket.get_ref(), &mut beginning[..], RecvFlags::empty()) {
            Ok(_) | Err(rustix::io::Errno::NOBUFS) => reported = Ok(()),
            Err(rustix::io::Errno::AGAIN) => return reported,
            Err(error) => return Err(error.into()),
        }
    }
}
