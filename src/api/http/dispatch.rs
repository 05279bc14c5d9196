//! From a request on the wire to its handler and back: one warp filter for all tables.
//!
//! Each handler runs in a task of its own. So a client that hangs up takes its connection along but never cancels an
//! operation under way, but one that only waits for a guest (`waiter`), and a handler that panics costs one 500 and not the connection. Once the server goes down
//! nothing new begins, and whoever still waits at the end of its patience is told so.
//!
//! It does not know what a path means (`table`) nor what a body says (`decode`).

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use percent_encoding::percent_decode_str;
use tokio::sync::oneshot;
use tracing::Instrument;
use warp::filters::BoxedFilter;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::{Buf, Filter};

use super::beside::{self, Beside, Mount, panic_text};
use super::callers::UnderWay;
use super::gate::{self, Admitted, Gate, Visitor};
use super::idempotency::Keyed;
use super::incoming::Incoming;
use super::inflight::InFlight;
use super::request_id::RequestId;
use super::route::{Answer, RouteInfo};
use super::streaming::{self, Lasting};
use super::table::{self, Found};
use super::waiter::Entered;
use super::wire::Refused;
use super::{HttpError, Load, Nulls, Request, Response, Table, Upload, query};
use crate::service::access::Caller;
use crate::service::{Keys, Remembered, asked_by, shown_in};

