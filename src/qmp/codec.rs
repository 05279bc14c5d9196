//! From bytes to lines, and from a line to one message of QMP.
//!
//! Lines are bounded, so that a hostile peer cannot exhaust the daemon. What a message means, and
//! whom it concerns, is not decided here. The guest agent speaks the same lines and replies, so
//! `agent` uses this file too.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::io;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::CloseReason;
use super::version::QemuVersion;

/// Longest line accepted from QEMU, in bytes. `query-qmp-schema` is the largest honest reply, at
/// some 200 kB.
pub(super) const LINE_LIMIT: usize = 16 << 20;

/// Bytes of room made for each read.
const READ_SIZE: usize = 8 << 10;

/// How much of an unreadable line is quoted in the error.
const QUOTED: usize = 80;

/// The lines of a byte stream, each without its newline and none longer than the limit.
#[derive(Debug)]
pub(super) struct Lines<R> {
    stream: R,
    buffer: BytesMut,
    /// Bytes at the start of `buffer` known to hold no newline, so that a long line is searched
    /// only once.
    searched: usize,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub fn new(stream: R, limit: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), searched: 0, limit }
    }

    /// The next line. Cancellation-safe: bytes read so far stay in the buffer.
    pub async fn next(&mut self) -> Result<Bytes, CloseReason> {
        loop {
            let newline = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n');
            let length = newline.map_or(self.buffer.len(), |at| self.searched + at);
            if length > self.limit {
                return Err(CloseReason::LineTooLong { limit: self.limit });
            }
            if newline.is_some() {
                let mut line = self.buffer.split_to(length + 1);
                line.truncate(length);
                self.searched = 0;
                if self.buffer.is_empty() {
                    // Otherwise the room that one long line needed would be kept for ever.
                    self.buffer = BytesMut::new();
                }
                return Ok(line.freeze());
            }
            self.searched = length;
            self.buffer.reserve(READ_SIZE);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(self.ended()),
                Ok(_) => {}
                // A peer that dies with our bytes unread resets the connection: the same news as
                // its end of file.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(self.ended());
                }
                Err(error) => return Err(CloseReason::Io(error.to_string())),
            }
        }
    }

    /// Waits until there is something of the next line.
    pub async fn begun(&mut self) -> Result<(), CloseReason> {
        if self.buffer.is_empty() {
            self.buffer.reserve(READ_SIZE);
            let read = self.stream.read_buf(&mut self.buffer).await;
            if read.map_err(|error| CloseReason::Io(error.to_string()))? == 0 {
                return Err(CloseReason::Eof);
            }
        }
        Ok(())
    }

    /// The next line with each of its strings cut after `most` bytes: a long one is read, up to `longest` bytes of it, and never
    /// held. Not cancellation-safe.
    pub async fn next_cut(&mut self, most: usize, longest: usize) -> Result<Vec<u8>, CloseReason> {
        let (mut strings, mut kept, mut length) = (Strings::new(most), Vec::new(), 0);
        loop {
            let newline = self.buffer.iter().position(|&byte| byte == b'\n');
            let piece = self.buffer.split_to(newline.unwrap_or(self.buffer.len()));
            kept.extend(piece.iter().copied().filter(|&byte| strings.keep(byte)));
            length += piece.len();
            self.searched = 0;
            if kept.len() > self.limit || length > longest {
                return Err(CloseReason::LineTooLong { limit: longest });
            }
            if newline.is_some() {
                self.buffer.advance(1);
                return Ok(kept);
            }
            self.buffer = BytesMut::with_capacity(READ_SIZE);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) if length == 0 => return Err(CloseReason::Eof),
                Ok(0) => return Err(CloseReason::HalfLine),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(CloseReason::Eof),
                Err(error) => return Err(CloseReason::Io(error.to_string())),
            }
        }
    }

    fn ended(&self) -> CloseReason {
        if self.buffer.is_empty() { CloseReason::Eof } else { CloseReason::HalfLine }
    }
}

/// Where in a line of JSON its strings are, byte by byte, and what of them is kept.
struct Strings {
    most: usize,
    /// In a string: how many of its bytes there were.
    inside: Option<usize>,
    escaped: bool,
}

impl Strings {
    fn new(most: usize) -> Self {
        Self { most, inside: None, escaped: false }
    }

    fn keep(&mut self, byte: u8) -> bool {
        let Some(count) = self.inside else {
            self.inside = (byte == b'"').then_some(0);
            return true;
        };
        if self.escaped {
            self.escaped = false;
        } else if byte == b'"' {
            self.inside = None;
            return true;
        } else {
            self.escaped = byte == b'\\';
        }
        self.inside = Some(count + 1);
        count < self.most
    }
}

/// One message from QEMU.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    Greeting {
        version: QemuVersion,
    },
    Return {
        id: Option<Value>,
        value: Value,
    },
    Error {
        id: Option<Value>,
        class: String,
        desc: String,
    },
    /// `timestamp` is absent when QEMU gives none or an impossible one.
    Event {
        name: String,
        data: Value,
        timestamp: Option<SystemTime>,
    },
}

/// Decodes one line; whatever is not a message of the protocol is [`CloseReason::Garbage`].
pub(super) fn decode(line: &[u8]) -> Result<Incoming, CloseReason> {
    let wire: Wire = serde_json::from_slice(line).map_err(|error| garbage(&error.to_string(), line))?;
    if let Some(name) = wire.event {
        let timestamp = wire.timestamp.and_then(Timestamp::moment);
        return Ok(Incoming::Event { name, data: wire.data, timestamp });
    }
    if let Some(value) = wire.return_ {
        return Ok(Incoming::Return { id: wire.id, value });
    }
    if let Some(WireError { class, desc }) = wire.error {
        return Ok(Incoming::Error { id: wire.id, class, desc });
    }
    if let Some(Greeting { version: Version { qemu, package } }) = wire.qmp {
        let version = QemuVersion { major: qemu.major, minor: qemu.minor, micro: qemu.micro, package };
        return Ok(Incoming::Greeting { version });
    }
    Err(garbage("neither greeting, reply nor event", line))
}

