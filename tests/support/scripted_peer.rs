//! The other end of a socket, doing exactly what a test says: a QEMU or guest agent that can
//! misbehave.

use qherd::qmp::{CloseReason, Events, Options, QmpError, Session};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// A deadline that a test wants to see pass.
pub const SHORT: Duration = Duration::from_millis(150);
/// One that must not pass, however busy the machine is.
pub const LONG: Duration = Duration::from_secs(30);

pub const GREETING: &str = concat!(
    r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "scripted"},"#,
    r#" "capabilities": ["oob"]}}"#
);

pub struct Peer {
    stream: BufReader<UnixStream>,
}

impl Peer {
    /// A peer and the socket that leads to it.
    pub fn new() -> (Peer, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Peer { stream: BufReader::new(ours) }, theirs)
    }

    /// Plays QEMU's part of opening a session.
    pub async fn negotiate(&mut self) {
        self.say(GREETING).await;
        let command = self.hear().await;
        assert_eq!(command["execute"], "qmp_capabilities");
        self.answer(&command, json!({})).await;
    }

    /// The next line that arrives, as JSON.
    pub async fn hear(&mut self) -> Value {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await.unwrap();
        while line.first() == Some(&0xFF) {
            line.remove(0);
        }
        serde_json::from_slice(&line).unwrap()
    }

    /// Waits until the other end closes, and checks that nothing more came.
    pub async fn hear_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }

    pub async fn say(&mut self, line: &str) {
        self.say_bytes(format!("{line}\r\n").as_bytes()).await;
    }

    /// An error is fine: the other end may have hung up, as it should.
    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub async fn answer(&mut self, command: &Value, value: Value) {
        self.say(&json!({ "return": value, "id": command["id"] }).to_string()).await;
    }
}

/// A session and the peer that plays its QEMU.
pub async fn open_with(options: Options) -> (Session, Events, Peer) {
    let (mut peer, stream) = Peer::new();
    let (opened, ()) = tokio::join!(Session::open_with(stream, LONG, options), peer.negotiate());
    let (session, events) = opened.unwrap();
    (session, events, peer)
}

pub async fn open() -> (Session, Events, Peer) {
    open_with(Options { deadline: |_| LONG, ..Options::default() }).await
}

pub fn closed(reason: CloseReason) -> QmpError {
    QmpError::Closed { reason }
}
