//! A client of the guest agent: connect, one command or a few, drop.
//!
//! QEMU serves one client per agent socket at a time; who shares it among several is `vm::guest`'s matter. The other
//! end is inside the guest and may be absent, hung, restarted in mid-reply or hostile: every call
//! has a deadline, lines are bounded, and the first exchange skips whatever an earlier client left
//! behind. It does not look for the agent's presence; QEMU tells that by `query-chardev` and
//! `VSERPORT_CHANGE`.

use qapi::{
    Command,
    qga::{guest_shutdown, guest_sync_delimited},
};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};

pub use qapi::qga::GuestShutdownMode as ShutdownMode;

use super::codec::{Incoming, Lines, decode};
use super::error::{CloseReason, QgaError};
use super::socket;

/// Longest line accepted from a guest, in bytes: smaller than for QEMU because a guest is trusted
/// less. Large files and outputs are to be read in pieces.
const LINE_LIMIT: usize = 4 << 20;

/// Sent first, it makes the agent forget half a command; received, it marks the start of the reply
/// to `guest-sync-delimited`. It occurs in no JSON text.
const DELIMITER: u8 = 0xFF;

/// How long an error may take after `guest-shutdown`, which answers nothing when it succeeds.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// Of a long answer.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Each string of it is cut after so many bytes.
    pub string: usize,
    /// Bytes that are read of it.
    pub line: usize,
    /// For it to come to its end once it has begun.
    pub time: Duration,
}

/// A connection to a guest agent that has answered.
#[derive(Debug)]
pub struct Agent {
    lines: Lines<OwnedReadHalf>,
    socket: OwnedWriteHalf,
    /// A call was begun and not finished, so the next reply could be its.
    unfinished: bool,
}

impl Agent {
    /// Connects to the agent socket at `path` and synchronises, all within `deadline`.
    pub async fn connect(path: &Path, deadline: Duration) -> Result<Agent, QgaError> {
        let began = Instant::now();
        let stream = socket::connect(path, deadline).await.map_err(|error| QgaError::Connect(error.to_string()))?;
        Self::open(stream, deadline.saturating_sub(began.elapsed())).await
    }

    /// Synchronises with the agent on `stream` within `deadline`, so that the next reply is surely
    /// ours.
    ///
    /// An agent that does not run is `Timeout`, since QEMU accepts and nobody answers; so is one that
    /// another client is connected to.
    pub async fn open(stream: UnixStream, deadline: Duration) -> Result<Agent, QgaError> {
        let (read, socket) = stream.into_split();
        let mut agent = Agent { lines: Lines::new(read, LINE_LIMIT), socket, unfinished: false };
        let command = guest_sync_delimited::NAME;
        match timeout(deadline, agent.sync()).await {
            Ok(outcome) => outcome.map_err(|reason| QgaError::Closed { reason })?,
            Err(_) => {
                return Err(QgaError::Timeout { command: command.into(), after: deadline });
            }
        }
        Ok(agent)
    }

    async fn sync(&mut self) -> Result<(), CloseReason> {
        // Random, because the reply to an earlier client's sync may still be on its way; 63 bits,
        // because the agent reads a signed number.
        let id = uuid::Uuid::new_v4().as_u64_pair().1 >> 1;
        let mut message = vec![DELIMITER];
        message.extend(line(guest_sync_delimited::NAME, Some(json!({ "id": id }))));
        self.write(&message).await?;
        loop {
            let line = self.lines.next().await?;
            // What stands before the delimiter, on this line or earlier ones, belongs to somebody
            // else.
            let Some(start) = line.iter().rposition(|&byte| byte == DELIMITER) else {
                continue;
            };
            if let Ok(Incoming::Return { value, .. }) = decode(&line[start + 1..])
                && value.as_u64() == Some(id)
            {
                return Ok(());
            }
        }
    }

    /// Sends a command and waits for its reply, together up to `deadline`.
    ///
    /// Fails as [`execute_raw`](Self::execute_raw), and with `Decode` where the reply is not of qapi's type.
    pub async fn execute<C: Command>(&mut self, command: C, deadline: Duration) -> Result<C::Ok, QgaError> {
        let undecoded =
            |error: serde_json::Error| QgaError::Decode { command: C::NAME.into(), error: error.to_string() };
        let arguments = serde_json::to_value(command).map_err(undecoded)?;
        let arguments = Some(arguments).filter(|arguments| arguments.as_object().is_some_and(|all| !all.is_empty()));
        let reply = self.execute_raw(C::NAME, arguments, deadline).await?;
        serde_json::from_value(reply).map_err(undecoded)
    }

