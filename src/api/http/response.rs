//! What a handler gives back. No dialect's shape of an error is in here.

use bytes::Bytes;
use serde::Serialize;
use warp::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::HttpError;

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

/// A status, headers, and a whole body.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Result<Bytes, String>,
    changed: bool,
}

/// Of a response to what has made or changed nothing: it is not kept under an idempotency key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unchanged;

impl Reply {
    pub fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Self {
        Self {
            status,
            headers: typed("application/json"),
            // Told when the reply is turned into a response, where the dialect's 500 can be given.
            body: serde_json::to_vec(value).map(Bytes::from).map_err(|err| err.to_string()),
            changed: true,
        }
    }

    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        let (headers, body) = (typed("text/plain; charset=utf-8"), Ok(Bytes::from(text.into())));
        Self { status, headers, body, changed: true }
    }

    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Ok(Bytes::new()), changed: true }
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
        let (status, body) = match self.body {
            Ok(body) => (self.status, body),
            Err(why) => {
                tracing::error!(why, "an answer cannot be written as JSON");
                (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new())
            }
        };
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        *response.headers_mut() = self.headers;
        if !self.changed {
            response.extensions_mut().insert(Unchanged);
        }
        response
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Result<Response, HttpError> {
        match &self.body {
            Err(why) => Err(HttpError::Internal { why: why.clone() }),
            Ok(_) => Ok(self.build()),
        }
    }
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
