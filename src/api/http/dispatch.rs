//! From a request on the wire to its handler and back: one warp filter for all tables.
//!
//! Each handler runs in a task of its own. So a client that hangs up takes its connection along but never cancels an
//! operation under way, and a handler that panics costs one 500 and not the connection. Once the server goes down
//! nothing new begins, and whoever still waits at the end of its patience is told so.
//!
//! It does not know what a path means (`table`) nor what a body says (`decode`).

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use percent_encoding::percent_decode_str;
use tracing::Instrument;
use warp::filters::BoxedFilter;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::{Buf, Filter};

use super::idempotency::Keyed;
use super::inflight::InFlight;
use super::route::{Answer, RouteInfo};
use super::table::{self, Found};
use super::wire::Refused;
use super::{HttpError, Nulls, Request, Response, Table, origin, query};
use crate::service::Keys;

/// The largest body that is read.
pub const BODY_LIMIT: usize = 1024 * 1024;
/// How long a body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A body that nobody wants is still taken off the wire within these bounds. A client that writes its whole body
/// before it looks for an answer would otherwise be cut off and see a broken pipe where it should read its 413.
const LINGER_LIMIT: usize = 128 * 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(10);

/// Seconds until a client that was refused because the server goes down may find it back.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// [`filter`] as [`serve`](super::serve()) takes it.
pub fn service(mounts: Vec<(&'static str, Table)>, keys: Option<Arc<Keys>>) -> impl super::server::Service {
    warp::service(filter(mounts, keys))
}

/// Tables by the path they are mounted at; `""` takes everything that no other prefix does. Without `keys` a request's
/// Idempotency-Key is not looked at.
pub fn filter(mounts: Vec<(&'static str, Table)>, keys: Option<Arc<Keys>>) -> BoxedFilter<(Response,)> {
    let mounts = Arc::new(Mounts::new(mounts, keys));
    let raw_query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::any()
        .and(warp::method())
        .and(warp::path::full())
        .and(raw_query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional().map(Option::<InFlight>::unwrap_or_default))
        .and(warp::ext::optional::<Refused>())
        .and(warp::body::stream())
        .then(move |method, path: warp::path::FullPath, query, headers, in_flight, refused: Option<Refused>, body| {
            let mounts = Arc::clone(&mounts);
            let head = Head { method, query, headers, in_flight, refused: refused.map(|Refused(error)| error) };
            async move { mounts.answer(path.as_str(), head, body).await }
        })
        .boxed()
}

struct Head {
    method: Method,
    query: String,
    headers: HeaderMap,
    in_flight: InFlight,
    refused: Option<HttpError>,
}

struct Mounts {
    tables: Vec<(Vec<&'static str>, Table)>,
    keys: Option<Arc<Keys>>,
}

impl Mounts {
    fn new(mounts: Vec<(&'static str, Table)>, keys: Option<Arc<Keys>>) -> Self {
        let split = |prefix: &'static str| prefix.split('/').filter(|s| !s.is_empty()).collect::<Vec<_>>();
        let mut tables: Vec<_> = mounts.into_iter().map(|(prefix, table)| (split(prefix), table)).collect();
        // The longest prefix first, so that it is found first.
        tables.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { tables, keys }
    }

    /// The table of a path, and the rest of the path below its prefix.
    fn find<'a, 'p>(&self, path: &'a [Cow<'p, str>]) -> Option<(&Table, &'a [Cow<'p, str>])> {
        self.tables.iter().find_map(|(prefix, table)| {
            let (head, rest) = path.split_at_checked(prefix.len())?;
            (head == prefix.as_slice()).then_some((table, rest))
        })
    }

    async fn answer<B, E>(
        &self,
        path: &str,
        head: Head,
        body: impl Stream<Item = Result<B, E>> + Send + 'static,
    ) -> Response
    where
        B: Buf + Send + 'static,
        E: Send + 'static,
    {
        let segments = split_path(path);
        let body = Incoming::new(body, &head.headers);
        let in_flight = head.in_flight.clone();
        // Before the question whether the server drains: one that has just begun to drain waits for this request.
        let _guard = in_flight.enter();
        let (shape, rest) = match self.find(&segments) {
            None => (table::plain as table::ErrorShape, None),
            Some((table, rest)) => (table.shape(), Some((table, rest))),
        };
        if let Some(error) = head.refused {
            return closing(table::refuse(shape, error));
        }
        let admitted = match in_flight.is_draining() {
            true => Err(HttpError::ShuttingDown),
            false => origin::check(&head.headers),
        };
        // An answer to HEAD is made like one to GET: hyper leaves its body out and keeps its length.
        let found = admitted.and_then(|()| {
            let (table, rest) = rest.ok_or(HttpError::NoSuchPath)?;
            table.find(&head.method, rest)
        });
        let response = match found {
            Err(error) => {
                body.linger();
                table::refuse(shape, error)
            }
            Ok(found) => tokio::select! {
                response = run(shape, self.keys.as_ref(), found, head, body) => response,
                () = in_flight.over() => table::refuse(shape, HttpError::Unfinished),
            },
        };
        if in_flight.is_draining() { leaving(response) } else { response }
    }
}

/// The last answer on its connection.
fn leaving(mut response: Response) -> Response {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    closing(response)
}

/// The segments of a path, decoded one by one: an encoded slash belongs to its segment. What is not UTF-8 becomes
/// U+FFFD, and so a malformed id like any other, for which each dialect has its own answer.
fn split_path(path: &str) -> Vec<Cow<'_, str>> {
    path.strip_prefix('/')
        .unwrap_or(path)
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy())
        .collect()
}

