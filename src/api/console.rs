//! The serial console over a WebSocket, for both dialects (docs/adr/0034). Binary messages to the client are what the guest writes,
//! text messages are notes about it, for people; whatever the client sends is typed, but for a change of size, which a serial line
//! does not know. Each viewer reads for itself, at its own pace, from what is kept: none holds up the guest or another one.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::http::{
    HttpError, PIECE, QueryParam, Reply, Request,
    upgrade::Ending,
    websocket::{self, CloseCode, CloseFrame, Message, PING, Socket},
};
use crate::{
    service::Output,
    vm::{Typed, Writer},
};

/// Lines that are shown of what was written before, when the request does not say.
const DEFAULT_TAIL: i64 = 1000;
/// A viewer that is so far behind what the guest writes now goes on with the last of it.
const FAR_BEHIND: u64 = 1 << 20;
const CAUGHT_UP: u64 = 64 << 10;
/// For the last words on both sides.
const CLOSING: Duration = Duration::from_secs(1);
/// Notes that wait to be told.
const NOTES: usize = 8;

/// How a request may say how it wants the console.
pub const QUERY: &[QueryParam] = &[
    QueryParam::whole(
        "tail",
        0,
        i64::MAX,
        "The last so many lines of what was written before; default 1000, 0 for none.",
    ),
    QueryParam::boolean("watch", "Only to watch; default false."),
    QueryParam::boolean("shared", "To type together with others who say so; default false: alone."),
];

/// What a request says of how it wants the console.
pub struct Wish {
    /// Lines of what was written before.
    pub tail: usize,
    /// To type as well.
    pub types: Option<Types>,
}

pub struct Types {
    /// Together with others who say so.
    pub shared: bool,
}

impl Wish {
    /// # Errors
    /// [`HttpError::InvalidParameter`].
    pub fn of(tail: Option<i64>, shared: Option<bool>, watch: Option<bool>) -> Result<Self, HttpError> {
        let tail = usize::try_from(tail.unwrap_or(DEFAULT_TAIL));
        let tail = tail.map_err(|_| HttpError::invalid("tail", "be 0 or greater"))?;
        let types = match (watch, shared) {
            (Some(true), Some(true)) => return Err(HttpError::invalid("shared", "be left out where watch is true")),
            (Some(true), _) => None,
            (_, shared) => Some(Types { shared: shared == Some(true) }),
        };
        Ok(Self { tail, types })
    }
}

/// Opens the console of a VM for who asks.
///
/// # Errors
/// [`HttpError::UpgradeRequired`] for a request for no WebSocket.
pub fn open(request: &Request, output: Output, wish: Wish) -> Result<Reply, HttpError> {
    let caller = request.caller.name.clone();
    websocket::open(request, move |socket, ending| Box::pin(talk(socket, ending, output, wish, caller)))
}

async fn talk(socket: Socket, ending: Ending, output: Output, wish: Wish, caller: String) -> Option<Socket> {
    let (to, from) = socket.split();
    let (note, notes) = mpsc::channel(NOTES);
    let (writer, refusal) = match wish.types {
        None => (None, None),
        Some(Types { shared }) => match output.writer(&caller, shared) {
            Ok(writer) => (Some(writer), None),
            Err(refused) => {
                let how = if shared { "does not share" } else { "types; ?shared=true types along where all share" };
                (None, Some(format!("you only watch: {} {how}", refused.by)))
            }
        },
    };
    // Its channel has just been made.
    let _ = refusal.map(|refusal| note.try_send(refusal));
    let heard = Heard::default();
    let mut viewer = Viewer { to, output: output.clone(), heard: heard.clone(), notes };
    let mut typist = Typist { from, writer, note, heard };
    let end = tokio::select! {
        end = viewer.show(wish.tail) => end,
        end = typist.listen() => end,
        () = output.gone() => Some((CloseCode::Normal, "the VM is deleted")),
        () = ending.begun() => Some((CloseCode::Away, "qherd ends; the guest goes on")),
        () = ending.dismissed() => Some((CloseCode::Policy, "the token was revoked or has expired")),
    };
    viewer.close(end).await;
    // Until the client has closed it as well: it may be sending still.
    let _ = timeout(CLOSING, async { while let Some(Ok(_)) = typist.from.next().await {} }).await;
    // Both are halves of one.
    viewer.to.reunite(typist.from).ok()
}

/// When the client was last heard of.
#[derive(Clone)]
struct Heard(Arc<Mutex<Instant>>);

