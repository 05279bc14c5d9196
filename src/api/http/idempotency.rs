//! The header `Idempotency-Key` on POST, for every route of every dialect: the same key and the same request get the
//! first answer, with `Idempotency-Replayed: true` (draft-ietf-httpapi-idempotency-key-header). Where keys and answers
//! are kept, and what happens to one that was cut short, is `service::keys`' business.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use sha2::{Digest as _, Sha256};
use warp::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{HttpError, Response, response::Unchanged};
use crate::service::{Claim, KeptAnswer, KeyError, Keys};

pub(super) const HEADER: &str = "idempotency-key";
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Bytes of a key.
pub const MOST_BYTES: usize = 255;

/// A request that came with a key.
pub(super) struct Keyed {
    keys: Arc<Keys>,
    key: String,
    request: String,
}

impl Keyed {
    /// A key belongs to an `owner`, all of it; `parts` are all that makes two requests the same one.
    ///
    /// # Errors
    /// [`HttpError::InvalidParameter`] for what cannot be a key.
    pub fn new(
        keys: Arc<Keys>,
        headers: &HeaderMap,
        owner: [&str; 2],
        parts: &[&[u8]],
    ) -> Result<Option<Self>, HttpError> {
        let Some(key) = key(headers)? else { return Ok(None) };
        let [one, other] = owner.map(str::as_bytes);
        Ok(Some(Self { keys, key: digest(&[key, one, other]), request: digest(parts) }))
    }

    /// The key, and what it is used for.
    pub fn digests(&self) -> (String, String) {
        (self.key.clone(), self.request.clone())
    }

    /// Carries the request out by `run`, which is told the id that what it makes is to have; or gives the answer that
    /// it had before. `refuse` puts an objection into the dialect's shape.
    pub async fn answer<F>(self, run: impl FnOnce(uuid::Uuid) -> F, refuse: impl Fn(HttpError) -> Response) -> Response
    where
        F: Future<Output = Response>,
    {
        let attempt = match self.keys.claim(self.key, self.request).await {
            Ok(Claim::Run(attempt)) => attempt,
            Ok(Claim::Replay(answer)) => return replay(answer),
            Ok(Claim::Reused) => return refuse(HttpError::KeyReused),
            Err(KeyError::Full) => return refuse(HttpError::NoRoomForKey),
            Err(KeyError::Store(error)) => return refuse(HttpError::KeyNotStored { why: error.to_string() }),
        };
        let (head, body) = run(attempt.id()).await.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return refuse(HttpError::Internal { why: error.to_string() }),
        };
        if let Ok(text) = std::str::from_utf8(&body) {
            let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let answer = KeptAnswer {
                status: head.status.as_u16(),
                content_type: content_type.map(str::to_owned),
                body: text.to_owned(),
            };
            let changed = head.extensions.get::<Unchanged>().is_none();
            match outcome(head.status, changed) {
                Outcome::Done => attempt.keep(answer).await,
                Outcome::Nothing => attempt.release(answer).await,
                Outcome::Failed => attempt.fail(answer).await,
            }
        }
        Response::from_parts(head, body.into())
    }
}

/// What an answer means to the key of its request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// What was asked for has been made or changed: the answer is the one for a day.
    Done,
    /// Nothing was done: what is asked next under the key, the same or another, is judged by itself.
    Nothing,
    /// Nobody knows how far it came; the same request goes on from there.
    Failed,
}

fn outcome(status: StatusCode, changed: bool) -> Outcome {
    match status {
        status if status.is_success() && changed => Outcome::Done,
        status if status.is_success() || status.is_client_error() => Outcome::Nothing,
        _ => Outcome::Failed,
    }
}

/// The draft wants a quoted string, and most clients send it bare: both name the same key.
fn key(headers: &HeaderMap) -> Result<Option<&[u8]>, HttpError> {
    let mut values = headers.get_all(HEADER).iter();
    let (Some(value), other) = (values.next(), values.next()) else { return Ok(None) };
    let text = value.as_bytes().trim_ascii();
    let bare = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
    if other.is_some() || bare.is_empty() || bare.len() > MOST_BYTES || !bare.iter().all(u8::is_ascii_graphic) {
        let must = format!("be given once, as 1 to {MOST_BYTES} visible ASCII characters; a UUID is a good key");
        return Err(HttpError::invalid("Idempotency-Key", must));
    }
    Ok(Some(bare))
}

fn digest(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn replay(answer: KeptAnswer) -> Response {
    let mut response = Response::new(Bytes::from(answer.body).into());
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if let Some(content_type) = answer.content_type.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(values: &[&str]) -> Result<Option<String>, HttpError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        key(&headers).map(|key| key.map(|key| String::from_utf8(key.to_vec()).unwrap()))
    }

    #[test]
    fn a_key_is_quoted_or_bare_and_of_bounded_length() {
        assert_eq!(parsed(&[]), Ok(None));
        for good in ["8e03978e", "\"8e03978e\"", " 8e03978e "] {
            assert_eq!(parsed(&[good]), Ok(Some("8e03978e".into())), "{good}");
        }
        assert!(parsed(&[&"x".repeat(255)]).is_ok());
        for bad in [&[""][..], &["\"\""], &["a b"], &["a", "b"], &[&"x".repeat(256)], &["grün"]] {
            let error = parsed(bad).unwrap_err().message();
            assert!(error.starts_with("Invalid parameter: Idempotency-Key must "), "{error}");
        }
    }

    #[test]
    fn what_was_refused_leaves_its_key_free_and_what_failed_does_not() {
        for (status, wanted) in [
            (200, Outcome::Done),
            (201, Outcome::Done),
            (202, Outcome::Done),
            (400, Outcome::Nothing),
            (409, Outcome::Nothing),
            (413, Outcome::Nothing),
            (415, Outcome::Nothing),
            (500, Outcome::Failed),
            (503, Outcome::Failed),
        ] {
            assert_eq!(outcome(StatusCode::from_u16(status).unwrap(), true), wanted, "{status}");
        }
        assert_eq!(outcome(StatusCode::OK, false), Outcome::Nothing);
        assert_eq!(outcome(StatusCode::SERVICE_UNAVAILABLE, false), Outcome::Failed);
    }

    #[test]
    fn a_digest_tells_where_one_part_ends() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_eq!(digest(&[b"a"]).len(), 64);
    }
}
