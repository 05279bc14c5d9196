//! What a handler gives back: a whole body, a stream of pieces, or another protocol (docs/adr/0033). No dialect's shape of an
//! error is in here.

use std::{fmt, io};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use warp::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{
    HttpError,
    streaming::{self, Pieces, Streaming},
    upgrade::{Talk, Upgrading},
};

pub type Response = warp::reply::Response;

/// What a handler may return. An [`HttpError`] is passed on, for the table puts it into its dialect's shape; so that
/// `Result<Reply, HttpError>` serves both dialects, and `Result<Reply, DialectError>` one.
pub trait IntoResponse {
    fn into_response(self) -> Result<Response, HttpError>;
}

impl IntoResponse for Response {
    fn into_response(self) -> Result<Response, HttpError> {
        Ok(self)
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Result<Response, HttpError> {
        Err(self)
    }
}

impl<T: IntoResponse, E: IntoResponse> IntoResponse for Result<T, E> {
    fn into_response(self) -> Result<Response, HttpError> {
        match self {
            Ok(reply) => reply.into_response(),
            Err(error) => error.into_response(),
        }
    }
}

/// A status, headers, and what follows them.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    content: Content,
    changed: bool,
}

enum Content {
    /// Or why it cannot be written.
    Whole(Result<Bytes, String>),
    Stream {
        pieces: Pieces,
        streaming: Streaming,
    },
    Upgrade(Talk),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(body) => body.fmt(f),
            Self::Stream { streaming, .. } => streaming.fmt(f),
            Self::Upgrade(_) => f.write_str("Upgrade"),
        }
    }
}

/// Of a response to what has made or changed nothing: it is not kept under an idempotency key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unchanged;

impl Reply {
    pub fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Self {
        // Told when the reply is turned into a response, where the dialect's 500 can be given.
        let body = serde_json::to_vec(value).map(Bytes::from).map_err(|err| err.to_string());
        Self::with(status, typed("application/json"), Content::Whole(body))
    }

    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self::with(status, typed("text/plain; charset=utf-8"), Content::Whole(Ok(Bytes::from(text.into()))))
    }

    /// 200 with a body of this type.
    pub fn whole(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self::with(StatusCode::OK, typed(content_type), Content::Whole(Ok(body.into())))
    }

    pub fn empty(status: StatusCode) -> Self {
        Self::with(status, HeaderMap::new(), Content::Whole(Ok(Bytes::new())))
    }

    /// A body that comes piece by piece, each of up to [`PIECE`](super::PIECE) bytes. Nothing of it is made before the client
    /// has room for it, and nothing for HEAD; so whatever may take time belongs into the stream. One that goes on for as long
    /// as the daemon does is [`until_the_end`](Self::until_the_end).
    pub fn stream<S>(content_type: &'static str, pieces: S) -> Self
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let content = Content::Stream { pieces: pieces.boxed(), streaming: Streaming::default() };
        Self::with(StatusCode::OK, typed(content_type), content)
    }

    /// Of a stream that does not end by itself: when the daemon is told to end, nobody waits for it, and this is its last piece.
    pub fn until_the_end(mut self, farewell: impl Into<Bytes>) -> Self {
        if let Content::Stream { streaming, .. } = &mut self.content {
            streaming.farewell = Some(farewell.into());
        }
        self
    }

    /// Of the same, what its last piece is when its caller may not have it any more.
    pub fn until_dismissed(mut self, dismissal: impl Into<Bytes>) -> Self {
        if let Content::Stream { streaming, .. } = &mut self.content {
            streaming.dismissal = dismissal.into();
        }
        self
    }

    /// Of a stream that will have exactly so many bytes.
    pub fn length(self, bytes: u64) -> Self {
        self.header(header::CONTENT_LENGTH, bytes.to_string())
    }

    /// From here on `protocol` is spoken, by `talk`. That the request asked for it is its handler's to know.
    pub fn upgrade(protocol: &'static str, talk: Talk) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
        Self::with(StatusCode::SWITCHING_PROTOCOLS, headers, Content::Upgrade(talk))
    }

    fn with(status: StatusCode, headers: HeaderMap, content: Content) -> Self {
        Self { status, headers, content, changed: true }
    }

    pub fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Where `so`, what was asked for was so before: the same request may change something when it comes again.
    pub fn unchanged_if(self, so: bool) -> Self {
        Self { changed: !so, ..self }
    }

    /// Adds a header. A value that no header can carry (a line break, say) is left out and logged, for the answer as
    /// such is right; values from clients must be encoded by the caller.
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        match HeaderValue::from_str(value.as_ref()) {
            Ok(value) => {
                self.headers.append(name, value);
            }
            Err(_) => tracing::error!(%name, value = value.as_ref(), "not a header value"),
        }
        self
    }

    /// `Link: <url>; rel="next"`, for paged lists.
    pub fn next_page(self, url: &str) -> Self {
        self.header(header::LINK, format!("<{url}>; rel=\"next\""))
    }

    /// The response, for where an `HttpError` cannot be passed on: in a dialect's own shape of an error.
    pub fn build(self) -> Response {
        let mut response = match self.content {
            Content::Whole(Ok(body)) => status(self.status, Response::new(body.into())),
            Content::Whole(Err(why)) => {
                tracing::error!(why, "an answer cannot be written as JSON");
                status(StatusCode::INTERNAL_SERVER_ERROR, Response::default())
            }
            Content::Stream { pieces, streaming } => {
                let mut response = status(self.status, streaming::response(pieces));
                response.extensions_mut().insert(streaming);
                response
            }
            Content::Upgrade(talk) => {
                let mut response = status(self.status, Response::default());
                response.extensions_mut().insert(Upgrading::new(talk));
                response
            }
        };
        *response.headers_mut() = self.headers;
        if !self.changed {
            response.extensions_mut().insert(Unchanged);
        }
        response
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Result<Response, HttpError> {
        match &self.content {
            Content::Whole(Err(why)) => Err(HttpError::Internal { why: why.clone() }),
            _ => Ok(self.build()),
        }
    }
}

fn status(status: StatusCode, mut response: Response) -> Response {
    *response.status_mut() = status;
    response
}

fn typed(content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_json_is_an_internal_error() {
        let odd = std::collections::BTreeMap::from([(vec![1u8], 1)]);
        let answer = Reply::json(StatusCode::OK, &odd).into_response();
        assert!(matches!(answer, Err(HttpError::Internal { .. })));
    }

    #[test]
    fn a_next_page_is_linked() {
        let response = Reply::json(StatusCode::OK, &[1]).next_page("/vms?page_token=a").build();
        assert_eq!(response.headers()["link"], "</vms?page_token=a>; rel=\"next\"");
        assert_eq!(response.headers()["content-type"], "application/json");
    }

    #[test]
    fn an_impossible_header_value_is_left_out() {
        let response = Reply::empty(StatusCode::NO_CONTENT).next_page("a\r\nb").build();
        assert!(response.headers().is_empty());
    }
}