    /// Sends a command and waits for its reply, together up to `deadline`, for callers who take less than all of it.
    ///
    /// After any error but `Refused`, and after a cancelled call, only a new connection helps;
    /// further calls on this one fail with `OutOfSync`.
    pub async fn execute_raw(
        &mut self,
        name: &str,
        arguments: Option<Value>,
        deadline: Duration,
    ) -> Result<Value, QgaError> {
        let exchange = async {
            self.begin(name, arguments).await?;
            self.reply(name).await
        };
        let late = |_| QgaError::Timeout { command: name.into(), after: deadline };
        timeout(deadline, exchange).await.map_err(late)?
    }

    /// As [`execute_raw`](Self::execute_raw), of a command whose answer may be longer than is held, and take long to come: it
    /// has to begin within `deadline`, and to end within `bounds`.
    pub async fn execute_cut(
        &mut self,
        name: &str,
        arguments: Value,
        bounds: Bounds,
        deadline: Duration,
    ) -> Result<Value, QgaError> {
        let closed = |reason| QgaError::Closed { reason };
        let beginning = async {
            self.begin(name, Some(arguments)).await?;
            self.lines.begun().await.map_err(closed)
        };
        let late = |after| move |_| QgaError::Timeout { command: name.into(), after };
        timeout(deadline, beginning).await.map_err(late(deadline))??;
        let rest = self.lines.next_cut(bounds.string, bounds.line);
        let line = timeout(bounds.time, rest).await.map_err(late(bounds.time))?;
        self.answered(name, line.and_then(|line| decode(&line)))
    }

    /// The next reply is surely that of the next command.
    pub fn is_in_step(&self) -> bool {
        !self.unfinished
    }

    /// Asks the guest to shut down, and consumes the connection: the agent is about to go.
    ///
    /// The agent answers only if it cannot. So the command must be written within `deadline`, and
    /// half a second without an error after that counts as success; a guest that fails later is
    /// found by whoever waits for its shutdown.
    pub async fn shutdown(mut self, mode: ShutdownMode, deadline: Duration) -> Result<(), QgaError> {
        let name = guest_shutdown::NAME;
        let arguments = json!({ "mode": mode });
        let late = |_| QgaError::Timeout { command: name.into(), after: deadline };
        timeout(deadline, self.begin(name, Some(arguments))).await.map_err(late)??;
        match timeout(SHUTDOWN_GRACE, self.reply(name)).await {
            Ok(Err(refused @ QgaError::Refused { .. })) => Err(refused),
            // Silence is success, and so is the end of the connection: it has gone down already.
            Err(_) | Ok(Ok(_)) | Ok(Err(QgaError::Closed { reason: CloseReason::Eof | CloseReason::HalfLine })) => {
                Ok(())
            }
            Ok(Err(error)) => Err(error),
        }
    }

    async fn begin(&mut self, name: &str, arguments: Option<Value>) -> Result<(), QgaError> {
        if self.unfinished {
            return Err(QgaError::OutOfSync);
        }
        self.unfinished = true;
        self.write(&line(name, arguments)).await.map_err(|reason| QgaError::Closed { reason })
    }

    async fn reply(&mut self, name: &str) -> Result<Value, QgaError> {
        let message = self.lines.next().await.and_then(|line| decode(&line));
        self.answered(name, message)
    }

    fn answered(&mut self, name: &str, message: Result<Incoming, CloseReason>) -> Result<Value, QgaError> {
        let result = match message.map_err(|reason| QgaError::Closed { reason })? {
            Incoming::Return { value, .. } => Ok(value),
            Incoming::Error { class, desc, .. } => Err(QgaError::Refused { command: name.into(), class, desc }),
            Incoming::Event { .. } | Incoming::Greeting { .. } => {
                let reason = CloseReason::Garbage("not a reply of a guest agent".into());
                return Err(QgaError::Closed { reason });
            }
        };
        self.unfinished = false;
        result
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), CloseReason> {
        self.socket.write_all(bytes).await.map_err(|error| CloseReason::Io(error.to_string()))
    }
}

fn line(command: &str, arguments: Option<Value>) -> Vec<u8> {
    let mut message = json!({ "execute": command });
    if let Some(arguments) = arguments {
        message["arguments"] = arguments;
    }
    let mut bytes = message.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}