/// Seconds until a client that was refused because the server goes down may find it back.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// [`filter`] as [`serve`](super::serve()) takes it.
pub fn service(
    mounts: Vec<(&'static str, Table)>,
    remembered: Option<Remembered>,
    gate: Arc<Gate>,
    load: Load,
) -> impl super::connection::Service {
    warp::service(filter(mounts, remembered, gate, load))
}

/// Tables by the path they are mounted at; `""` takes everything that no other prefix does. Where nothing is `remembered` a
/// request's Idempotency-Key is not looked at, and every client waits on the line. Who may come in, `gate` says.
pub fn filter(
    mounts: Vec<(&'static str, Table)>,
    remembered: Option<Remembered>,
    gate: Arc<Gate>,
    load: Load,
) -> BoxedFilter<(Response,)> {
    let mounts = Arc::new(Mounts::new(mounts, remembered, gate, load));
    let raw_query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::any()
        .and(warp::method())
        .and(warp::path::full())
        .and(raw_query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional().map(Option::<InFlight>::unwrap_or_default))
        .and(warp::ext::optional::<Refused>())
        .and(warp::ext::optional::<Arc<Visitor>>())
        .and(warp::body::stream())
        .then(
            move |method,
                  path: warp::path::FullPath,
                  query,
                  headers,
                  in_flight,
                  refused: Option<Refused>,
                  visitor: Option<Arc<Visitor>>,
                  body| {
                let mounts = Arc::clone(&mounts);
                let refused = refused.map(|Refused(error)| error);
                let head = Head { method, query, headers, in_flight, refused, visitor };
                async move {
                    let origin = mounts.gate.page_of(&head.headers);
                    let id = RequestId::of(&head.headers);
                    let response = mounts.answer(path.as_str(), head, &id, body).await;
                    id.seal(mounts.gate.seal(response, origin))
                }
            },
        )
        .boxed()
}

struct Head {
    method: Method,
    query: String,
    headers: HeaderMap,
    in_flight: InFlight,
    refused: Option<HttpError>,
    /// Whom the connection belongs to.
    visitor: Option<Arc<Visitor>>,
}

struct Mounts {
    tables: Vec<(Vec<&'static str>, Table)>,
    remembered: Option<Remembered>,
    gate: Arc<Gate>,
    load: Load,
}

impl Mounts {
    fn new(mounts: Vec<(&'static str, Table)>, remembered: Option<Remembered>, gate: Arc<Gate>, load: Load) -> Self {
        let split = |prefix: &'static str| prefix.split('/').filter(|s| !s.is_empty()).collect::<Vec<_>>();
        let mut tables: Vec<_> = mounts.into_iter().map(|(prefix, table)| (split(prefix), table)).collect();
        // The longest prefix first, so that it is found first.
        tables.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        if let Some(remembered) = &remembered {
            tables.iter().for_each(|(_, table)| beside::go_on(&remembered.operations, table));
        }
        Self { tables, remembered, gate, load }
    }

    /// The table of a path, and the rest of the path below its prefix.
    fn find<'a, 'p>(&self, path: &'a [Cow<'p, str>]) -> Option<(Mount<'_>, &'a [Cow<'p, str>])> {
        self.tables.iter().find_map(|(prefix, table)| {
            let (head, rest) = path.split_at_checked(prefix.len())?;
            (head == prefix.as_slice()).then_some((Mount { table, prefix }, rest))
        })
    }

    async fn answer<B, E>(
        &self,
        path: &str,
        head: Head,
        id: &RequestId,
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
        let place = self.find(&segments);
        let shape = place.map_or(table::plain as table::ErrorShape, |(mount, _)| mount.table.shape());
        if let Some(error) = head.refused {
            return closing(table::refuse(shape, error));
        }
        let admitted = match in_flight.is_draining() {
            true => Err(HttpError::ShuttingDown),
            false => self.gate.admit(&head.method, &head.headers, head.visitor.as_deref()).await,
        };
        let caller = match admitted {
            Ok(Admitted::Caller(caller)) => Ok(caller),
            Ok(Admitted::Preflight) => {
                body.linger();
                return self.gate.preflight();
            }
            Err(HttpError::Unauthenticated { .. }) if is_open(place, &head.method) => {
                Ok(gate::somebody(head.visitor.as_deref()))
            }
            Err(error) => Err(error),
        };
        // An answer to HEAD is made like one to GET: hyper leaves its body out and keeps its length.
        let found = caller.and_then(|caller| {
            let (mount, rest) = place.ok_or(HttpError::NoSuchPath)?;
            let found = mount.table.find(&head.method, rest)?;
            may(&caller, found.info)?;
            let under_way = self.load.callers.enter(&caller.name, found.info.may_be_urgent(caller.role))?;
            Ok((mount, found, caller, under_way))
        });
        let response = match found {
            Err(error) => {
                body.linger();
                table::refuse(shape, error)
            }
            Ok((mount, found, caller, under_way)) => {
                let end = in_flight.given_up(found.info.waits_for_guest);
                let place = (mount, self.remembered.as_ref());
                tokio::select! {
                    response = run(place, found, (caller, id), (under_way, self), head, body) => response,
                    () = end => table::refuse(shape, HttpError::Unfinished),
                }
            }
        };
        let response = self.load.answers.admit(response).unwrap_or_else(|error| table::refuse(shape, error));
        // Another protocol takes its leave in its own words.
        let leaves = in_flight.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS;
        if leaves { leaving(response) } else { response }
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
    (mount, remembered): (Mount<'_>, Option<&Remembered>),
    found: Found<'_>,
    (caller, id): (Caller, &RequestId),
    (under_way, mounts): (UnderWay, &Mounts),
    head: Head,
    body: Incoming<T>,
) -> Response
where
    T: Stream<Item = Result<Bytes, ()>> + Send + Unpin + 'static,
{
    let Found { info, handler, params } = found;
    let (role, shape, dialect) = (caller.role, mount.table.shape(), mount.table.dialect_name());
    let refuse = move |error: HttpError| table::refuse(shape, error.for_role(role));
    let query = match query::parse(&head.query, info.query) {
        Ok(query) => query,
        Err(error) => {
            body.linger();
            return refuse(error);
        }
    };
    let (body, upload) = match Upload::or_whole(info.upload, body).await {
        // Too large is told when the handler asks; a body that never came means that there is no request.
        (Err(error), _) if !matches!(error, HttpError::TooLarge { .. }) => return closing(refuse(error)),
        taken => taken,
    };
    let too_large = body.is_err();
    let nulls = if info.method == Method::PUT { Nulls::Clear } else { Nulls::Absent };
    let mut request =
        Request { params, query, headers: head.headers, body, upload, nulls, makes: None, goes_on: false, caller };
    let keys = remembered.filter(|_| info.method == Method::POST).map(|remembered| (&remembered.keys, dialect));
    let keyed = match keys.map(|keys| keyed(keys, info, &head.query, &request)) {
        Some(Err(error)) => return refuse(error),
        Some(Ok(keyed)) => keyed,
        None => None,
    };

    let under_way = if info.is_urgent(&request) { Ok(under_way) } else { under_way.queue_up() };
    let under_way = match under_way {
        Ok(under_way) => under_way,
        Err(error) => return refuse(error),
    };
    let asker = id.asker(&request.caller);
    let beside = remembered.and_then(|remembered| {
        let key = keyed.as_ref().map(Keyed::digests);
        Beside::wanted(&remembered.operations, mount, info, &request, &asker, key)
    });
    if let Some(beside) = &beside {
        match beside.begun_before().await {
            Ok(None) => request.makes = beside.makes(),
            Ok(Some(begun)) => return begun,
            Err(error) => return refuse(error),
        }
    }
    let made = beside.as_ref().map(Beside::made);
    // What goes on by itself is not waited for.
    let in_flight = head.in_flight;
    let guard = (!info.waits_for_guest).then(|| in_flight.enter());
    let span = tracing::info_span!("request", operation = info.operation_id, id = id.as_str());
    // What is kept under a key is waited for by whoever asks next.
    let only_waits = (info.waits_for_guest && keyed.is_none()).then(Entered::default);
    let (answers, gate) = (Arc::clone(&mounts.load.answers), Arc::clone(&mounts.gate));
    let caller = request.caller.clone();
    let operation = async move {
        let respond = move |answer: Answer| answer.unwrap_or_else(refuse);
        let mut response = match keyed {
            None => respond(handler(request).await),
            Some(keyed) => {
                let run = async move |id| {
                    request.makes = Some(id);
                    if let Some(made) = made {
                        made.is(id).await;
                    }
                    respond(handler(request).await)
                };
                keyed.answer(run, refuse).await
            }
        };
        if streaming::lasts(&response) {
            let guard = guard.unwrap_or_else(|| in_flight.enter());
            response.extensions_mut().insert(Lasting::new(answers, gate.vigil(&caller), guard, under_way));
        }
        response
    };
    let operation = asked_by(asker, operation).instrument(span);
    if let Some(beside) = beside {
        let (reply, answer) = oneshot::channel();
        let failed = move |why| {
            tracing::error!(why, "a handler panicked");
            refuse(HttpError::Internal { why })
        };
        let operation = shown_in(beside.progress.clone(), operation);
        tokio::spawn(beside.run(operation, reply, failed));
        return answer.await.unwrap_or_else(|_| refuse(HttpError::ShuttingDown));
    }
    let (task, _waiter) = match only_waits {
        None => (tokio::spawn(operation), None),
        Some(entered) => {
            let task = tokio::spawn(entered.clone().by(operation));
            let waiter = entered.waiter(task.abort_handle());
            (task, Some(waiter))
        }
    };
    let response = match task.await {
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

/// Whether whoever reaches this host may ask for it.
fn is_open(place: Option<(Mount<'_>, &[Cow<'_, str>])>, method: &Method) -> bool {
    let found = place.and_then(|(mount, rest)| mount.table.find(method, rest).ok());
    found.is_some_and(|found| found.info.is_open)
}

/// # Errors
/// [`HttpError::Forbidden`].
fn may(caller: &Caller, route: &RouteInfo) -> Result<(), HttpError> {
    if caller.role >= route.role {
        return Ok(());
    }
    tracing::info!(caller = caller.name, role = %caller.role, operation = route.operation_id, "refused");
    Err(HttpError::Forbidden { name: caller.name.clone(), role: caller.role, needed: route.role })
}

/// Two requests are the same one when they mean the same: wherever the table is mounted, whatever their headers say.
fn keyed(
    (keys, dialect): (&Arc<Keys>, &'static str),
    info: &RouteInfo,
    query: &str,
    request: &Request,
) -> Result<Option<Keyed>, HttpError> {
    let params = request.params.iter().map(|(_, value)| value.as_bytes());
    let body = request.body.as_deref().unwrap_or_default();
    let parts: Vec<&[u8]> = [info.operation_id.as_bytes(), query.as_bytes(), body].into_iter().chain(params).collect();
    Keyed::new(keys.clone(), &request.headers, [&request.caller.name, dialect], &parts)
}

/// Tells the client to stop sending.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mounts = Mounts::new(
            vec![("", empty()), ("/hyperv", empty()), ("/hyperv/deep", empty())],
            None,
            Gate::closed(),
            Load::new(1 << 20, 100),
        );
        for (path, below) in [
            ("/vms", vec!["vms"]),
            ("/hyperv/vms", vec!["vms"]),
            ("/%68yperv/vms", vec!["vms"]),
            ("/hyperv", vec![]),
            ("/hyperv/deep/vms", vec!["vms"]),
            ("/hypervisor/vms", vec!["hypervisor", "vms"]),
        ] {
            let segments = split_path(path);
            assert_eq!(mounts.find(&segments).map(|(_, rest)| rest).unwrap(), below, "{path}");
        }
    }
}
