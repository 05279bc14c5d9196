//! The serial console of a VM, over a WebSocket: the handshake of a client (RFC 6455), and what is said on it.

use futures_util::{SinkExt, StreamExt};
use headers::{Header, SecWebsocketAccept, SecWebsocketKey};
use http::{Method, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, frame::coding::CloseCode},
    },
};

use super::{Client, Failure, SOON};

pub struct Console {
    at: String,
    socket: WebSocketStream<TokioIo<Upgraded>>,
}

/// What came.
pub enum Heard {
    /// Of the guest, as it is.
    Bytes(Vec<u8>),
    /// Of qherd, for people.
    Note(String),
    /// The end, and why. Where the daemon ends, the guest goes on.
    End { daemon_ends: bool, reason: String },
}

impl Client {
    /// # Errors
    /// [`Failure`].
    pub async fn console(&self, path: &str) -> Result<Console, Failure> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| self.garbled(&error))?;
        let key = SecWebsocketKey::from(bytes);
        let mut request = self.request(Method::GET, path, None)?;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, header::HeaderValue::from_static("13"));
        headers.extend(sent(&key).map(|value| (header::SEC_WEBSOCKET_KEY, value)));
        let (_, response) = self.send(request, SOON).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response).await);
        }
        if response.headers().get(header::SEC_WEBSOCKET_ACCEPT) != sent(&SecWebsocketAccept::from(key)).as_ref() {
            return Err(self.garbled(&"it opens another WebSocket than was asked for"));
        }
        let upgraded = timeout(SOON, hyper::upgrade::on(response)).await;
        let upgraded = upgraded.map_err(|_| Failure::Late { at: self.target.name(), after: SOON })?;
        let line = TokioIo::new(upgraded.map_err(|error| self.lost(&error))?);
        let socket = WebSocketStream::from_raw_socket(line, Role::Client, None).await;
        Ok(Console { at: self.target.name(), socket })
    }
}

/// A header's value.
fn sent(header: &impl Header) -> Option<header::HeaderValue> {
    let mut values = Vec::with_capacity(1);
    header.encode(&mut values);
    values.pop()
}

impl Console {
    /// What comes next. May be dropped and called again.
    ///
    /// # Errors
    /// [`Failure::Lost`].
    pub async fn next(&mut self) -> Result<Heard, Failure> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(Heard::Bytes(bytes.into())),
                Some(Ok(Message::Text(note))) => return Ok(Heard::Note(note.as_str().to_owned())),
                Some(Ok(Message::Close(frame))) => {
                    let daemon_ends = frame.as_ref().is_some_and(|frame| frame.code == CloseCode::Away);
                    let reason = frame.map(|frame| frame.reason.as_str().to_owned()).unwrap_or_default();
                    return Ok(Heard::End { daemon_ends, reason });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Failure::Lost { at: self.at.clone(), why: error.to_string() }),
                None => return Err(Failure::Lost { at: self.at.clone(), why: "it was closed".to_owned() }),
            }
        }
    }

    /// # Errors
    /// [`Failure::Lost`].
    pub async fn send(&mut self, typed: Vec<u8>) -> Result<(), Failure> {
        let sent = self.socket.send(Message::binary(typed)).await;
        sent.map_err(|error| Failure::Lost { at: self.at.clone(), why: error.to_string() })
    }

    /// Takes its leave.
    pub async fn close(mut self) {
        // Who does not listen any more is left all the same.
        let _ = timeout(std::time::Duration::from_secs(1), self.socket.close(None)).await;
    }
}
