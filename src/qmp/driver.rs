//! The one task that owns a monitor's socket.
//!
//! Reading, writing, the list of unanswered commands and the clock all live here, so there is no
//! lock and no order of locks, and a caller that gives up can neither leave half a line behind nor
//! take somebody else's reply. The driver never waits for a consumer: replies go into one-shot
//! channels, events into a bounded queue whose overflow ends the session. It knows no command by
//! name.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::codec::{Incoming, Lines, decode};
use super::error::{CloseReason, QmpError};
use super::event::{Event, TimedEvent};
use super::outgoing::Outgoing;

/// Bytes waiting to be written beyond which no further command is taken; a peer that does not read
/// costs no more.
const OUTGOING_LIMIT: usize = 64 << 10;

/// Longest line, in bytes, of which an event's data is kept. Honest events have some hundred bytes;
/// a full queue of events as long as a line may be would be gigabytes.
const EVENT_LIMIT: usize = 16 << 10;

/// How long to look at what has already arrived before an overdue command counts as unanswered. The
/// daemon itself may have been stopped for longer than the deadline, with the reply waiting in the
/// socket.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// Over which events are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// A command on its way to the driver.
pub(super) struct Call {
    pub command: String,
    pub arguments: Option<Value>,
    pub deadline: Duration,
    /// Goes along with the command.
    pub descriptor: Option<OwnedFd>,
    pub reply: oneshot::Sender<Result<Value, QmpError>>,
}

pub(super) struct Driver {
    lines: Lines<OwnedReadHalf>,
    socket: OwnedWriteHalf,
    outgoing: Outgoing,
    calls: mpsc::Receiver<Call>,
    events: mpsc::Sender<TimedEvent>,
    closed: watch::Sender<Option<CloseReason>>,
    /// Unanswered commands, oldest first. A cancelled one stays until its reply: QEMU is still busy
    /// with it.
    unanswered: VecDeque<Unanswered>,
    /// Commands with a descriptor, behind one that is unanswered: QEMU would forget that one's when the next arrives.
    held_back: VecDeque<Call>,
    /// Begins each of its ids. QEMU 10 gives the reply to a command of the client before to the next client, so an id
    /// must not occur in two sessions, not even in those of two daemons.
    name: String,
    last_id: u64,
    clock: Clock,
    rate: Rate,
}

/// Events, and replies meant for others, since the window began.
struct Rate {
    limit: u32,
    count: u32,
    began: Instant,
}

struct Unanswered {
    id: u64,
    call: Call,
    had_descriptor: bool,
}

/// When the oldest unanswered command is overdue, and whether the last look has been granted
/// already.
struct Clock {
    due: Instant,
    last_look: bool,
}

impl Driver {
    /// The driver's ends of the channels are given; both halves of the socket belong to it from
    /// here on.
    pub fn new(
        lines: Lines<OwnedReadHalf>,
        socket: OwnedWriteHalf,
        calls: mpsc::Receiver<Call>,
        events: mpsc::Sender<TimedEvent>,
        closed: watch::Sender<Option<CloseReason>>,
        event_rate: u32,
    ) -> Self {
        let clock = Clock { due: Instant::now(), last_look: false };
        let rate = Rate { limit: event_rate, count: 0, began: Instant::now() };
        let (outgoing, unanswered, held_back) = (Outgoing::default(), VecDeque::new(), VecDeque::new());
        let name = Uuid::new_v4().simple().to_string();
        Self { lines, socket, outgoing, calls, events, closed, unanswered, held_back, name, last_id: 0, clock, rate }
    }

    /// Runs until the session ends. Every channel and the socket close with it.
    pub async fn run(mut self) {
        let reason = self.serve().await;
        tracing::debug!(%reason, "QMP session closed");
        // First the reason, then the ends of the channels: whoever sees an end finds its reason.
        self.closed.send_replace(Some(reason.clone()));
        if matches!(reason, CloseReason::Poisoned { .. })
            && let Some(Unanswered { call, .. }) = self.unanswered.pop_front()
        {
            let timeout = QmpError::Timeout { command: call.command, after: call.deadline };
            let _ = call.reply.send(Err(timeout));
        }
    }

