//! The way of what somebody types to the guest: the socket of its serial port, on which QEMU listens since the first version, so
//! that every VM that runs has it. A connection is there only while something is on its way: what the guest writes is held
//! elsewhere (docs/adr/0031), so that it never waits for us, however long this daemon is stopped (docs/adr/0034).
//!
//! Who types is one, or several who have said that they share.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt, copy, sink},
    net::UnixStream,
    time::timeout,
};

use super::Console;

/// For a guest to take what was typed: it has room for a few bytes at a time.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Input {
    socket: PathBuf,
    /// QEMU serves one client at a time.
    turn: tokio::sync::Mutex<()>,
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
    /// QEMU has given it to the guest.
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
        Self { socket, turn: tokio::sync::Mutex::default(), writers: Mutex::default() }
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn writers(&self) -> MutexGuard<'_, Writers> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, text: &[u8]) -> Typed {
        let _turn = self.turn.lock().await;
        match timeout(PATIENCE, hand_over(&self.socket, text)).await {
            Ok(Ok(())) => Typed::Taken,
            Ok(Err(_)) => Typed::NobodyThere,
            Err(_) => Typed::Full,
        }
    }
}

/// QEMU reads as much as the guest has room for, and hangs up at the end of it: so all of it has arrived then. What the guest
/// writes meanwhile is read away, or QEMU would drop the rest.
async fn hand_over(socket: &Path, text: &[u8]) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    let (mut from, mut to) = stream.split();
    let typing = async {
        to.write_all(text).await?;
        to.shutdown().await
    };
    let mut nowhere = sink();
    tokio::try_join!(typing, copy(&mut from, &mut nowhere)).map(drop)
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
        let mut writers = self.console.input.writers();
        if let Some(at) = writers.names.iter().position(|name| *name == self.name) {
            writers.names.remove(at);
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
    async fn what_is_typed_is_taken_when_all_of_it_was_read_by_whoever_listens_now() {
        let dir = tempfile::tempdir().unwrap();
        let console = Arc::new(Console::new(RunPaths::new(dir.path().to_owned())));
        let writer = console.writer("one", false).unwrap();
        assert_eq!(writer.send(b"lost").await, Typed::NobodyThere);
        let socket = console.input.socket.clone();
        for run in 0..2 {
            let qemu = UnixListener::bind(&socket).unwrap();
            // A guest that takes a byte at a time, and writes more than a socket holds.
            let guest = async {
                let (mut line, _) = qemu.accept().await.unwrap();
                let mut typed = Vec::new();
                while let Ok(byte) = line.read_u8().await {
                    typed.push(byte);
                    line.write_all(&[b'x'; 1000]).await.unwrap();
                }
                typed
            };
            let text = vec![b'a' + run; 300];
            assert_eq!(tokio::join!(writer.send(&text), guest), (Typed::Taken, text));
            // One that takes nothing.
            let (sent, _line) = tokio::join!(writer.send(b"lost"), qemu.accept());
            assert_eq!(sent, Typed::Full);
            std::fs::remove_file(&socket).unwrap();
        }
    }
}
