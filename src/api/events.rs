//! `GET /events` as both dialects have it: where to begin, which events, the stream of server-sent events, and a long poll for
//! clients without. How a dialect writes an event is its own business.

use std::{
    io,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;
use warp::http::StatusCode;

use super::{
    http::{Draft, HttpError, QueryParam, Reply, Request, Route},
    labels,
};
use crate::{
    model::{About, EVENT_TYPES, Event, Role, VmId},
    service::{
        Service,
        events::{After, Entry, Filter, Follower, Lost, Place},
    },
};

/// Seconds that a long poll may wait.
const LONGEST_WAIT: i64 = 300;
/// Seconds that somebody waits for what a VM comes to.
const DEFAULT_TIME: i64 = 30;
const LONGEST_TIME: i64 = 3_600;
/// What a client waits before it comes again.
const RETRY_MS: u64 = 1_000;
/// Without events for so long, a client is shown that somebody is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// Bytes from which on no more events are added to a frame.
const ENOUGH: usize = 8 * 1024;
/// What those are told whom a daemon that ends leaves.
const ENDS: &str = ": qherd ends; come back\n\n";
const DISMISSED: &str = ": the token was revoked or has expired\n\n";
const EVENT_STREAM: &str = "text/event-stream";
/// What types begin with.
const ABOUT: [&str; 6] = ["vm", "switch", "image", "volume", "host", "operation"];
const DEFAULT_LIMIT: i64 = 100;
const MOST: i64 = 1_000;
/// What EventSource sends when it connects again.
const LAST_EVENT_ID: &str = "last-event-id";

pub(super) const AFTER: QueryParam = QueryParam::text(
    "after",
    "Begin after the event with this id, or with 0 at the oldest that is kept; default: what comes from now on. The header \
     Last-Event-ID says the same, and counts where both are given.",
);
pub(super) const TYPE: QueryParam = QueryParam::text(
    "type",
    "Only events of these types, separated by commas: vm.created, vm.changed, vm.deleted, vm.goal, vm.status, vm.agent, \
     vm.in_effect, vm.reset, vm.powered_off, vm.panicked, vm.io_error, vm.watchdog, vm.guest, vm.problem, switch.created, \
     switch.changed, switch.deleted, switch.problem, image.created, image.changed, image.deleted, volume.created, volume.deleted, \
     host.warnings, operation.begun, operation.progress, operation.ended; or all of vm, of switch, of image, of volume, of host, or \
     of operation.",
);
pub(super) const LABEL: QueryParam = QueryParam::form(
    "label",
    labels::FORM,
    "Only events of VMs that had these labels then, with commas between them: `env=prod,tier`; a key alone takes any value. What \
     changes labels is found by those before and those after it.",
);
pub(super) const WAIT: QueryParam = QueryParam::whole(
    "wait",
    0,
    300,
    "Answer with JSON: at once where there are events, else as soon as there is one, and with none after so many seconds (0 to \
     300). Without it the answer is a stream of server-sent events.",
);
pub(super) const LIMIT: QueryParam =
    QueryParam::whole("limit", 1, 1000, "At most so many events with `wait`; default 100.");

/// Its row of the route table. `B` is how several are written.
pub(super) fn route<S: 'static, B: JsonSchema>(
    draft: Draft<S>,
    tag: &'static str,
    query: &'static [QueryParam],
    example: &'static str,
) -> Route<S> {
    let happens = "What happens to VMs, switches, images, volumes and the host, as it happens and since: who asked for what, and what became of it.";
    draft
        .role(Role::Viewer)
        .tag(tag)
        .summary(happens)
        .query(query)
        .waits_for_guest()
        .output_stream("As they happen, without `wait`.", EVENT_STREAM, example)
        .output::<B>(200, "With `wait`: those that there are.")
        .error(410, "What follows is not kept any more; `detail` is where to begin.")
}

/// A stream, or with `wait` those that there are: `one` writes an event, and `several` many with where to go on.
///
/// # Errors
/// As [`wish`] and [`poll`].
pub(super) async fn answer<T: Serialize + 'static, B: Serialize>(
    service: &Arc<Service>,
    request: &Request,
    vm: Option<VmId>,
    one: fn(Place, &Entry) -> T,
    several: fn(Vec<T>, String) -> B,
) -> Result<Reply, HttpError> {
    let (wish, role) = (wish(service, request, vm)?, request.caller.role);
    let one = move |place: Place, entry: &Entry| match role {
        Role::Viewer => {
            let Entry { number, event } = entry.clone();
            one(place, &Entry { number, event: Event { what: event.what.shown_to(role), ..event } })
        }
        Role::Operator | Role::Admin => one(place, entry),
    };
    let Some(wait) = wish.wait else {
        let data = move |place: Place, entry: &Entry| serde_json::to_string(&one(place, entry));
        let stream = stream(wish, data);
        return Ok(Reply::stream(EVENT_STREAM, stream).until_the_end(ENDS).until_dismissed(DISMISSED));
    };
    let (found, next) = poll(wish, wait).await?;
    let events = found.iter().map(|(place, entry)| one(*place, entry)).collect();
    Ok(Reply::json(StatusCode::OK, &several(events, next.to_string())))
}

