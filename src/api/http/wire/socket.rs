//! What the wire asks of a connection's socket beyond reading and writing: what the kernel knows of it before the runtime does.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};

/// A connection's byte stream.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Whether something has arrived that was not read, also where the runtime has not heard of it yet.
    fn has_arrived(&self) -> bool;

    /// Waits until the kernel has room for a good part of a piece. What is written without it stays in memory here.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Socket for TcpStream {
    fn has_arrived(&self) -> bool {
        has_arrived(self)
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_room(cx, |cx| self.poll_write_ready(cx), || self.try_io(Interest::WRITABLE, || has_room(self)))
    }
}

impl Socket for UnixStream {
    fn has_arrived(&self) -> bool {
        has_arrived(self)
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_room(cx, |cx| self.poll_write_ready(cx), || self.try_io(Interest::WRITABLE, || has_room(self)))
    }
}

/// The runtime knows of the last write only; the kernel is asked, and where it says no, the runtime hears of the change.
fn poll_room(
    cx: &mut Context<'_>,
    ready: impl Fn(&mut Context<'_>) -> Poll<io::Result<()>>,
    look: impl Fn() -> io::Result<()>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(ready(cx))?;
        match look() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            looked => return Poll::Ready(looked),
        }
    }
}

fn has_room(socket: impl AsFd) -> io::Result<()> {
    let mut looked = [PollFd::new(&socket, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut looked, Some(&at_once))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        // Or it has failed, which the next write says.
        _ => Ok(()),
    }
}

fn has_arrived(socket: impl AsFd) -> bool {
    use rustix::net::{RecvFlags, recv};
    recv(socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok()
}

#[cfg(test)]
impl Socket for tokio::io::DuplexStream {
    /// It is in memory: nothing arrives that the runtime has not heard of.
    fn has_arrived(&self) -> bool {
        false
    }

    fn poll_room(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
