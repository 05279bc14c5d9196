//! What the two ends of hyper have to tell each other about one connection: the wire below it, which gives it heads, and
//! the service above it, which gives it answers.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::api::http::{HttpError, answers::Held};

/// A client that takes nothing for so long has less of a claim to its place than who has just come.
const STALLED: Duration = Duration::from_secs(1);

/// Bytes of an answer that hyper is given at once.
const PIECE: usize = 64 * 1024;

/// The requests of one connection.
pub struct Turns(Mutex<State>);

struct State {
    /// Heads that hyper was given, and requests that came out of it.
    begun: usize,
    served: usize,
    /// Answers that have been written.
    ended: usize,
    quiet_since: Instant,
    /// The last head was none; this is why.
    refusal: Option<HttpError>,
    last: bool,
    upgraded: bool,
    /// Since when the client takes nothing of what it asked for.
    stalled: Option<Instant>,
}

/// An extension of a request that stands for what was none: the objection, to be told in the dialect's shape.
#[derive(Debug, Clone)]
pub struct Refused(pub HttpError);

/// For how long nobody has had anything to say.
pub struct Silence {
    pub since: Instant,
}

impl Turns {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            begun: 0,
            served: 0,
            ended: 0,
            quiet_since: Instant::now(),
            refusal: None,
            last: false,
            upgraded: false,
            stalled: None,
        })))
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hyper is given a head.
    pub fn begin(&self) {
        self.state().begun += 1;
    }

    /// Hyper is given a head in the place of what was none.
    pub fn refuse(&self, error: HttpError) {
        let mut state = self.state();
        state.begun += 1;
        state.refusal = Some(error);
    }

    /// A request has come out of hyper: its turn, and the objection where it stands for what was none.
    pub fn serve(self: &Arc<Self>) -> (Turn, Option<HttpError>) {
        let mut state = self.state();
        state.served += 1;
        // Nothing is read after a refusal, so it is the last of all.
        let refused = if state.served == state.begun { state.refusal.take() } else { None };
        (Turn(Arc::clone(self)), refused)
    }

    /// `None` while something is asked or answered.
    pub fn silence(&self) -> Option<Silence> {
        let state = self.state();
        (state.begun == state.ended).then_some(Silence { since: state.quiet_since })
    }

    /// The client takes nothing of its answer from now on.
    pub fn stalls(&self) {
        self.state().stalled = Some(Instant::now());
    }

    /// The client takes something again.
    pub fn moves(&self) {
        self.state().stalled = None;
    }

    /// Since when the client has neither said nor taken anything, if that is what is waited for.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        if state.begun == state.ended && !state.upgraded {
            return Some(state.quiet_since);
        }
        state.stalled.filter(|since| since.elapsed() >= STALLED)
    }

    /// The next answer is the last one.
    pub fn make_last(&self) {
        self.state().last = true;
    }

    pub fn is_last(&self) -> bool {
        self.state().last
    }

    /// From now on another protocol is spoken.
    pub fn upgrade(&self) {
        self.state().upgraded = true;
    }

    pub fn is_upgraded(&self) -> bool {
        self.state().upgraded
    }
}

/// One request, until its answer is written or given up.
pub struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.ended += 1;
        state.quiet_since = Instant::now();
    }
}

impl Turn {
    /// The body of its answer; when hyper has written it, the turn ends.
    pub(in crate::api::http) fn body<B>(self, body: B, held: Option<Held>) -> TurnBody<B> {
        TurnBody { body, rest: Bytes::new(), large: false, _turn: self, _held: held }
    }
}

pub struct TurnBody<B> {
    body: B,
    /// Of the last frame, what was not given yet.
    rest: Bytes,
    large: bool,
    _turn: Turn,
    _held: Option<Held>,
}

impl<B> TurnBody<B> {
    /// What hyper is given next. It keeps what it was given until that is written, so it gets no more than a piece at a
    /// time; and of something large a copy, for a piece of it would keep the whole.
    fn piece(&mut self) -> Bytes {
        if self.rest.len() <= PIECE && !self.large {
            return std::mem::take(&mut self.rest);
        }
        let piece = Bytes::copy_from_slice(&self.rest[..self.rest.len().min(PIECE)]);
        self.rest.advance(piece.len());
        if self.rest.is_empty() {
            (self.rest, self.large) = (Bytes::new(), false);
        }
        piece
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TurnBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => (this.large, this.rest) = (data.len() > PIECE, data),
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(this.piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, hint) = (self.rest.len() as u64, self.body.size_hint());
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper.saturating_add(rest));
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_silence_when_every_head_has_its_answer() {
        let turns = Turns::new();
        assert!(turns.silence().is_some());
        turns.begin();
        turns.begin();
        assert!(turns.silence().is_none());
        let ((one, no), (two, nor)) = (turns.serve(), turns.serve());
        assert!(no.is_none() && nor.is_none());
        drop(one);
        assert!(turns.silence().is_none());
        drop(two);
        assert!(turns.silence().is_some());
    }

    #[tokio::test]
    async fn a_refusal_is_for_the_request_that_stands_for_it() {
        let turns = Turns::new();
        turns.begin();
        turns.refuse(HttpError::BadHead { why: "x" });
        assert!(turns.serve().1.is_none());
        assert_eq!(turns.serve().1, Some(HttpError::BadHead { why: "x" }));
    }

    #[tokio::test]
    async fn a_large_body_comes_in_pieces_that_do_not_keep_it() {
        use http_body_util::{BodyExt, Full};
        let (turn, _) = Turns::new().serve();
        let whole: Vec<u8> = (0..PIECE * 5 / 2).map(|n| n as u8).collect();
        let mut body = turn.body(Full::new(Bytes::from(whole.clone())), None);
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        let mut pieces = Vec::new();
        while !body.is_end_stream() {
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(body.size_hint().exact(), Some((whole.len() - pieces.len() - piece.len()) as u64));
            assert!(piece.len() <= PIECE);
            pieces.extend_from_slice(&piece);
        }
        assert_eq!(pieces, whole);
    }
}