/// What an event is about, by the ids that there are.
#[derive(Default)]
pub(super) struct Subject {
    pub vm: Option<String>,
    pub switch: Option<String>,
    pub image: Option<String>,
    pub volume: Option<String>,
    pub operation: Option<String>,
    /// Of an operation.
    pub kind: Option<String>,
    pub name: String,
}

impl Subject {
    pub fn of(about: &About) -> Self {
        let none = Self::default();
        match about.clone() {
            About::Vm { id, name, .. } => Self { vm: Some(id.to_string()), name, ..none },
            About::Switch { id, name } => Self { switch: Some(id.to_string()), name, ..none },
            About::Image { id, name } => Self { image: Some(id.to_string()), name, ..none },
            About::Volume { id, name } => Self { volume: Some(id.to_string()), name, ..none },
            About::Host => Self { name: "host".to_owned(), ..none },
            About::Operation { id, kind, vm, switch, name, .. } => Self {
                vm: vm.map(|vm| vm.to_string()),
                switch: switch.map(|switch| switch.to_string()),
                image: None,
                volume: None,
                operation: Some(id.to_string()),
                kind: Some(kind),
                name,
            },
        }
    }
}

/// What a query says.
struct Wish {
    wait: Option<Duration>,
    limit: usize,
    follower: Follower,
}

/// The query of both dialects but for the VM, whose id each reads in its own way.
#[derive(serde::Deserialize)]
struct EventsQuery {
    after: Option<String>,
    r#type: Option<String>,
    label: Option<String>,
    wait: Option<i64>,
    limit: Option<i64>,
}

/// # Errors
/// 400 for what is not understood, 410 where what follows is not kept any more.
fn wish(service: &Arc<Service>, request: &Request, vm: Option<VmId>) -> Result<Wish, HttpError> {
    let query: EventsQuery = request.query()?;
    let types: Vec<String> =
        query.r#type.iter().flat_map(|list| list.split(',')).map(|one| one.trim().to_owned()).collect();
    let is_known = |one: &String| ABOUT.contains(&one.as_str()) || EVENT_TYPES.contains(&one.as_str());
    if !types.iter().all(is_known) {
        let must =
            format!("be one of {}, {}, or several separated by commas", ABOUT.join(", "), EVENT_TYPES.join(", "));
        return Err(HttpError::invalid("type", must));
    }
    let ranged = |name: &str, value: i64, least: i64, most: i64| {
        let fits = (least..=most).contains(&value);
        fits.then_some(value as u64).ok_or_else(|| HttpError::invalid(name, format!("be from {least} to {most}")))
    };
    let wait = query.wait.map(|wait| ranged("wait", wait, 0, LONGEST_WAIT)).transpose()?;
    if wait.is_none() && query.limit.is_some() {
        return Err(HttpError::invalid("limit", "be given with wait: a stream has no end"));
    }
    let limit = ranged("limit", query.limit.unwrap_or(DEFAULT_LIMIT), 1, MOST)?;
    let after = after(request, query.after.as_deref())?;
    let follower = service
        .events()
        .follow(after, Filter { vm, types, labels: labels::read(query.label.as_deref())? })
        .map_err(lost)?;
    Ok(Wish { wait: wait.map(Duration::from_secs), limit: limit as usize, follower })
}

fn after(request: &Request, query: Option<&str>) -> Result<Option<After>, HttpError> {
    let header = request.headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?"));
    let read = |name: &str, text: &str| text.parse::<After>().map_err(|must| HttpError::invalid(name, must));
    match (header, query) {
        (Some(text), _) if !text.is_empty() => read("Last-Event-ID", text).map(Some),
        (_, Some(text)) => read("after", text).map(Some),
        (_, None) => Ok(None),
    }
}

fn lost(lost: Lost) -> HttpError {
    match lost {
        Lost::Gone { begin } => HttpError::EventsGone { begin: begin.to_string() },
        Lost::Store(error) => HttpError::Internal { why: error.to_string() },
        Lost::Closed => HttpError::ShuttingDown,
    }
}