    async fn serve(&mut self) -> CloseReason {
        loop {
            // Each branch is cancellation-safe. The order is left to chance, so that a peer that
            // talks without pause starves neither our commands nor the clock.
            tokio::select! {
                line = self.lines.next() => {
                    if let Err(reason) = line.and_then(|line| self.receive(&line)) {
                        return reason;
                    }
                }
                // The pattern also rests this branch once every `Session` is gone and only `Events`
                // is left.
                Some(call) = self.calls.recv(), if self.outgoing.len() < OUTGOING_LIMIT => self.take(call),
                written = self.outgoing.write_to(self.socket.as_ref()), if !self.outgoing.is_empty() => {
                    if written.is_err() {
                        // A peer that is going away may have left a last event: reading on finds
                        // it, then the end.
                        self.outgoing.clear();
                    }
                }
                () = sleep_until(self.clock.due), if !self.unanswered.is_empty() => {
                    if self.clock.last_look {
                        let command = self.unanswered.front().map(|oldest| oldest.call.command.clone());
                        return CloseReason::Poisoned { command: command.unwrap_or_default() };
                    }
                    self.clock = Clock { due: Instant::now() + LAST_LOOK, last_look: true };
                }
                // `Session` and `Events` hold a receiver each, so this is the end of the last of
                // them.
                () = self.closed.closed() => return CloseReason::Dropped,
            }
        }
    }

    fn take(&mut self, call: Call) {
        if call.descriptor.is_some() && self.unanswered.iter().any(|before| before.had_descriptor) {
            self.held_back.push_back(call);
        } else {
            self.send(call);
        }
    }

    fn send(&mut self, mut call: Call) {
        if call.reply.is_closed() {
            return; // cancelled before it was ever sent
        }
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({ "execute": call.command, "id": format!("{}-{id}", self.name) });
        if let Some(arguments) = &call.arguments {
            message["arguments"] = arguments.clone();
        }
        let mut line = message.to_string();
        line.push('\n');
        let descriptor = call.descriptor.take();
        let had_descriptor = descriptor.is_some();
        self.outgoing.push(line.as_bytes(), descriptor);
        self.unanswered.push_back(Unanswered { id, call, had_descriptor });
        if self.unanswered.len() == 1 {
            self.restart_clock();
        }
    }

    fn receive(&mut self, line: &[u8]) -> Result<(), CloseReason> {
        match decode(line)? {
            Incoming::Return { id: Some(id), value } => self.answer(&id, Ok(value))?,
            Incoming::Error { id: Some(id), class, desc } => self.answer(&id, Err((class, desc)))?,
            Incoming::Return { id: None, .. } => return Err(reply_to_nothing()),
            Incoming::Error { id: None, desc, .. } => return Err(CloseReason::Rejected(desc)),
            Incoming::Event { name, data, timestamp } => {
                self.rate.count_one()?;
                let data = if line.len() > EVENT_LIMIT { Value::Null } else { data };
                let at = timestamp.unwrap_or_else(SystemTime::now);
                let event = TimedEvent { at, event: Event::new(name, data) };
                // That nobody listens to events any more is no reason to stop.
                if let Err(TrySendError::Full(_)) = self.events.try_send(event) {
                    return Err(CloseReason::Flood);
                }
            }
            Incoming::Greeting { .. } => {
                return Err(CloseReason::Garbage("a second greeting".into()));
            }
        }
        Ok(())
    }

    fn answer(&mut self, id: &Value, result: Result<Value, (String, String)>) -> Result<(), CloseReason> {
        let Some((session, id)) = id.as_str().and_then(|id| id.split_once('-')) else {
            return Err(reply_to_nothing());
        };
        if session != self.name {
            return self.rate.count_one(); // meant for the client before
        }
        let position = self.unanswered.iter().position(|waiting| id.parse() == Ok(waiting.id));
        let Some(Unanswered { call, had_descriptor, .. }) = position.and_then(|at| self.unanswered.remove(at)) else {
            // A cancelled command is still waited for.
            return Err(reply_to_nothing());
        };
        let result = result.map_err(|(class, desc)| QmpError::Refused { command: call.command, class, desc });
        // A caller that has given up does not want it.
        let _ = call.reply.send(result);
        if position == Some(0) {
            self.restart_clock();
        }
        if had_descriptor {
            self.send_next_descriptor();
        }
        Ok(())
    }

    fn send_next_descriptor(&mut self) {
        // One whose caller has given up is not sent, and holds nobody back.
        while let Some(call) = self.held_back.pop_front() {
            if !call.reply.is_closed() {
                return self.send(call);
            }
        }
    }

    /// QEMU works on one command at a time, so a command's time begins when all before it are
    /// answered. Otherwise a query sent behind a slow `device_add` would declare a busy monitor
    /// mute.
    fn restart_clock(&mut self) {
        if let Some(oldest) = self.unanswered.front() {
            self.clock = Clock { due: Instant::now() + oldest.call.deadline, last_look: false };
        }
    }
}

fn reply_to_nothing() -> CloseReason {
    CloseReason::Garbage("a reply to nothing".into())
}

impl Rate {
    fn count_one(&mut self) -> Result<(), CloseReason> {
        if self.began.elapsed() >= WINDOW {
            (self.count, self.began) = (0, Instant::now());
        }
        self.count = self.count.saturating_add(1);
        if self.count <= self.limit { Ok(()) } else { Err(CloseReason::Flood) }
    }
}
