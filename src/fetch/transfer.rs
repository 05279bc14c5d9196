//! One file on its way: asked for, redirected, and taken up again where it broke off, where the server allows that and it is
//! known to be the same file still.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout};

use super::{
    FetchError, Fetcher, Patience, Place,
    connect::{NoWay, Sender},
};

/// Redirects that are followed.
const REDIRECTS: usize = 10;
/// Attempts in a row that bring less than [`PROGRESS`] bytes.
const ATTEMPTS: u32 = 5;
const PROGRESS: u64 = 16 << 20;
/// How often it is begun anew, because what was there could not be gone on with.
const BEGINNINGS: u32 = 3;
/// The least that has to come in so much time, as of what is sent to the daemon.
const WINDOW: Duration = Duration::from_secs(60);
const LEAST: u64 = 4096 * 60;
const AGENT: &str = concat!("qherd/", env!("CARGO_PKG_VERSION"));

/// A file on its way. Its pieces come in runs: one, where nothing breaks off.
pub struct Transfer {
    fetcher: Fetcher,
    /// As it was asked for.
    source: Place,
    /// Where the file was found, which is asked first when it goes on.
    found: Option<Place>,
    is_checked: bool,
    known: Option<Known>,
    /// In a row.
    attempts: u32,
    beginnings: u32,
    /// What was there when the last one began.
    at: u64,
}

/// What was said of the file when it began.
#[derive(Clone, Debug)]
struct Known {
    length: Option<u64>,
    /// What tells this version of it from another.
    validator: Option<HeaderValue>,
}

/// Pieces, from somewhere on.
pub struct Run {
    /// Where in the file it begins: behind what is there, or at the beginning, and then what is there is void.
    pub from: u64,
    /// Of the whole file, where the server says it.
    pub length: Option<u64>,
    body: Incoming,
    _sender: Sender,
    patience: Patience,
    window: (Instant, u64),
}

/// Why a run ended too early; it may go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

/// What came of one question.
enum Answer {
    Run(Run),
    Redirect(String),
    /// What is there is of no use.
    Anew,
}

impl Transfer {
    pub(super) fn new(fetcher: Fetcher, source: Place, is_checked: bool) -> Self {
        Self { fetcher, source, found: None, is_checked, known: None, attempts: 0, beginnings: 0, at: 0 }
    }

    /// The next run, for a file of which so many bytes are there.
    ///
    /// # Errors
    /// [`FetchError`], when it has been tried often enough.
    pub async fn run(&mut self, have: u64) -> Result<Run, FetchError> {
        let mut have = have;
        loop {
            if have > 0 && !self.may_go_on() {
                have = 0;
            }
            match self.ask(have).await {
                Ok(Some(run)) => {
                    if run.from == 0 {
                        self.begins_anew()?;
                    }
                    self.at = run.from;
                    return Ok(run);
                }
                Ok(None) => have = 0,
                Err(NoWay::For(error)) => return Err(error),
                // Nothing ever came from there: whoever gave the address sees best what is wrong with it.
                Err(NoWay::Now(why)) if self.beginnings == 0 => {
                    return Err(FetchError::Unsuitable(format!("lead to a server that sends the file, but {why}")));
                }
                Err(NoWay::Now(why)) => self.broke(have, Broken(why)).await?,
            }
        }
    }

    /// A run has ended too early, with so many bytes there. Returns when it may be tried again.
    ///
    /// # Errors
    /// [`FetchError::Elsewhere`], when it has been tried often enough.
    pub async fn broke(&mut self, have: u64, why: Broken) -> Result<(), FetchError> {
        self.attempts = if have >= self.at.saturating_add(PROGRESS) { 1 } else { self.attempts + 1 };
        if self.attempts >= ATTEMPTS {
            let so_far = if have > 0 { format!(" after {have} bytes") } else { String::new() };
            return Err(FetchError::Elsewhere(format!("{why}{so_far}; it was tried {ATTEMPTS} times")));
        }
        tracing::info!(from = %self.source.host(), have, %why, "a transfer has broken off, and is tried again");
        sleep(self.fetcher.patience.pause * 2_u32.pow(self.attempts - 1)).await;
        Ok(())
    }

    /// Whether it could be told if it was another file by now.
    fn may_go_on(&self) -> bool {
        self.is_checked || self.known.as_ref().is_some_and(|known| known.validator.is_some())
    }

    fn begins_anew(&mut self) -> Result<(), FetchError> {
        self.beginnings += 1;
        match self.beginnings > BEGINNINGS {
            true => Err(FetchError::Elsewhere(format!(
                "{} breaks off, and does not go on where it did; it was begun {BEGINNINGS} times",
                self.source.host()
            ))),
            false => Ok(()),
        }
    }

    /// Asks where it was found last, and follows where that leads. None where it has to begin anew.
    async fn ask(&mut self, have: u64) -> Result<Option<Run>, NoWay> {
        let found = self.found.take();
        let may_have_moved = found.is_some();
        let mut place = found.unwrap_or_else(|| self.source.clone());
        for _ in 0..=REDIRECTS {
            match self.ask_at(&place, have, may_have_moved).await? {
                Answer::Run(run) => {
                    self.found = Some(place);
                    return Ok(Some(run));
                }
                Answer::Anew => return Ok(None),
                Answer::Redirect(to) => place = place.redirected(&to, self.is_checked).map_err(NoWay::For)?,
            }
        }
        Err(NoWay::For(FetchError::Unsuitable(format!("lead to a file within {REDIRECTS} redirects"))))
    }

