//! The way of what somebody types to the guest: the socket of its serial port, on which QEMU listens since the first version, so
//! that every VM that runs has it. It is shut for reading: what the guest writes is held elsewhere (docs/adr/0031), and QEMU, which
//! finds nobody to write to, never waits for us, however long this daemon is stopped (docs/adr/0034).
//!
//! Who types is one, or several who have said that they share.

use std::{
    io,
    net::Shutdown,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::UnixStream, time::timeout};

use super::Console;

/// For a guest to take what was typed: it has a few bytes of room, QEMU and the kernel some more.
const PATIENCE: Duration = Duration::from_secs(2);
/// QEMU drops what a client has sent that hangs up.
const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Input {
    socket: PathBuf,
    line: tokio::sync::Mutex<Option<UnixStream>>,
    writers: Mutex<Writers>,
}

#[derive(Debug, Default)]
struct Writers {
    names: Vec<String>,
    shared: bool,
}

/// Somebody else types, and does not share, or is not asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub by: String,
}

/// What has become of what was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// It is on its way to the guest.
    Taken,
    /// Nothing runs that could take it.
    NobodyThere,
    /// The guest takes nothing, so at least a part of it is lost.
    Full,
}

/// Whoever may type, until it is dropped.
#[derive(Debug)]
pub(crate) struct Writer {
    console: Arc<Console>,
    name: String,
}

impl Input {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, line: tokio::sync::Mutex::default(), writers: Mutex::default() }
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn writers(&self) -> MutexGuard<'_, Writers> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, text: &[u8]) -> Typed {
        let mut line = self.line.lock().await;
        let sent = async {
            if let Some(open) = &mut *line
                && open.write_all(text).await.is_ok()
            {
                return Ok(());
            }
            // QEMU has hung up, because its guest took nothing for a while, or it is another QEMU.
            *line = None;
            line.insert(connect(&self.socket).await?).write_all(text).await
        };
        match timeout(PATIENCE, sent).await {
            Ok(Ok(())) => Typed::Taken,
            Ok(Err(_)) => {
                *line = None;
                Typed::NobodyThere
            }
            Err(_) => Typed::Full,
        }
    }
}

async fn connect(socket: &Path) -> io::Result<UnixStream> {
    // By the standard library's own: the runtime's ends only the other half.
    let stream = UnixStream::connect(socket).await?.into_std()?;
    stream.shutdown(Shutdown::Read)?;
    UnixStream::from_std(stream)
}

impl Console {
    /// Lets somebody type.
    ///
    /// # Errors
    /// With who types already.
    pub(crate) fn writer(self: &Arc<Self>, name: &str, shared: bool) -> Result<Writer, Refused> {
        let mut writers = self.input.writers();
        if let Some(by) = writers.names.first().filter(|_| !(shared && writers.shared)) {
            return Err(Refused { by: by.clone() });
        }
        writers.names.push(name.to_owned());
        writers.shared = shared;
        Ok(Writer { console: self.clone(), name: name.to_owned() })
    }
}

impl Writer {
    /// Types something. Takes two seconds where the guest takes nothing.
    pub(crate) async fn send(&self, text: &[u8]) -> Typed {
        self.console.input.send(text).await
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let input = &self.console.input;
        let mut writers = input.writers();
        if let Some(at) = writers.names.iter().position(|name| *name == self.name) {
            writers.names.remove(at);
        }
        // Where somebody types at this moment, that is not the last one.
        if writers.names.is_empty()
            && let Ok(mut line) = input.line.try_lock()
            && let Some(line) = line.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                tokio::time::sleep(FAREWELL).await;
                drop(line);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::UnixListener};

    use super::*;
    use crate::qemu::RunPaths;

    #[tokio::test]
    async fn one_types_alone_and_several_share() {
        let dir = tempfile::tempdir().unwrap();
        let console = Arc::new(Console::new(RunPaths::new(dir.path().to_owned())));
        let refused = |by: &str| Refused { by: by.to_owned() };
        let alone = console.writer("one", false).unwrap();
        assert_eq!(console.writer("two", false).unwrap_err(), refused("one"));
        assert_eq!(console.writer("two", true).unwrap_err(), refused("one"));
        drop(alone);
        let shares = console.writer("two", true).unwrap();
        let _too = console.writer("three", true).unwrap();
        assert_eq!(console.writer("one", false).unwrap_err(), refused("two"));
        drop(shares);
        assert_eq!(console.writer("one", false).unwrap_err(), refused("three"));
    }

    #[tokio::test]
    async fn what_is_typed_goes_to_whoever_listens_now_and_nobody_can_write_back() {
        let dir = tempfile::tempdir().unwrap();
        let console = Arc::new(Console::new(RunPaths::new(dir.path().to_owned())));
        let writer = console.writer("one", false).unwrap();
        assert_eq!(writer.send(b"lost").await, Typed::NobodyThere);
        let socket = console.input.socket.clone();
        for run in [b"one", b"two"] {
            let qemu = UnixListener::bind(&socket).unwrap();
            assert_eq!(writer.send(run).await, Typed::Taken);
            let (mut line, _) = qemu.accept().await.unwrap();
            let mut typed = [0; 3];
            line.read_exact(&mut typed).await.unwrap();
            assert_eq!(&typed, run);
            assert_eq!(line.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            std::fs::remove_file(&socket).unwrap();
        }
    }
}