async fn run<T>(
    shape: table::ErrorShape,
    keys: Option<&Arc<Keys>>,
    found: Found<'_>,
    head: Head,
    body: Incoming<T>,
) -> Response
where
    T: Stream<Item = Result<Bytes, ()>> + Send + Unpin + 'static,
{
    let Found { info, handler, params } = found;
    let refuse = move |error| table::refuse(shape, error);
    let query = match query::parse(&head.query, info.query) {
        Ok(query) => query,
        Err(error) => {
            body.linger();
            return refuse(error);
        }
    };
    let body = match body.read().await {
        Ok(bytes) => Ok(bytes),
        // Too large is told when the handler asks; a body that never came means that there is no request.
        Err(error @ HttpError::TooLarge { .. }) => Err(error),
        Err(error) => return closing(refuse(error)),
    };
    let too_large = body.is_err();
    let nulls = if info.method == Method::PUT { Nulls::Clear } else { Nulls::Absent };
    let mut request = Request { params, query, headers: head.headers, body, nulls, makes: None };
    let keyed = match keys.filter(|_| info.method == Method::POST).map(|keys| keyed(keys, info, &head.query, &request))
    {
        Some(Err(error)) => return refuse(error),
        Some(Ok(keyed)) => keyed,
        None => None,
    };

    let guard = head.in_flight.enter();
    let span = tracing::info_span!("request", operation = info.operation_id);
    let operation = async move {
        let _guard = guard;
        let respond = move |answer: Answer| answer.unwrap_or_else(refuse);
        match keyed {
            None => respond(handler(request).await),
            Some(keyed) => {
                let run = async move |id| {
                    request.makes = Some(id);
                    respond(handler(request).await)
                };
                keyed.answer(run, refuse).await
            }
        }
    };
    let response = match tokio::spawn(operation.instrument(span)).await {
        Ok(response) => response,
        Err(failed) if failed.is_panic() => {
            let why = panic_text(failed.into_panic().as_ref());
            tracing::error!(operation = info.operation_id, why, "a handler panicked");
            refuse(HttpError::Internal { why })
        }
        // Only a runtime that shuts down cancels tasks.
        Err(_) => refuse(HttpError::ShuttingDown),
    };
    if too_large { closing(response) } else { response }
}

/// Two requests are the same one when they mean the same: wherever the table is mounted, whatever their headers say.
fn keyed(keys: &Arc<Keys>, info: &RouteInfo, query: &str, request: &Request) -> Result<Option<Keyed>, HttpError> {
    let params = request.params.iter().map(|(_, value)| value.as_bytes());
    let body = request.body.as_deref().unwrap_or_default();
    let parts: Vec<&[u8]> = [info.operation_id.as_bytes(), query.as_bytes(), body].into_iter().chain(params).collect();
    Keyed::new(keys.clone(), &request.headers, &parts)
}

/// A request's body before it is read. Nothing is asked of the client (`100 Continue`) until `read` is called.
struct Incoming<T> {
    stream: T,
    declared: Option<u64>,
    present: bool,
    expects_continue: bool,
}

impl Incoming<()> {
    fn new<B: Buf, E>(
        stream: impl Stream<Item = Result<B, E>> + Send + 'static,
        headers: &HeaderMap,
    ) -> Incoming<impl Stream<Item = Result<Bytes, ()>> + Send + Unpin + 'static> {
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let stream = stream.map(|frame| {
            // `Bytes` underneath, so this shares and does not copy.
            frame.map(|mut buf| buf.copy_to_bytes(buf.remaining())).map_err(|_| ())
        });
        Incoming {
            stream: Box::pin(stream),
            declared,
            present: declared.is_some_and(|n| n > 0) || headers.contains_key(header::TRANSFER_ENCODING),
            expects_continue: headers.contains_key(header::EXPECT),
        }
    }
}

