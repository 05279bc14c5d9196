//! The handle to one monitor connection: send commands, hear events, learn why it ended.
//!
//! A session lives as long as its socket and is never repaired: after a timeout nobody can know
//! what QEMU has carried out, so the session closes and the caller connects anew and looks. The
//! work is done by the task in `driver`.

use qapi::Command;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::codec::{Incoming, LINE_LIMIT, Lines, decode};
use super::driver::{Call, Driver};
use super::error::{CloseReason, QmpError};
use super::event::TimedEvent;
use super::version::QemuVersion;

/// Commands that may wait for the driver before `execute` itself waits.
const CALL_CAPACITY: usize = 64;
/// Answers to an earlier client that may come before the greeting.
const LEFT_OVER: usize = 16;

/// The limits of a session. The defaults are meant for use, other values for tests.
#[derive(Debug, Clone)]
pub struct Options {
    /// Longest line accepted, in bytes (16 MiB).
    pub line_limit: usize,
    /// Events that may wait for their consumer before the session closes (1,024).
    pub event_capacity: usize,
    /// Events within ten seconds beyond which the session closes, however fast they are consumed (100,000). An honest QEMU
    /// sends a few thousand when a guest goes on writing to a broken disk.
    pub event_rate: u32,
    /// How long each command may take ([`deadline`](super::deadline())).
    pub deadline: fn(&str) -> Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { line_limit: LINE_LIMIT, event_capacity: 1024, event_rate: 100_000, deadline: super::deadline }
    }
}

/// One monitor connection; clones share it. The socket closes when the last clone and [`Events`]
/// are dropped, or earlier for any [`CloseReason`].
///
/// Every method may be cancelled, as in `tokio::select!`: the command may still be carried out, its
/// reply is dropped.
#[derive(Debug, Clone)]
pub struct Session {
    calls: mpsc::Sender<Call>,
    closed: watch::Receiver<Option<CloseReason>>,
    version: Arc<QemuVersion>,
    deadline: fn(&str) -> Duration,
}

/// The events of a session, in QEMU's order. Must be consumed: when the queue is full the session
/// closes.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Receiver<TimedEvent>,
    /// Keeps the session open, see `Driver::serve`.
    _open: watch::Receiver<Option<CloseReason>>,
}

impl Session {
    /// Takes the greeting and negotiates; both together must be done within `deadline`.
    ///
    /// QEMU serves one monitor client at a time, so `Timeout { command: "greeting" }` also means
    /// that another client is connected. No capability is enabled: `oob` would let replies overtake
    /// each other and serves only `migrate` recovery.
    pub async fn open(stream: UnixStream, deadline: Duration) -> Result<(Session, Events), QmpError> {
        Self::open_with(stream, deadline, Options::default()).await
    }

    /// [`open`](Self::open) with limits of the caller's choice.
    pub async fn open_with(
        stream: UnixStream,
        deadline: Duration,
        options: Options,
    ) -> Result<(Session, Events), QmpError> {
        let mut waiting_for = "greeting";
        let opened = timeout(deadline, Self::negotiate(stream, options, &mut waiting_for)).await;
        opened.unwrap_or_else(|_| Err(QmpError::Timeout { command: waiting_for.into(), after: deadline }))
    }

    async fn negotiate(
        stream: UnixStream,
        options: Options,
        waiting_for: &mut &str,
    ) -> Result<(Session, Events), QmpError> {
        let (read, write) = stream.into_split();
        let mut lines = Lines::new(read, options.line_limit);

        let mut left_over = 0;
        let version = loop {
            match lines.next().await.and_then(|line| decode(&line)) {
                Ok(Incoming::Greeting { version }) => break version,
                // QEMU 10 answers whoever is there by then what an earlier client had asked.
                Ok(Incoming::Return { .. } | Incoming::Error { .. }) if left_over < LEFT_OVER => left_over += 1,
                Ok(_) => {
                    let reason = CloseReason::Garbage("a message before the greeting".into());
                    return Err(QmpError::Closed { reason });
                }
                Err(reason) => return Err(QmpError::Closed { reason }),
            }
        };

        let (calls, incoming_calls) = mpsc::channel(CALL_CAPACITY);
        let (outgoing_events, queue) = mpsc::channel(options.event_capacity);
        let (close, closed) = watch::channel(None);
        tokio::spawn(Driver::new(lines, write, incoming_calls, outgoing_events, close, options.event_rate).run());
        let events = Events { queue, _open: closed.clone() };
        let session = Session { calls, closed, version: Arc::new(version), deadline: options.deadline };

        // An ordinary command from here on: an event may come before its reply.
        *waiting_for = "qmp_capabilities";
        session.execute_raw("qmp_capabilities", None).await?;
        Ok((session, events))
    }