/// What there is, or comes within the time; and where to go on.
///
/// # Errors
/// 410 where what follows is not kept any more.
async fn poll(mut wish: Wish, wait: Duration) -> Result<(Vec<(Place, Arc<Entry>)>, Place), HttpError> {
    let end = Instant::now() + wait;
    let mut found = Vec::new();
    while found.len() < wish.limit {
        // Once there is one, only what is there already is added to it.
        let until = if found.is_empty() { end } else { Instant::now() };
        let Some(entry) = wish.follower.next_until(until).await.map_err(lost)? else { break };
        found.push((wish.follower.place_of(&entry), entry));
    }
    Ok((found, wish.follower.place()))
}

/// The stream of server-sent events. `data` writes an event on one line.
fn stream(
    wish: Wish,
    data: impl Fn(Place, &Entry) -> serde_json::Result<String> + Send + Sync + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    // A client whose connection breaks before the first event knows where it was.
    let place = wish.follower.place();
    let hello = format!("retry: {RETRY_MS}\nid: {place}\n\n");
    let begin = Stage::Begins(hello);
    stream::unfold((wish.follower, begin, data), |(mut follower, stage, data)| async move {
        let (frame, next) = match stage {
            Stage::Begins(hello) => (hello, Stage::Goes),
            Stage::Over => return None,
            Stage::Goes => match frame(&mut follower, &data).await {
                Ok(frame) => (frame, Stage::Goes),
                Err(lost) => (farewell(&lost), Stage::Over),
            },
        };
        Some((Ok(Bytes::from(frame)), (follower, next, data)))
    })
}

enum Stage {
    Begins(String),
    Goes,
    Over,
}

/// What comes next, with what is there besides; or a sign of life, with how far events that nobody wanted have led.
async fn frame(
    follower: &mut Follower,
    data: &(impl Fn(Place, &Entry) -> serde_json::Result<String> + Sync),
) -> Result<String, Lost> {
    let before = follower.place();
    let mut frame = String::new();
    let mut until = Instant::now() + SIGN_OF_LIFE;
    while let Some(entry) = follower.next_until(until).await? {
        let place = follower.place_of(&entry);
        match data(place, &entry) {
            Ok(data) => frame += &format!("id: {place}\nevent: {}\ndata: {data}\n\n", entry.event.kind()),
            Err(error) => tracing::error!(%place, %error, "an event cannot be written"),
        }
        if frame.len() > ENOUGH {
            return Ok(frame);
        }
        until = Instant::now();
    }
    if frame.is_empty() {
        frame =
            if follower.place() == before { ":\n\n".to_owned() } else { format!(":\nid: {}\n\n", follower.place()) };
    }
    Ok(frame)
}

/// The last that a client hears, as a comment.
fn farewell(lost: &Lost) -> String {
    match lost {
        Lost::Gone { begin } => format!(": too slow: what follows is not kept any more; begin with after={begin}\n\n"),
        Lost::Store(_) => ": the events cannot be read any more; qherd has to be started anew\n\n".to_owned(),
        Lost::Closed => ENDS.to_owned(),
    }
}

/// How long somebody waits for what a VM comes to.
///
/// # Errors
/// 400.
pub(super) fn wait_time(timeout: Option<i64>) -> Result<Duration, HttpError> {
    match timeout.unwrap_or(DEFAULT_TIME) {
        seconds @ 1..=LONGEST_TIME => Ok(Duration::from_secs(seconds as u64)),
        _ => Err(HttpError::invalid("timeout", format!("be from 1 to {LONGEST_TIME} (seconds)"))),
    }
}

/// `2026-11-27T20:50:00.123Z`.
pub(super) fn written(at: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at)).to_string()
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::service::events::passed_by;

    #[tokio::test]
    async fn a_reader_that_the_window_has_passed_is_told_where_to_begin_as_the_last_it_hears() {
        let (_dir, follower) = passed_by().await;
        let log = format!("{:08x}", follower.place().log.as_fields().0);
        let wish = Wish { wait: None, limit: 1, follower };
        let frames: Vec<_> = stream(wish, |place, _| Ok(place.to_string())).collect().await;
        let text: String =
            frames.into_iter().map(|frame| String::from_utf8(frame.unwrap().to_vec()).unwrap()).collect();
        let last = ": too slow: what follows is not kept any more; begin with after=";
        let (before, begin) = text.split_once(last).unwrap_or_else(|| panic!("{text}"));
        // What it was about to be given before that is as it was.
        assert!(before.starts_with(&format!("retry: {RETRY_MS}\nid: {log}-0\n\n")), "{before}");
        assert_eq!(begin, format!("{log}-261\n\n"));
    }
}
