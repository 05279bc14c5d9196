//! Where connections come from: TCP, TLS over it, and a Unix socket. What is spoken on them is HTTP, whichever it is; what
//! differs is what is known of the other end.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody, and when it ends")]

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::server::TlsStream;

use super::tls::Tls;
use super::wire::Socket;
use crate::service::access::{Peer, TlsPeer};

/// The first byte of a TLS handshake, and of no HTTP request.
const HANDSHAKE: u8 = 0x16;

pub trait Listener: Send + 'static {
    type Arrival: Arrival;
    /// Is dropped and called again at any time, so it must not lose a connection thereby.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Arrival>> + Send;
}

/// A connection on which nothing was said yet.
pub trait Arrival: Send + 'static {
    type Socket: Socket;
    /// Whatever comes before the first request. Takes as long as the client does.
    fn open(self) -> impl Future<Output = io::Result<(Self::Socket, Peer)>> + Send;
}

impl Listener for TcpListener {
    type Arrival = TcpStream;
    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        // Answers are small and whole: nothing is gained by waiting for more. Failing this is no reason to refuse.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

impl Arrival for TcpStream {
    type Socket = Self;
    async fn open(self) -> io::Result<(Self, Peer)> {
        let peer = Peer::Tcp { theirs: self.peer_addr()?, ours: self.local_addr()?, tls: None };
        Ok((self, peer))
    }
}

/// TCP, on which TLS is spoken to whoever begins with it. Who does not is let through as it is; that only this host may
/// do that is the gate's business.
pub struct Door {
    pub listener: TcpListener,
    pub tls: Option<Arc<Tls>>,
}

impl Listener for Door {
    type Arrival = AtDoor;
    async fn accept(&mut self) -> io::Result<AtDoor> {
        let stream = Listener::accept(&mut self.listener).await?;
        Ok(AtDoor { stream, tls: self.tls.clone() })
    }
}

/// A connection that a [`Door`] has accepted.
pub struct AtDoor {
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
}

impl Arrival for AtDoor {
    type Socket = Stream;
    async fn open(self) -> io::Result<(Stream, Peer)> {
        let Self { stream, tls } = self;
        let mut first = [0];
        if let Some(tls) = tls
            && stream.peek(&mut first).await? == 1
            && first == [HANDSHAKE]
        {
            let (theirs, ours) = (stream.peer_addr()?, stream.local_addr()?);
            let (stream, names) = tls.accept(stream).await?;
            return Ok((Stream::Tls(Box::new(stream)), Peer::Tcp { theirs, ours, tls: Some(TlsPeer { names }) }));
        }
        let (stream, peer) = Arrival::open(stream).await?;
        Ok((Stream::Plain(stream), peer))
    }
}

/// What is spoken over a [`Door`].
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket for Stream {
    /// Of TLS also what is no request; it is read then, and no longer there at the next look.
    fn has_arrived(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.has_arrived(),
            Self::Tls(stream) => stream.get_ref().0.has_arrived(),
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_room(cx),
            Self::Tls(stream) => stream.get_ref().0.poll_room(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A Unix socket at a path, which is removed with it.
pub struct UnixDoor {
    listener: UnixListener,
    path: PathBuf,
    /// Which file it is: another one in its place is not ours.
    inode: u64,
}

impl UnixDoor {
    /// In the place of a socket that nobody listens on, as a daemon that was killed leaves it, but of nothing else. Others may
    /// connect where `to_others`: the kernel says who it is, and who may is decided then.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub fn bind(path: &Path, to_others: bool) -> io::Result<Self> {
        let in_context = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let bound = || {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            // By the folder's descriptor: an address holds only 108 bytes.
            let folder = fs::File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?;
            let short = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder))).join(name);
            if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) && is_deserted(&short)? {
                fs::remove_file(path)?;
            }
            let listener = UnixListener::bind(short)?;
            let mode = if to_others { 0o666 } else { 0o600 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            Ok(Self { listener, path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() })
        };
        bound().map_err(in_context)
    }
}

/// Whether nobody listens on a socket. Anything but the kernel's plain refusal means that somebody may.
fn is_deserted(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) == Err(rustix::io::Errno::CONNREFUSED))
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener for UnixDoor {
    type Arrival = UnixStream;
    async fn accept(&mut self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Arrival for UnixStream {
    type Socket = Self;
    async fn open(self) -> io::Result<(Self, Peer)> {
        let uid = self.peer_cred()?.uid();
        Ok((self, Peer::Local { uid }))
    }
}

#[cfg(test)]
impl Arrival for tokio::io::DuplexStream {
    type Socket = Self;
    async fn open(self) -> io::Result<(Self, Peer)> {
        Ok((self, Peer::Local { uid: rustix::process::geteuid().as_raw() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_takes_the_place_of_one_that_was_left_and_of_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let path = deep.join("api.sock");
        let elsewhere = dir.path().join("s");
        let theirs = std::os::unix::net::UnixListener::bind(&elsewhere).unwrap();
        assert_eq!(
            UnixDoor::bind(&elsewhere, false).err().unwrap().kind(),
            io::ErrorKind::AddrInUse,
            "it is listened on"
        );
        assert!(elsewhere.exists());
        // Its file stays, as after a kill.
        drop(theirs);
        drop(UnixDoor::bind(&elsewhere, false).unwrap());
        let left = UnixDoor::bind(&path, false).unwrap();
        fs::remove_file(&path).unwrap();
        let mut door = UnixDoor::bind(&path, false).unwrap();
        // One that ends late leaves the other's alone.
        drop(left);
        let folder = fs::File::open(&deep).unwrap();
        let through = format!("/proc/self/fd/{}/api.sock", std::os::fd::AsRawFd::as_raw_fd(&folder));
        let _client = UnixStream::connect(through).await.unwrap();
        let (_, peer) = door.accept().await.unwrap().open().await.unwrap();
        assert_eq!(peer, Peer::Local { uid: rustix::process::geteuid().as_raw() });
        drop(door);
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert!(UnixDoor::bind(&path, false).is_err());
        assert!(path.exists());
    }
}