fn garbage(why: &str, line: &[u8]) -> CloseReason {
    let quoted = String::from_utf8_lossy(&line[..line.len().min(QUOTED)]);
    CloseReason::Garbage(format!("{why} in {quoted:?}"))
}

/// All messages at once: which one it is shows in the key that is present.
#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "QMP")]
    qmp: Option<Greeting>,
    #[serde(rename = "return", default, deserialize_with = "present")]
    return_: Option<Value>,
    error: Option<WireError>,
    id: Option<Value>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    timestamp: Option<Timestamp>,
}

/// `"return": null` is a reply, not a missing key.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct WireError {
    class: String,
    desc: String,
}

#[derive(Deserialize)]
struct Greeting {
    version: Version,
}

#[derive(Deserialize)]
struct Version {
    qemu: Triple,
    #[serde(default)]
    package: String,
}

#[derive(Deserialize)]
struct Triple {
    major: u32,
    minor: u32,
    micro: u32,
}

/// QEMU sends -1 for both when it cannot read the clock.
#[derive(Deserialize)]
struct Timestamp {
    seconds: i64,
    microseconds: i64,
}

impl Timestamp {
    fn moment(self) -> Option<SystemTime> {
        let seconds = Duration::from_secs(self.seconds.try_into().ok()?);
        let micros = Duration::from_micros(self.microseconds.try_into().ok()?);
        SystemTime::UNIX_EPOCH.checked_add(seconds)?.checked_add(micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(line: &str) -> Incoming {
        decode(line.as_bytes()).unwrap()
    }

    #[test]
    fn the_greeting_of_debian_12_is_understood() {
        let line = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#;
        let version = QemuVersion { major: 7, minor: 2, micro: 22, package: "Debian".into() };
        assert_eq!(message(line), Incoming::Greeting { version });
    }

    #[test]
    fn replies_keep_their_id_and_null_is_a_reply() {
        assert_eq!(message(r#"{"return": {}, "id": 3}"#), Incoming::Return { id: Some(json!(3)), value: json!({}) });
        assert_eq!(message(r#"{"return": null}"#), Incoming::Return { id: None, value: Value::Null });
        assert_eq!(
            message(r#"{"error": {"class": "GenericError", "desc": "no"}, "id": 4}"#),
            Incoming::Error { id: Some(json!(4)), class: "GenericError".into(), desc: "no".into() }
        );
    }

    #[test]
    fn an_event_without_a_usable_clock_is_still_an_event() {
        let line = r#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "STOP"}"#;
        assert_eq!(message(line), Incoming::Event { name: "STOP".into(), data: Value::Null, timestamp: None });
        let line = r#"{"timestamp": {"seconds": 2, "microseconds": 500000}, "event": "STOP"}"#;
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(2500);
        assert_eq!(message(line), Incoming::Event { name: "STOP".into(), data: Value::Null, timestamp: Some(at) });
    }

    #[test]
    fn whatever_is_no_message_is_garbage_and_only_its_start_is_quoted() {
        let deep = "[".repeat(100_000);
        for line in ["", "hello", "{}", "[]", r#"{"event": 5}"#, r#"{"error": "no"}"#, "\u{ff}", &deep] {
            let Err(CloseReason::Garbage(why)) = decode(line.as_bytes()) else { panic!("{line:.20} was accepted") };
            assert!(why.len() < 300, "{why}");
        }
    }

    #[tokio::test]
    async fn lines_are_cut_at_newlines_and_bounded_exactly() {
        let mut lines = Lines::new(&b"four\n\nfive!\nsixsix\n"[..], 5);
        assert_eq!(lines.next().await.unwrap(), "four");
        assert_eq!(lines.next().await.unwrap(), "");
        assert_eq!(lines.next().await.unwrap(), "five!");
        assert_eq!(lines.next().await, Err(CloseReason::LineTooLong { limit: 5 }));
    }

    #[tokio::test]
    async fn long_strings_of_a_line_are_cut_and_the_rest_of_it_is_as_it_was() {
        let line = r#"{"return": {"a": "AAAABBBB", "n": [1, "\"}"], "b": ""}}"#;
        let cut = r#"{"return": {"a": "AAAABB", "n": [1, "\"}"], "b": ""}}"#;
        let text = format!("{line}\nnext\n");
        let mut lines = Lines::new(text.as_bytes(), 100);
        assert_eq!(String::from_utf8(lines.next_cut(6, 100).await.unwrap()).unwrap(), cut);
        assert_eq!(lines.next().await.unwrap(), "next");
        let mut lines = Lines::new(text.as_bytes(), 100);
        let too_long = CloseReason::LineTooLong { limit: 20 };
        assert_eq!(lines.next_cut(4, 20).await, Err(too_long));
        let endless = "\"".repeat(300);
        let held = Lines::new(endless.as_bytes(), 100).next_cut(4, 1000).await;
        assert_eq!(held, Err(CloseReason::LineTooLong { limit: 1000 }));
        assert_eq!(Lines::new(&b"{\"half"[..], 9).next_cut(4, 100).await, Err(CloseReason::HalfLine));
    }

    #[tokio::test]
    async fn the_end_tells_a_finished_line_from_half_a_line() {
        assert_eq!(Lines::new(&b""[..], 9).next().await, Err(CloseReason::Eof));
        assert_eq!(Lines::new(&b"half"[..], 9).next().await, Err(CloseReason::HalfLine));
    }
}
