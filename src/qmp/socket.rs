//! Unix sockets as the monitor, the agent and the console need them.
//!
//! A socket address holds 107 bytes of path; longer ones go through
//! `/proc/self/fd/<directory>/<name>`. Nothing here knows what is spoken on a socket.

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// Connections that wait while QEMU serves another client, or none yet.
const BACKLOG: i32 = 8;

/// Longest path that fits a socket address with its terminating zero.
const PATH_LIMIT: usize = 107;

/// How often a full backlog is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// Connects without ever blocking a thread.
///
/// Only a full backlog is waited for, up to `deadline`; then the error is `TimedOut` and says that
/// the peer does not accept. Nobody there (`NotFound`, `ConnectionRefused`) is reported at once.
/// That the connection stands does not mean that the peer has seen it: QEMU, for one, may be busy
/// with another client.
pub async fn connect(path: &Path, deadline: Duration) -> io::Result<UnixStream> {
    let in_context = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let address = Address::of(path).map_err(in_context)?;
    let attempts = async {
        loop {
            match UnixStream::connect(&address.path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(RETRY).await,
                outcome => return outcome,
            }
        }
    };
    match timeout(deadline, attempts).await {
        Ok(outcome) => outcome.map_err(in_context),
        Err(_) => {
            let words = format!("{}: the peer has accepted no connection for {deadline:?}", path.display());
            Err(io::Error::new(io::ErrorKind::TimedOut, words))
        }
    }
}

/// Makes a listening socket at `path` to hand to a QEMU: mode 0600, backlog 8, closed on exec, in
/// blocking mode (QEMU chooses its own when it takes the descriptor over).
///
/// A socket that a killed predecessor left behind is replaced; any other file there is an error.
/// The caller makes sure that the predecessor is gone: a QEMU that exits in its own time unlinks
/// the path, even when it is a successor's. (A path of more than 107 bytes it cannot unlink.)
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let in_context = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    remove_leftover(path).map_err(in_context)?;
    let bound = || -> io::Result<OwnedFd> {
        let address = Address::of(path)?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Linux gives the file the mode that the socket has when it is bound, so there is no moment
        // of wider access.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&address.path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    bound().map(UnixListener::from).map_err(in_context)
}

fn remove_leftover(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        _ => Ok(()), // whatever else is there makes `bind` fail, with the right error
    }
}

/// A spelling of a path that fits a socket address.
struct Address {
    path: PathBuf,
    /// `path` may lead through this descriptor, so it stays open as long.
    _directory: Option<OwnedFd>,
}

impl Address {
    fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= PATH_LIMIT {
            return Ok(Self { path: path.into(), _directory: None });
        }
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())?;
        let through = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        if through.as_os_str().as_bytes().len() > PATH_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file name is too long for a socket"));
        }
        Ok(Self { path: through, _directory: Some(directory) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const SHORTLY: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_listening_socket_is_private_and_can_be_reached() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        connect(&path, SHORTLY).await.unwrap();
        listener.accept().unwrap();
    }

    #[tokio::test]
    async fn a_path_longer_than_an_address_works() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let listener = listen(&deep.join("s")).unwrap();
        connect(&deep.join("s"), SHORTLY).await.unwrap();
        listener.accept().unwrap();
        let error = listen(&deep.join("n".repeat(120))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn a_full_backlog_is_waited_for_until_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = listen(&path).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&path, SHORTLY).await {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert_eq!(waiting.len(), BACKLOG as usize + 1, "Linux lets one more wait than the backlog says");
        listener.accept().unwrap();
        connect(&path, SHORTLY).await.unwrap();
    }

    #[tokio::test]
    async fn nobody_there_is_reported_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let hour = Duration::from_secs(3600);
        assert_eq!(connect(&path, hour).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(listen(&path).unwrap());
        assert_eq!(connect(&path, hour).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_leftover_socket_is_replaced_and_any_other_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(listen(&path).unwrap());
        drop(listen(&path).unwrap());
        let file = directory.path().join("f");
        fs::write(&file, "precious").unwrap();
        assert_eq!(listen(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
