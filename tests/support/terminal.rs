//! A client of a VM's console over a WebSocket.
#![allow(dead_code)] // Every test file uses its own part.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::support::Daemon;

/// For a guest that boots, emulated, with others on few cores.
const PATIENCE: Duration = Duration::from_secs(400);

pub struct Terminal {
    socket: WebSocketStream<TcpStream>,
    /// What the guest wrote, and what qherd noted.
    pub seen: String,
    pub notes: String,
}

/// The request that opens one.
pub fn request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// A connection that the request was sent on, and the head of its answer.
pub async fn answered(daemon: &Daemon, request: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(daemon.url.strip_prefix("http://").unwrap()).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, socket.read_u8()).await.expect("an answer");
        head.push(byte.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&head))));
    }
    (socket, String::from_utf8(head).unwrap())
}

impl Terminal {
    pub async fn open(daemon: &Daemon, id: &str, query: &str) -> Self {
        Self::open_with(daemon, id, query, "").await
    }

    /// With more headers.
    pub async fn open_with(daemon: &Daemon, id: &str, query: &str, more: &str) -> Self {
        let (socket, head) = answered(daemon, &request(&format!("/vms/{id}/console{query}"), more)).await;
        assert!(head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        let socket = WebSocketStream::from_raw_socket(socket, Role::Client, None).await;
        Self { socket, seen: String::new(), notes: String::new() }
    }

    pub async fn send(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    pub async fn type_text(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    /// One message more; `None` at the end, with why in the notes.
    pub async fn next(&mut self) -> Option<()> {
        match timeout(PATIENCE, self.socket.next()).await.unwrap_or_else(|_| panic!("silence after {:?}", self.seen))? {
            Ok(Message::Binary(bytes)) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
            Ok(Message::Text(text)) => self.notes.push_str(&text),
            Ok(Message::Close(frame)) => {
                let frame = frame.expect("a reason");
                self.notes.push_str(&format!("closed: {} {}", u16::from(frame.code), frame.reason));
            }
            Ok(_) => {}
            Err(error) => {
                self.notes.push_str(&format!("cut: {error}"));
                return None;
            }
        }
        Some(())
    }

    /// Waits until the guest has written it; what comes after it is looked through the next time.
    pub async fn see(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            assert!(self.next().await.is_some(), "{}, and not {text:?}", self.notes);
        }
    }

    pub async fn note(&mut self, text: &str) {
        while !self.notes.contains(text) {
            assert!(self.next().await.is_some(), "{}, and not {text:?}", self.notes);
        }
    }

    /// Until it is closed; why.
    pub async fn closed(&mut self) -> String {
        while self.next().await.is_some() {}
        self.notes.split_off(self.notes.find("closed: ").unwrap_or_else(|| panic!("{}", self.notes)))
    }
}
