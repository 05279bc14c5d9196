//! The handshake of a WebSocket (RFC 6455), and the bounds that hold for each: how large a message may be, and how long somebody
//! may be silent who ought to answer. What is said on it is the handler's matter.

use std::time::Duration;

use futures_util::future::BoxFuture;
use headers::{Header, SecWebsocketAccept, SecWebsocketKey};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};
use warp::http::{HeaderMap, HeaderName, header};

use super::{
    HttpError, Reply, Request,
    upgrade::{Ending, Line},
};

pub use tokio_tungstenite::tungstenite::{
    Error, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

pub type Socket = WebSocketStream<Line>;

/// Bytes of the largest message that is taken.
pub const MOST_BYTES: usize = 64 * 1024;
/// Who is asked whether they are there is asked so often, and has answered by the next time.
pub const PING: Duration = Duration::from_secs(30);

/// Answers a request for a WebSocket; `talk` has it then, and gives it back to be closed.
///
/// # Errors
/// [`HttpError::UpgradeRequired`] for a request that is none.
pub fn open<F>(request: &Request, talk: F) -> Result<Reply, HttpError>
where
    F: FnOnce(Socket, Ending) -> BoxFuture<'static, Option<Socket>> + Send + 'static,
{
    let headers = &request.headers;
    let refused = |why| HttpError::UpgradeRequired { why };
    if !names(headers, &header::CONNECTION, "upgrade") || !names(headers, &header::UPGRADE, "websocket") {
        return Err(refused("ask for it with Connection: Upgrade and Upgrade: websocket, in HTTP/1.1"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(refused("its version is 13 (Sec-WebSocket-Version)"));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = SecWebsocketKey::decode(&mut keys).ok();
    let key = key.ok_or(refused("its Sec-WebSocket-Key must be given once"))?;
    let mut accept = Vec::with_capacity(1);
    SecWebsocketAccept::from(key).encode(&mut accept);
    let reply = Reply::upgrade(
        "websocket",
        Box::new(move |line, ending| {
            Box::pin(async move {
                let socket = WebSocketStream::from_raw_socket(line, Role::Server, Some(config())).await;
                talk(socket, ending).await.map(WebSocketStream::into_inner)
            })
        }),
    );
    let accept = accept.first().and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok(reply.header(header::SEC_WEBSOCKET_ACCEPT, accept))
}

/// What is written is not kept beside what the socket has taken, and what is read costs little while nothing is.
fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * super::PIECE)
        .max_message_size(Some(MOST_BYTES))
        .max_frame_size(Some(MOST_BYTES))
}

/// Whether a header that lists words has this one.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(word))
}