impl Default for Heard {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Heard {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn since(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// Why it ends; `None` where the client has ended it.
type End = Option<(CloseCode, &'static str)>;

struct Viewer {
    to: SplitSink<Socket, Message>,
    output: Output,
    heard: Heard,
    notes: mpsc::Receiver<String>,
}

impl Viewer {
    async fn show(&mut self, tail: usize) -> End {
        match self.follow(tail).await {
            Ok(end) => end,
            Err(error) => {
                tracing::warn!(%error, "the console of a VM cannot be read");
                Some((CloseCode::Error, "the log of the console cannot be read"))
            }
        }
    }

    async fn follow(&mut self, tail: usize) -> io::Result<End> {
        let mut follower = self.output.follower()?;
        let kept = self.output.last(tail).await.map_err(io::Error::other)?;
        let (mut at, live) = (kept.begin, kept.end);
        let mut ping = Instant::now() + PING;
        loop {
            while let Ok(note) = self.notes.try_recv() {
                if self.tell(&note).await.is_err() {
                    return Ok(None);
                }
            }
            if Instant::now() >= ping {
                ping = Instant::now() + PING;
                if self.heard.since() > 2 * PING || self.to.send(Message::Ping(Default::default())).await.is_err() {
                    return Ok(None);
                }
            }
            let piece = self.output.read(at, PIECE as u64).await?;
            let is_far_behind = at >= live && piece.end - at > FAR_BEHIND;
            let from = if is_far_behind { piece.end - CAUGHT_UP } else { piece.from };
            if from > at {
                let left_out = format!("{} bytes are left out: they came faster than they were taken", from - at);
                at = from;
                if self.tell(&left_out).await.is_err() {
                    return Ok(None);
                }
                continue;
            }
            if !piece.text.is_empty() {
                at = piece.to();
                if self.to.send(Message::binary(piece.text)).await.is_err() {
                    return Ok(None);
                }
                continue;
            }
            tokio::select! {
                more = follower.more() => more?,
                Some(note) = self.notes.recv() => if self.tell(&note).await.is_err() {
                    return Ok(None);
                },
                () = tokio::time::sleep_until(ping) => {}
            }
        }
    }

    /// A note, as a line of its own.
    async fn tell(&mut self, note: &str) -> Result<(), websocket::Error> {
        self.to.send(Message::text(format!("\r\n[qherd: {note}]\r\n"))).await
    }

    async fn close(&mut self, end: End) {
        let Some((code, reason)) = end else { return };
        let frame = CloseFrame { code, reason: reason.into() };
        // A client that takes nothing has had its time already.
        let _ = timeout(CLOSING, self.to.send(Message::Close(Some(frame)))).await;
    }
}

/// Takes what the client sends.
struct Typist {
    from: SplitStream<Socket>,
    writer: Option<Writer>,
    note: mpsc::Sender<String>,
    heard: Heard,
}

impl Typist {
    async fn listen(&mut self) -> End {
        let mut last = Typed::Taken;
        let mut noted = false;
        while let Some(message) = self.from.next().await {
            self.heard.now();
            let typed = match message {
                Ok(Message::Binary(bytes)) => bytes,
                Ok(Message::Text(text)) if is_resize(&text) => continue,
                Ok(Message::Text(text)) => text.into(),
                Ok(Message::Close(_)) => return None,
                Ok(_) => continue,
                Err(websocket::Error::Capacity(_)) => return Some((CloseCode::Size, "a message has at most 64 KiB")),
                Err(websocket::Error::Protocol(_) | websocket::Error::Utf8(_)) => {
                    return Some((CloseCode::Protocol, "that is no WebSocket"));
                }
                Err(_) => return None,
            };
            let Some(writer) = &self.writer else {
                if !std::mem::replace(&mut noted, true) {
                    self.tell("what you type goes nowhere: you only watch");
                }
                continue;
            };
            let done = writer.send(&typed).await;
            if done != last {
                match done {
                    Typed::Taken => {}
                    Typed::NobodyThere => self.tell("the VM does not run, so what you type is lost"),
                    Typed::Full => self.tell("the guest takes nothing, so what you type is lost in part"),
                }
            }
            last = done;
        }
        None
    }

    /// Where the viewer takes nothing, it has notes enough.
    fn tell(&self, note: &str) {
        let _ = self.note.try_send(note.to_owned());
    }
}

/// As programs in browsers send it when their window changes: `{"resize":…}` or `{"type":"resize",…}`.
fn is_resize(text: &str) -> bool {
    const LONGEST: usize = 256;
    if text.len() > LONGEST || !text.trim_start().starts_with('{') {
        return false;
    }
    let value: Option<serde_json::Value> = serde_json::from_str(text).ok();
    value.is_some_and(|value| value.get("resize").is_some() || value.get("type").is_some_and(|kind| kind == "resize"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_size_is_not_typed_and_everything_else_is() {
        for resize in ["{\"resize\":{\"cols\":80,\"rows\":24}}", " {\"type\": \"resize\", \"cols\": 80}"] {
            assert!(is_resize(resize), "{resize}");
        }
        for typed in ["resize", "{", "{\"type\":\"input\"}", "[\"resize\"]", "\"resize\"", "", "{\"resize\":1} "] {
            assert_eq!(is_resize(typed), typed == "{\"resize\":1} ", "{typed}");
        }
    }
}