impl<T: Stream<Item = Result<Bytes, ()>> + Send + Unpin + 'static> Incoming<T> {
    async fn read(mut self) -> Result<Bytes, HttpError> {
        if !self.present {
            return Ok(Bytes::new());
        }
        if self.declared.is_some_and(|n| n > BODY_LIMIT as u64) {
            self.linger();
            return Err(HttpError::TooLarge { limit: BODY_LIMIT });
        }
        match tokio::time::timeout(BODY_TIMEOUT, collect(&mut self.stream)).await {
            Ok(Err(error @ HttpError::TooLarge { .. })) => {
                self.expects_continue = false;
                self.linger();
                Err(error)
            }
            Ok(result) => result,
            Err(_) => Err(HttpError::BodyTimeout { seconds: BODY_TIMEOUT.as_secs() }),
        }
    }

    /// Answers are not held up by this: it goes on beside them. When it gives up, the connection is closed.
    fn linger(self) {
        // A client that waits for `100 Continue` has sent nothing that would have to be taken off the wire.
        if self.expects_continue || !self.present {
            return;
        }
        tokio::spawn(tokio::time::timeout(LINGER_TIME, async move {
            let mut stream = self.stream;
            let mut taken = 0;
            while let Some(Ok(chunk)) = stream.next().await {
                taken += chunk.len();
                if taken > LINGER_LIMIT {
                    break;
                }
            }
        }));
    }
}

async fn collect(stream: &mut (impl Stream<Item = Result<Bytes, ()>> + Unpin)) -> Result<Bytes, HttpError> {
    let mut stream = pin!(stream);
    let mut body = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|()| HttpError::BodyIncomplete)?;
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(HttpError::TooLarge { limit: BODY_LIMIT });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Tells the client to stop sending.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn an_encoded_slash_belongs_to_its_segment() {
        assert_eq!(split_path("/a%2Fb/c"), ["a/b", "c"]);
        assert_eq!(split_path("/"), [""]);
        assert_eq!(split_path("/vms/"), ["vms", ""]);
        assert_eq!(split_path("/%ff"), ["\u{fffd}"]);
        assert_eq!(split_path("/%zz"), ["%zz"]);
        assert_eq!(split_path(""), [""]);
    }

    #[test]
    fn a_prefix_is_whole_segments_and_the_longest_wins() {
        let empty = || Table::new((), Vec::new());
        let mounts = Mounts::new(vec![("", empty()), ("/hyperv", empty()), ("/hyperv/deep", empty())], None);
        for (path, below) in [
            ("/vms", vec!["vms"]),
            ("/hyperv/vms", vec!["vms"]),
            ("/%68yperv/vms", vec!["vms"]),
            ("/hyperv", vec![]),
            ("/hyperv/deep/vms", vec!["vms"]),
            ("/hypervisor/vms", vec!["hypervisor", "vms"]),
        ] {
            let segments = split_path(path);
            assert_eq!(mounts.find(&segments).unwrap().1, below, "{path}");
        }
    }

    /// A piece of a body that is counted for as long as it is kept.
    struct Piece(Vec<u8>, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Piece {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn a_body_without_end_is_neither_kept_nor_read_for_ever() {
        let (made, kept) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (peak, counters) = (Arc::new(AtomicUsize::new(0)), (made.clone(), kept.clone()));
        let highest = Arc::clone(&peak);
        let endless = futures_util::stream::repeat_with(move || {
            counters.0.fetch_add(1, Ordering::SeqCst);
            let now = counters.1.fetch_add(1, Ordering::SeqCst) + 1;
            highest.fetch_max(now, Ordering::SeqCst);
            Ok::<_, ()>(Bytes::from_owner(Piece(vec![0; 512 * 1024], counters.1.clone())))
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        let read = Incoming::new(endless, &headers).read().await;
        assert_eq!(read, Err(HttpError::TooLarge { limit: BODY_LIMIT }));
        let taken = async {
            while kept.load(Ordering::SeqCst) > 0 || made.load(Ordering::SeqCst) < 200 {
                tokio::task::yield_now().await;
            }
        };
        let taken = tokio::time::timeout(Duration::from_secs(8), taken).await;
        assert!(taken.is_ok(), "what is not wanted is taken off the wire");
        assert!(made.load(Ordering::SeqCst) <= 3 + LINGER_LIMIT / (512 * 1024) + 1);
        assert!(peak.load(Ordering::SeqCst) <= 2, "pieces are let go as they come");
    }
}