    /// The QEMU at the other end, from its greeting.
    pub fn version(&self) -> &QemuVersion {
        &self.version
    }

    /// Sends one of qapi's typed commands (`qapi::qmp::*`) and waits for its typed reply.
    ///
    /// Fails as [`execute_raw`](Self::execute_raw), and with `Decode` where the reply of this QEMU
    /// is not what qapi's types, made for QEMU 9.1, expect; `types` has lenient ones for those.
    pub async fn execute<C: Command>(&self, command: C) -> Result<C::Ok, QmpError> {
        let arguments = serde_json::to_value(&command).map_err(|error| decode_error(C::NAME, &error))?;
        self.execute_as(C::NAME, Some(arguments)).await
    }

    /// Sends any command and reads its reply as `T`. Fails as [`execute_raw`](Self::execute_raw),
    /// and with `Decode`.
    pub async fn execute_as<T: DeserializeOwned>(&self, name: &str, arguments: Option<Value>) -> Result<T, QmpError> {
        let reply = self.execute_raw(name, arguments).await?;
        serde_json::from_value(reply).map_err(|error| decode_error(name, &error))
    }

    /// Sends any command and waits for its reply.
    ///
    /// QEMU may take [`deadline`](super::deadline())`(name)` over it, counted from when it has
    /// answered all commands before. Longer is `Timeout`, which closes the session: every other
    /// command under way fails with `Closed`. `Refused` is QEMU's own error reply and leaves the
    /// session open.
    pub async fn execute_raw(&self, name: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        self.call(name, arguments, None).await
    }

    /// Gives QEMU a file descriptor under a `name` that later commands use (`getfd`); an earlier one of
    /// that name is closed there. `closefd` takes it back.
    ///
    /// QEMU forgets a descriptor when the next one arrives before its command was carried out, so each waits
    /// until the one before is answered, whoever sends it. Fails as [`execute_raw`](Self::execute_raw).
    pub async fn send_descriptor(&self, name: &str, descriptor: OwnedFd) -> Result<(), QmpError> {
        self.call("getfd", Some(json!({ "fdname": name })), Some(descriptor)).await.map(drop)
    }

    /// Adds a file descriptor to a numbered set (`add-fd`), as which QEMU opens it: `/dev/fdset/<set>`. `name` is what
    /// `query-fdsets` calls it. `remove-fd` takes the set back.
    ///
    /// Fails as [`execute_raw`](Self::execute_raw); each waits as in [`send_descriptor`](Self::send_descriptor).
    pub async fn add_descriptor(&self, set: u32, name: &str, descriptor: OwnedFd) -> Result<(), QmpError> {
        self.call("add-fd", Some(json!({ "fdset-id": set, "opaque": name })), Some(descriptor)).await.map(drop)
    }

    async fn call(&self, name: &str, arguments: Option<Value>, descriptor: Option<OwnedFd>) -> Result<Value, QmpError> {
        let (reply, answer) = oneshot::channel();
        let call = Call { command: name.into(), arguments, deadline: (self.deadline)(name), descriptor, reply };
        // No clock here: while the driver takes no calls it waits for QEMU, and its own clock runs.
        match self.calls.send(call).await {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(self.ended())),
            Err(_) => Err(self.ended()),
        }
    }

    /// Why the session ended; `None` while it is open.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.closed.borrow().clone()
    }

    /// Waits for the end of the session, for use in `tokio::select!`.
    pub async fn closed(&self) -> CloseReason {
        let mut closed = self.closed.clone();
        // An error means that the driver went without a word, as it does with its runtime.
        closed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone()).unwrap_or(CloseReason::Dropped)
    }

    fn ended(&self) -> QmpError {
        QmpError::Closed { reason: self.close_reason().unwrap_or(CloseReason::Dropped) }
    }
}

impl Events {
    /// The next event; `None` once the session is closed and all events before that are consumed.
    /// Cancellation-safe.
    pub async fn next(&mut self) -> Option<TimedEvent> {
        self.queue.recv().await
    }
}

fn decode_error(command: &str, error: &serde_json::Error) -> QmpError {
    QmpError::Decode { command: command.into(), why: error.to_string() }
}