    async fn ask_at(&mut self, place: &Place, have: u64, may_have_moved: bool) -> Result<Answer, NoWay> {
        let mut sender = self.fetcher.connect(place).await?;
        let request = self.request(place, have).map_err(|error| {
            NoWay::For(FetchError::Unsuitable(format!("be what a server can be asked for: {error}")))
        })?;
        let now = |why: &dyn std::fmt::Display| NoWay::Now(format!("{}: {why}", place.host()));
        let answer = timeout(self.fetcher.patience.silence, sender.send_request(request)).await;
        let (head, body) = answer.map_err(|_| now(&"it does not answer"))?.map_err(|error| now(&error))?.into_parts();
        let text = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let unsuitable = |must: String| NoWay::For(FetchError::Unsuitable(must));
        match head.status {
            StatusCode::OK => {
                let known = Known::of(&head.headers);
                if known.length.is_none() && !is_chunked(&head.headers) && !self.is_checked {
                    return Err(unsuitable(format!(
                        "be given with the sha256 of the file: {} does not say how long it is, so nobody could tell whether all \
                         of it came",
                        place.host()
                    )));
                }
                let length = known.length;
                self.known = Some(known);
                Ok(Answer::Run(self.began(0, length, body, sender)))
            }
            StatusCode::PARTIAL_CONTENT if have > 0 => match text(header::CONTENT_RANGE).and_then(content_range) {
                Some((from, length)) if from == have && self.is_same_length(length) => {
                    let length = length.or(self.known.as_ref().and_then(|known| known.length));
                    Ok(Answer::Run(self.began(have, length, body, sender)))
                }
                _ => Ok(Answer::Anew),
            },
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => Ok(Answer::Anew),
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => match text(header::LOCATION) {
                Some(to) => Ok(Answer::Redirect(to.to_owned())),
                None => {
                    Err(unsuitable(format!("lead to a file, but {} redirects without saying where to", place.host())))
                }
            },
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(now(&format!("it answers {}", head.status)))
            }
            status if status.is_server_error() => Err(now(&format!("it answers {status}"))),
            _ if may_have_moved => Err(now(&format!("it answers {}", head.status))),
            status => Err(unsuitable(format!("lead to a file, but {} answers {status}", place.host()))),
        }
    }

    fn request(&self, place: &Place, have: u64) -> http::Result<Request<Empty<Bytes>>> {
        let request = Request::get(place.target()).header(header::HOST, place.host());
        let request = request.header(header::USER_AGENT, AGENT).header(header::ACCEPT_ENCODING, "identity");
        if have == 0 {
            return request.body(Empty::new());
        }
        let validator = self.known.iter().find_map(|known| known.validator.clone());
        let request = request.header(header::RANGE, format!("bytes={have}-"));
        validator.into_iter().fold(request, |request, is| request.header(header::IF_RANGE, is)).body(Empty::new())
    }

    fn is_same_length(&self, length: Option<u64>) -> bool {
        let known = self.known.as_ref().and_then(|known| known.length);
        known.zip(length).is_none_or(|(known, length)| known == length)
    }

    fn began(&self, from: u64, length: Option<u64>, body: Incoming, sender: Sender) -> Run {
        Run { from, length, body, _sender: sender, patience: self.fetcher.patience, window: (Instant::now(), 0) }
    }
}

impl Known {
    fn of(headers: &HeaderMap) -> Self {
        let tag = headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
        let validator = tag.or_else(|| headers.get(header::LAST_MODIFIED)).cloned();
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { length, validator }
    }
}

impl Run {
    /// The pieces in their order. They end without an error only when all of the file has come.
    pub fn pieces(self) -> impl Stream<Item = Result<Bytes, Broken>> + Unpin + Send {
        let at = self.from;
        Box::pin(stream::try_unfold((self, at), async |(mut run, at)| {
            let piece = run.next().await?;
            match (piece, run.length) {
                (Some(piece), _) => {
                    let at = at + piece.len() as u64;
                    Ok(Some((piece, (run, at))))
                }
                (None, Some(length)) if at < length => Err(Broken(format!("it ended at {at} of {length} bytes"))),
                (None, _) => Ok(None),
            }
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            let silent = || Broken(format!("nothing came for {} s", self.patience.silence.as_secs()));
            let frame = timeout(self.patience.silence, self.body.frame()).await.map_err(|_| silent())?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| Broken(format!("it broke off: {error}")))?;
            let Ok(piece) = frame.into_data() else { continue };
            let (since, count) = &mut self.window;
            *count += piece.len() as u64;
            if since.elapsed() >= WINDOW {
                if *count < LEAST {
                    return Err(Broken("it comes more slowly than 4 KiB a second".to_owned()));
                }
                self.window = (Instant::now(), 0);
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let value = headers.get(header::TRANSFER_ENCODING).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.trim_end().to_ascii_lowercase().ends_with("chunked"))
}

/// `bytes 5-9/10`: where it begins, and how long the whole is, where that is said.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, length) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let length = if length == "*" { None } else { Some(length.parse().ok()?) };
    Some((first.trim().parse().ok()?, length))
}
